package binaries

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// GoEnv is what this package and the image builds have to know of the Go installation.
type GoEnv struct {
	GOVERSION, GOROOT, GOCACHE, GOMODCACHE, GOPROXY, GONOSUMDB, GOSUMDB, GOPRIVATE, GONOPROXY string
}

// ReadGoEnv asks the go command.
func ReadGoEnv(ctx context.Context) (*GoEnv, error) {
	cmd := exec.CommandContext(ctx, "go", "env", "-json")
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("running \"go env\": %w; is Go installed and in the PATH?", err)
	}
	var env GoEnv
	return &env, json.Unmarshal(out, &env)
}

// goBuild describes one call of "go build".
type goBuild struct {
	dir      string
	output   string
	modfile  string // below dir
	packages []string
	tags     string
	ldflags  string
	cgo      bool
}

func (b goBuild) arguments() []string {
	arguments := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags", strings.TrimSpace("-s -w " + b.ldflags), "-o", b.output}
	if b.modfile != "" && b.modfile != defaultModfile {
		arguments = append(arguments, "-modfile", b.modfile)
	}
	if b.tags != "" {
		arguments = append(arguments, "-tags", b.tags)
	}
	return append(arguments, b.packages...)
}

// run builds for this machine, whatever GOOS and the like say.
func (b goBuild) run(ctx context.Context) error {
	cgo := "CGO_ENABLED=0"
	if b.cgo {
		cgo = "CGO_ENABLED=1"
	}
	cmd := exec.CommandContext(ctx, "go", b.arguments()...)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOOS=linux", "GOARCH="+runtime.GOARCH, cgo)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("running \"go build %s\" in %s: %w\n%s", strings.Join(b.packages, " "), b.dir, err, Tail(output.String(), 40))
	}
	return nil
}

// BuildStatic compiles one program without cgo to the output path.
func BuildStatic(ctx context.Context, dir, pkg, output string) error {
	return goBuild{dir: dir, output: output, packages: []string{pkg}}.run(ctx)
}

// Tail returns the last lines of a text.
func Tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
