package sandbox

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

type mount struct {
	point      string
	filesystem string
	options    string // of the file system itself, for cgroups the names of the controllers
}

func mounts() ([]mount, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	var all []mount
	for lines := bufio.NewScanner(file); ; {
		if !lines.Scan() {
			return all, lines.Err()
		}
		if m, ok := parseMount(lines.Text()); ok {
			all = append(all, m)
		}
	}
}

// parseMount reads one line of /proc/<pid>/mountinfo: proc_pid_mountinfo(5).
func parseMount(line string) (mount, bool) {
	before, after, found := strings.Cut(line, " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if !found || len(left) < 5 || len(right) < 3 {
		return mount{}, false
	}
	return mount{point: unescape(left[4]), filesystem: right[0], options: right[2]}, true
}

// unescape resolves \040 and the like, which stand for blanks, tabs, newlines and backslashes in paths.
func unescape(path string) string {
	var out strings.Builder
	for len(path) > 0 {
		if path[0] == '\\' && len(path) >= 4 {
			if code, err := strconv.ParseUint(path[1:4], 8, 8); err == nil {
				out.WriteByte(byte(code))
				path = path[4:]
				continue
			}
		}
		out.WriteByte(path[0])
		path = path[1:]
	}
	return out.String()
}

// unmountBelow detaches every file system that is mounted below the directory, and says so if one stays: what lies on it
// may not be the sandbox's, and must not be deleted with the directory.
func unmountBelow(directory string) error {
	// A mount can hide another one at the same place, so one pass is not always enough.
	for range 10 {
		below, err := mountsBelow(directory)
		if err != nil || len(below) == 0 {
			return err
		}
		for i := len(below) - 1; i >= 0; i-- {
			if err := unix.Unmount(below[i].point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL && err != unix.ENOENT {
				return fmt.Errorf("unmounting %s: %w", below[i].point, err)
			}
		}
	}
	return fmt.Errorf("file systems below %s stay mounted", directory)
}

func mountsBelow(directory string) ([]mount, error) {
	all, err := mounts()
	if err != nil {
		return nil, err
	}
	var below []mount
	for _, m := range all {
		if strings.HasPrefix(m.point, directory+"/") {
			below = append(below, m)
		}
	}
	return below, nil
}
