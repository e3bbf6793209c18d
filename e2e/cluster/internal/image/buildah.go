package image

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

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
	// Architecture is that of the image, as Go names it. Empty: this machine's.
	Architecture string
	// Created, if it is set, is the only time in the image: the same sources give the same bytes, and the same ids of the
	// images between, so that two such builds must not run at the same time.
	Created time.Time
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

// Build builds one image, and writes it to the archive in the format of "docker save".
func (b *Buildah) Build(ctx context.Context, build Build, archive string) error {
	temporary := archive + ".new"
	_ = os.Remove(temporary)
	if err := b.build(ctx, build, "docker-archive:"+temporary+":"+build.Name); err != nil {
		return err
	}
	return os.Rename(temporary, archive)
}

// BuildLayout builds one image, and writes it to a directory in the layout of OCI.
func (b *Buildah) BuildLayout(ctx context.Context, build Build, directory string) error {
	return b.build(ctx, build, "oci:"+directory)
}

func (b *Buildah) build(ctx context.Context, build Build, destination string) error {
	if build.Architecture == "" {
		build.Architecture = runtime.GOARCH
	}
	arguments := []string{
		"bud", "--isolation=chroot", "--pull=never", "--layers=false", "--force-rm", "-q",
		"--identity-label=false", // the version of buildah is nothing of the product
		"--volume=" + b.env.GOROOT + ":" + goRoot + ":ro",
		"--volume=" + b.env.GOCACHE + ":" + goCache,
		"--volume=" + b.env.GOMODCACHE + ":" + goModCache,
		"--build-arg=BUILDER_IMAGE=" + builderName,
		"--build-arg=BUILDPLATFORM=linux/" + runtime.GOARCH,
		"--build-arg=TARGETOS=linux",
		"--build-arg=TARGETARCH=" + build.Architecture,
		"--platform=linux/" + build.Architecture,
		"--target=" + build.Target,
		"--tag=" + build.Name,
	}
	if !build.Created.IsZero() {
		arguments = append(arguments, "--timestamp="+strconv.FormatInt(build.Created.Unix(), 10))
	}
	for _, name := range slices.Sorted(maps.Keys(build.Args)) {
		arguments = append(arguments, "--build-arg="+name+"="+build.Args[name])
	}
	if err := b.run(ctx, append(arguments, build.Context)...); err != nil {
		return err
	}
	defer func() { _ = b.run(context.WithoutCancel(ctx), "rmi", build.Name) }() // what was pushed is what is kept
	return b.run(ctx, "push", "-q", build.Name, destination)
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
