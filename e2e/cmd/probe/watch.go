package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
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
}

func (r *FileReport) violation(format string, args ...any) {
	if len(r.Violations) < 10 {
		r.Violations = append(r.Violations, fmt.Sprintf(format, args...))
	}
}

// watch reads the files until d has passed.
func watch(d time.Duration, files []string) (Report, error) {
	reports := Report{}
	deadline := time.Now().Add(d)
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
			follow(file, fd, deadline, r)
		})
	}
	readers.Wait()
	return reports, nil
}

func follow(file string, fd int, deadline time.Time, r *FileReport) {
	seen, modes := map[string]bool{}, map[string]bool{}
	for time.Now().Before(deadline) {
		r.Reads++
		data, err := os.ReadFile(file)
		switch {
		case err != nil:
			r.violation("reading: %v", err)
		default:
			if problem := checkToken(data); problem != "" {
				r.violation("%s", problem)
				break
			}
			sum := sha256.Sum256(data)
			seen[hex.EncodeToString(sum[:])] = true
		}
		if s := statFile(file); s.Error == "" {
			modes[s.Mode+" "+s.Owner] = true
		}
		drain(fd, filepath.Base(file), r)
		// Not a true busy loop: two cores are shared with the cluster that is being tested.
		time.Sleep(time.Millisecond)
	}
	r.Contents = len(seen)
	for m := range modes {
		r.Modes = append(r.Modes, m)
	}
}

// checkToken returns "" for a complete, unexpired JWT.
func checkToken(data []byte) string {
	if len(data) == 0 {
		return "empty"
	}
	parts := strings.Split(string(data), ".")
	if len(parts) != 3 {
		return fmt.Sprintf("not a complete token: %d parts in %d bytes", len(parts), len(data))
	}
	if strings.HasSuffix(parts[2], "\n") {
		return "ends with a newline"
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "payload is not base64url"
	}
	var claims struct {
		Exp int64 `json:"exp"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return "payload is not JSON"
	}
	if time.Now().Unix() >= claims.Exp {
		return "expired"
	}
	return ""
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
