// Command sbom writes the bill of materials of one binary, in the JSON of CycloneDX. cyclonedx-gomod reads it from the binary;
// this adds the licences that licenses/ has, and takes out what would be different in every run or on every machine.
package main

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"
)

type options struct {
	binary, os, architecture, version, notices, output string
	created                                            int64
}

func main() {
	var o options
	flag.StringVar(&o.binary, "binary", "", "the binary")
	flag.StringVar(&o.os, "os", "linux", "its operating system, as Go names it")
	flag.StringVar(&o.architecture, "architecture", "", "its architecture, as Go names it")
	flag.StringVar(&o.version, "version", "", "vX.Y.Z")
	flag.StringVar(&o.notices, "notices", "", "the file of licenses/ with the licences of what is linked into it")
	flag.StringVar(&o.output, "output", "", "the file to write")
	flag.Int64Var(&o.created, "created", 0, "the time that it shall have, in seconds since 1970")
	flag.Parse()
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if o.binary == "" || o.os == "" || o.architecture == "" || o.version == "" || o.notices == "" || o.output == "" || o.created <= 0 {
		return fmt.Errorf("every flag is needed; -h lists them")
	}
	notices, err := os.ReadFile(o.notices)
	if err != nil {
		return err
	}
	raw, err := generate(ctx, o)
	if err != nil {
		return err
	}
	bom := new(cdx.BOM)
	if err := cdx.NewBOMDecoder(strings.NewReader(raw), cdx.BOMFileFormatJSON).Decode(bom); err != nil {
		return fmt.Errorf("reading what cyclonedx-gomod wrote: %w", err)
	}
	// The hashes of the tool are those of this machine's build of it.
	if bom.Metadata.Tools != nil && bom.Metadata.Tools.Tools != nil {
		for i := range *bom.Metadata.Tools.Tools {
			(*bom.Metadata.Tools.Tools)[i].Hashes = nil
		}
	}
	bom.Metadata.Timestamp = time.Unix(o.created, 0).UTC().Format(time.RFC3339)
	bom.Metadata.Component.Licenses = expression([]string{"Apache-2.0"})
	if err := license(bom, readLicences(string(notices))); err != nil {
		return err
	}
	out, err := os.Create(o.output)
	if err != nil {
		return err
	}
	if err := cdx.NewBOMEncoder(out, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).Encode(bom); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}

// generate runs cyclonedx-gomod, which the module file of this program pins.
func generate(ctx context.Context, o options) (string, error) {
	tool, err := exec.CommandContext(ctx, "go", "tool", "-n", "cyclonedx-gomod").Output()
	if err != nil {
		return "", fmt.Errorf("finding cyclonedx-gomod: %w", err)
	}
	binary, err := os.ReadFile(o.binary)
	if err != nil {
		return "", err
	}
	// The same binary gets the same serial number.
	serial := uuid.NewHash(sha256.New(), uuid.NameSpaceURL, binary, 8).String()
	cmd := exec.CommandContext(ctx, strings.TrimSpace(string(tool)), "bin", "-json", "-std", "-notimestamp", "-serial", serial, "-version", o.version, o.binary)
	cmd.Env = append(os.Environ(), "GOOS="+o.os, "GOARCH="+o.architecture)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("running cyclonedx-gomod for %s: %w\n%s", filepath.Base(o.binary), err, stderr.String())
	}
	return string(out), nil
}

var row = regexp.MustCompile(`(?m)^  (\S+) (v\S+): (.+)$`)

// readLicences reads the table of a file of licenses/: the licences of each "module@version".
func readLicences(notices string) map[string][]string {
	found := map[string][]string{}
	for _, match := range row.FindAllStringSubmatch(notices, -1) {
		found[match[1]+"@"+match[2]] = strings.Split(match[3], ", ")
	}
	return found
}

// license gives every component its licences. One without is a binary that was made from something else than this checkout.
func license(bom *cdx.BOM, known map[string][]string) error {
	if bom.Components == nil {
		return fmt.Errorf("the binary has no modules, not even the standard library")
	}
	for i := range *bom.Components {
		component := &(*bom.Components)[i]
		names := known[component.Name+"@"+component.Version]
		if component.Name == "std" {
			names = []string{"BSD-3-Clause"}
		}
		if names == nil {
			return fmt.Errorf("the binary links %s %s, of which licenses/ has no licence", component.Name, component.Version)
		}
		component.Licenses = expression(names)
	}
	return nil
}

// expression says that all these licences hold, in SPDX's words.
func expression(names []string) *cdx.Licenses {
	if len(names) == 1 {
		return &cdx.Licenses{{License: &cdx.License{ID: names[0]}}}
	}
	return &cdx.Licenses{{Expression: strings.Join(names, " AND ")}}
}
