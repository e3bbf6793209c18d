package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/podtoken/podtoken/internal/plugin"
)

var update = flag.Bool("update", false, "write what the program does into testdata/*.txtar")

// Sections of a case, in this order. The comment above the first tells what the case shows.
const (
	// sectionArgs has an argument per line.
	sectionArgs  = "args"
	sectionStdin = "stdin"
	// sectionWithout lists what of the installation is not in the cluster, as Kind/name; a * for all of it. A line
	// "no cluster" is for commands that must not connect.
	sectionWithout = "without"
	// sectionMetrics are those of the controller's pods, as far as they are read.
	sectionMetrics = "metrics"
	// sectionFlags are flags of the API server, name=value per line, or the HTTP status of a request for them.
	sectionFlags = "flags"
	// sectionCluster has objects in the cluster, besides those of manifests/install.yaml; an object of the same name takes its place.
	sectionCluster = "cluster.yaml"
	// Sections with this prefix are what a pod's sidecar answers.
	prefixExec = "exec/"
	// Sections with this prefix are files in the working directory.
	prefixFile    = "file/"
	sectionExit   = "want/exit"
	sectionStdout = "want/stdout"
	sectionStderr = "want/stderr"
)

// now is the time in all cases.
var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// TestGolden runs the program with a cluster in memory: what each command prints, and its exit code.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d cases in testdata, %v", len(files), err)
	}
	base := installed(t)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := txtar.Format(runCase(t, txtar.Parse(data), base))
			// runCase has changed the working directory, until its end.
			if *update {
				if err := os.WriteFile(filepath.Join(packageDirectory, file), got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(data), string(got)); diff != "" {
				t.Errorf("%s is not what the program does (-file +program); update it with -update and review:\n%s", file, diff)
			}
		})
	}
}

var packageDirectory = func() string {
	directory, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	return directory
}()

// token is anything that looks like a JWT.
var token = regexp.MustCompile(`eyJ[\w-]+\.[\w-]+\.[\w-]+`)

// runCase returns the archive with the sections that the program gives for it.
func runCase(t *testing.T, archive *txtar.Archive, base *base) *txtar.Archive {
	t.Helper()
	if len(bytes.TrimSpace(archive.Comment)) == 0 {
		t.Error("the case has no comment that tells what it shows")
	}
	t.Chdir(t.TempDir())
	t.Setenv("KUBECONFIG", "/nowhere")
	given := map[string]string{}
	result := &txtar.Archive{Comment: archive.Comment}
	for _, file := range archive.Files {
		if strings.HasPrefix(file.Name, "want/") {
			continue
		}
		given[file.Name] = string(file.Data)
		result.Files = append(result.Files, file)
		if name, ok := strings.CutPrefix(file.Name, prefixFile); ok {
			// A trailing line break is txtar's.
			if err := os.WriteFile(name, file.Data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	var stdout, stderr bytes.Buffer
	e := plugin.NewEnv(genericiooptions.IOStreams{In: strings.NewReader(given[sectionStdin]), Out: &stdout, ErrOut: &stderr})
	e.Now = func() time.Time { return now }
	e.Connect = func() (*plugin.Cluster, error) {
		if strings.Contains(given[sectionWithout], "no cluster") {
			return nil, errors.New("the command has connected")
		}
		namespace, err := e.Namespace()
		if err != nil {
			return nil, err
		}
		return base.cluster(t, given, namespace), nil
	}
	exit := "0\n"
	if err := run(t.Context(), strings.Fields(given[sectionArgs]), e); err != nil {
		exit = "1\n"
	}
	want := func(name, text string) {
		if text != "" {
			text = token.ReplaceAllString(strings.NewReplacer(base.version, "VERSION", base.apiServer.URL, "SERVER", base64.StdEncoding.EncodeToString(base.serverCA()), "CA").Replace(text), "TOKEN")
			result.Files = append(result.Files, txtar.File{Name: name, Data: []byte(text)})
		}
	}
	want(sectionExit, exit)
	want(sectionStdout, stdout.String())
	want(sectionStderr, stderr.String())
	return result
}
