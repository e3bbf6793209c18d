// Command releaseimages builds the images of a release, for hack/release. It prints a line for each: the component and the
// digest of its image index.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/podtoken/podtoken/e2e/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "releaseimages:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string, stdout, stderr io.Writer) error {
	var release cluster.ReleaseSpec
	var created int64
	flags := flag.NewFlagSet("releaseimages", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&release.RepoRoot, "source", "", "the checkout to build from; the default is the one of the working directory")
	flags.StringVar(&release.Version, "version", "", "vX.Y.Z")
	flags.StringVar(&release.Revision, "revision", "", "the commit")
	flags.Int64Var(&created, "created", 0, "the time in the images, in seconds since 1970")
	flags.StringVar(&release.Output, "output", "", "the directory for the archives")
	flags.StringVar(&release.Binaries, "binaries", "", "the directory for the binaries that are in the images")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if flags.NArg() > 0 || release.Version == "" || release.Revision == "" || release.Output == "" || release.Binaries == "" || created <= 0 {
		return fmt.Errorf("wants -version, -revision, -created, -output and -binaries, and nothing else")
	}
	release.Created = time.Unix(created, 0)
	images, err := cluster.ReleaseImages(ctx, release, stderr)
	if err != nil {
		return err
	}
	for _, one := range images {
		if _, err := fmt.Fprintf(stdout, "%s %s\n", one.Target, one.Digest); err != nil {
			return err
		}
	}
	return nil
}
