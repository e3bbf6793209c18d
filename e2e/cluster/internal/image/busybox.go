package image

import (
	"context"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
)

// Busybox returns an image with a shell and the small tools of Unix, from a statically linked busybox.
func Busybox(ctx context.Context, program string, names ...string) (Image, error) {
	out, err := exec.CommandContext(ctx, program, "--list").Output()
	if err != nil {
		return Image{}, fmt.Errorf("asking %s for its tools: %w", program, err)
	}
	result := Image{
		Names:   names,
		Env:     []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Command: []string{"sh"},
		Files: []File{
			{Path: "bin", Dir: true, Mode: 0o755},
			{Path: "etc", Dir: true, Mode: 0o755},
			{Path: "root", Dir: true, Mode: 0o700},
			{Path: "tmp", Dir: true, Mode: 0o777 | fs.ModeSticky},
			{Path: "etc/passwd", Mode: 0o644, Text: "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"},
			{Path: "etc/group", Mode: 0o644, Text: "root:x:0:\nnobody:x:65534:\n"},
			{Path: "bin/busybox", Mode: 0o755, Source: program},
		},
	}
	for _, tool := range strings.Fields(string(out)) {
		if tool != "busybox" {
			result.Files = append(result.Files, File{Path: "bin/" + tool, Link: "busybox"})
		}
	}
	return result, nil
}

// Program returns an image of one static program, which runs as the user that the product's own images have.
func Program(program, name string) Image {
	return Image{
		Names:      []string{name},
		User:       "65532:65532",
		Entrypoint: []string{"/program"},
		Files:      []File{{Path: "program", Mode: 0o755, Source: program}},
	}
}
