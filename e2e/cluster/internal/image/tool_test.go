package image

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLibraryPaths(t *testing.T) {
	got, err := libraryPaths("\tlinux-vdso.so.1 (0x00007f0e)\n\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f0e)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f0e)\n")
	if diff := cmp.Diff([]string{"/lib/x86_64-linux-gnu/libz.so.1", "/lib64/ld-linux-x86-64.so.2"}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if _, err := libraryPaths("\tlibz.so.1 => not found\n"); err == nil || !strings.Contains(err.Error(), "libz.so.1") {
		t.Errorf("error is %v, want the missing library", err)
	}
}

func TestToolHasItsLibraries(t *testing.T) {
	files, err := Tool(t.Context(), "mount") // which every machine has that runs these tests
	if err != nil {
		t.Fatal(err)
	}
	var libraries int
	for _, file := range files {
		if strings.Contains(file.Path, "/libc.so") || strings.Contains(file.Path, "/ld-") {
			libraries++
		}
	}
	if !strings.HasSuffix(files[0].Path, "bin/mount") || libraries != 2 {
		t.Errorf("files are %+v, want the program, the C library and the loader", files)
	}
}
