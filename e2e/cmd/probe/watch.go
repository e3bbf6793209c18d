package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Report is what watch saw of each file, by path.
type Report map[string]*FileReport

// FileReport sums up the reads of one file.
type FileReport struct {
	Reads int `json:"reads"`
	// Contents is how many different complete tokens were read.
	Contents int `json:"contents"`
	// Renames is how often inotify said that the file was replaced by a rename.
	Renames int `json:"renames"`
	// InPlace is how often inotify said that the file itself was opened for writing.
	InPlace int `json:"inPlace"`
	// Violations are reads that broke the contract, at most ten of them: missing, empty, partial, expired.
	Violations []string `json:"violations"`
	// Modes are the different "mode uid:gid" of the file over time.
	Modes []string `json:"modes"`
	// ExpiredSeconds is for how long a reader would have read an expired token.
	ExpiredSeconds float64 `json:"expiredSeconds"`
	// Tokens are the complete tokens in the order in which they came.
	Tokens []seenToken `json:"tokens"`
}

// seenToken tells one token from another, without showing any.
type seenToken struct {
	At                time.Time `json:"at"`
	IssuedAt          int64     `json:"iat"`
	Expires           int64     `json:"exp"`
	KeyID             string    `json:"kid"`
	ServiceAccountUID string    `json:"serviceAccountUID"`
}

func (r *FileReport) violation(format string, args ...any) {
	if len(r.Violations) < 10 {
		r.Violations = append(r.Violations, fmt.Sprintf(format, args...))
	}
}

// watch reads the files again and again until d has passed, or SIGTERM has come.
func watch(d, every time.Duration, files []string) (Report, error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	reports := Report{}
	var readers sync.WaitGroup
	for _, file := range files {
		r := &FileReport{}
		reports[file] = r
		fd, err := inotify(filepath.Dir(file))
		if err != nil {
			return nil, err
		}
		readers.Go(func() {
			defer func() { _ = syscall.Close(fd) }()
			follow(ctx, file, fd, every, r)
		})
	}
	readers.Wait()
	return reports, nil
}

func follow(ctx context.Context, file string, fd int, every time.Duration, r *FileReport) {
	seen, modes := map[string]bool{}, map[string]bool{}
	last := ""
	before := time.Now()
	for ctx.Err() == nil {
		r.Reads++
		data, err := os.ReadFile(file)
		now := time.Now()
		if err != nil {
			r.violation("%s: reading: %v", now.Format(time.TimeOnly), err)
		} else if token, problem := parseToken(data); problem != "" {
			r.violation("%s: %s", now.Format(time.TimeOnly), problem)
		} else {
			if now.Unix() >= token.Expires {
				r.violation("%s: expired", now.Format(time.TimeOnly))
				r.ExpiredSeconds += now.Sub(before).Seconds()
			}
			hash := sha256.Sum256(data)
			sum := hex.EncodeToString(hash[:])
			seen[sum] = true
			if sum != last {
				last, token.At = sum, now
				r.Tokens = append(r.Tokens, token)
			}
		}
		before = now
		if s := statFile(file); s.Error == "" {
			modes[s.Mode+" "+s.Owner] = true
		}
		drain(fd, filepath.Base(file), r)
		// Not a true busy loop: two cores are shared with the cluster that is being tested.
		time.Sleep(every)
	}
	r.Contents = len(seen)
	for m := range modes {
		r.Modes = append(r.Modes, m)
	}
}

// parseToken reads a JWT; the problem is "" for a complete one.
func parseToken(data []byte) (token seenToken, problem string) {
	if len(data) == 0 {
		return token, "empty"
	}
	parts := strings.Split(string(data), ".")
	if len(parts) != 3 {
		return token, fmt.Sprintf("not a complete token: %d parts in %d bytes", len(parts), len(data))
	}
	if strings.HasSuffix(parts[2], "\n") {
		return token, "ends with a newline"
	}
	var claims struct {
		IssuedAt   int64 `json:"iat"`
		Expires    int64 `json:"exp"`
		Kubernetes struct {
			ServiceAccount struct {
				UID string `json:"uid"`
			} `json:"serviceaccount"`
		} `json:"kubernetes.io"`
	}
	var header struct {
		KeyID string `json:"kid"`
	}
	for i, into := range []any{&header, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			return token, fmt.Sprintf("part %d is not base64url", i+1)
		}
		if err := json.Unmarshal(text, into); err != nil {
			return token, fmt.Sprintf("part %d is not JSON", i+1)
		}
	}
	return seenToken{
		IssuedAt: claims.IssuedAt, Expires: claims.Expires, KeyID: header.KeyID, ServiceAccountUID: claims.Kubernetes.ServiceAccount.UID,
	}, ""
}

func inotify(dir string) (int, error) {
	fd, err := syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("opening inotify: %w", err)
	}
	_, err = syscall.InotifyAddWatch(fd, dir, syscall.IN_MOVED_TO|syscall.IN_CLOSE_WRITE|syscall.IN_DELETE|syscall.IN_MODIFY)
	if err != nil {
		return 0, fmt.Errorf("watching %q: %w", dir, err)
	}
	return fd, nil
}

// drain counts the events of one file name.
func drain(fd int, name string, r *FileReport) {
	buf := make([]byte, 16*1024)
	n, err := syscall.Read(fd, buf)
	if err != nil || n <= 0 {
		return
	}
	for off := 0; off+syscall.SizeofInotifyEvent <= n; {
		// struct inotify_event: watch, mask, cookie, length of the name that follows; four bytes each.
		mask, length := binary.NativeEndian.Uint32(buf[off+4:]), int(binary.NativeEndian.Uint32(buf[off+12:]))
		off += syscall.SizeofInotifyEvent
		entry := strings.TrimRight(string(buf[off:off+length]), "\x00")
		off += length
		if entry != name {
			continue
		}
		switch {
		case mask&syscall.IN_MOVED_TO != 0:
			r.Renames++
		case mask&syscall.IN_DELETE != 0:
			r.violation("deleted")
		default:
			r.InPlace++
		}
	}
}
