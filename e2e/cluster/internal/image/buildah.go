package image

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/podtoken/podtoken/e2e/cluster/internal/binaries"
)

// builderName is the stand-in for the image with Go that the Dockerfile starts from. An existing one is used again: what
// changes its content changes its tag too.
const builderName = "localhost/podtoken-builder:2"

// Where the image with Go has Go and its caches.
const (
	goRoot     = "/usr/local/go"
	goCache    = "/cache/go-build"
	goModCache = "/go/pkg/mod"
)

// Buildah builds images from a Dockerfile. It shares no storage with other users of buildah.
type Buildah struct {
	storage string
	env     *binaries.GoEnv
	busybox string
}

// Build is one image to build.
type Build struct {
	Context string // directory with the Dockerfile
	Target  string
	Name    string // full name, with registry and tag
	Args    map[string]string
}

// NewBuildah prepares the builder image: a busybox for the RUN lines of the Dockerfile. Go itself and its caches are not
// copied into it, but bound when a build runs: a build takes from the caches of this machine what was compiled before,
// and needs no network.
func NewBuildah(ctx context.Context, cache string, env *binaries.GoEnv) (*Buildah, error) {
	busybox, err := binaries.StaticBusybox()
	if err != nil {
		return nil, err
	}
	b := &Buildah{storage: filepath.Join(cache, "buildah"), env: env, busybox: busybox}
	if err := b.run(ctx, "inspect", "--type=image", "--format={{.FromImageID}}", builderName); err == nil {
		return b, nil
	}
	builder, err := Busybox(ctx, busybox, builderName)
	if err != nil {
		return nil, err
	}
	for _, directory := range []string{"usr", "usr/local", "usr/local/go", "go", "go/pkg", "go/pkg/mod", "cache", "cache/go-build"} {
		builder.Files = append(builder.Files, File{Path: directory, Dir: true, Mode: 0o755})
	}
	builder.Env = []string{
		"PATH=/go/bin:" + goRoot + "/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"GOPATH=/go", "GOCACHE=" + goCache, "GOMODCACHE=" + goModCache, "GOTOOLCHAIN=local",
		"GOPROXY=off", // all modules are in the cache
		"GOFLAGS=",
	}
	archive := filepath.Join(b.storage, "builder.tar")
	if err := builder.Write(archive); err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(archive) }()
	if err := b.run(ctx, "pull", "-q", "docker-archive:"+archive); err != nil {
		return nil, err
	}
	return b, nil
}

// Build builds one image, and writes it to the archive.
func (b *Buildah) Build(ctx context.Context, build Build, archive string) error {
	arguments := []string{
		"bud", "--isolation=chroot", "--pull=never", "--layers=false", "--force-rm", "-q",
		"--volume=" + b.env.GOROOT + ":" + goRoot + ":ro",
		"--volume=" + b.env.GOCACHE + ":" + goCache,
		"--volume=" + b.env.GOMODCACHE + ":" + goModCache,
		"--build-arg=BUILDER_IMAGE=" + builderName,
		"--target=" + build.Target,
		"--tag=" + build.Name,
	}
	for name, value := range build.Args {
		arguments = append(arguments, "--build-arg="+name+"="+value)
	}
	if err := b.run(ctx, append(arguments, build.Context)...); err != nil {
		return err
	}
	defer func() { _ = b.run(ctx, "rmi", build.Name) }() // the archive is what is kept
	temporary := archive + ".new"
	_ = os.Remove(temporary)
	if err := b.run(ctx, "push", "-q", build.Name, "docker-archive:"+temporary+":"+build.Name); err != nil {
		return err
	}
	return os.Rename(temporary, archive)
}

// Push brings an archive to a registry.
func (b *Buildah) Push(ctx context.Context, archive, from, to string) error {
	if err := b.run(ctx, "pull", "-q", "docker-archive:"+archive); err != nil {
		return err
	}
	push := []string{"push", "-q"}
	if isLoopback(to) {
		push = append(push, "--tls-verify=false")
	}
	return b.run(ctx, append(push, from, "docker://"+to)...)
}

// isLoopback says whether an image's registry is on this machine. Such registries, as local clusters have them, speak
// plain HTTP, and container engines expect that.
func isLoopback(name string) bool {
	registry, _, _ := strings.Cut(name, "/")
	host, _, err := net.SplitHostPort(registry)
	if err != nil {
		host = registry
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (b *Buildah) run(ctx context.Context, arguments ...string) error {
	if err := os.MkdirAll(b.storage, 0o750); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "buildah", append([]string{
		"--storage-driver=vfs",
		"--root=" + filepath.Join(b.storage, "root"),
		"--runroot=" + filepath.Join(b.storage, "run"),
	}, arguments...)...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("running \"buildah %s\": %w\n%s", strings.Join(arguments, " "), err, binaries.Tail(output.String(), 30))
	}
	return nil
}
