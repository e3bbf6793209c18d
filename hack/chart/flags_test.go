package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
)

// TestFlagsAreKnown: the programs refuse to start with a flag that they do not know. A main package cannot be imported,
// so its flags are read from the source.
func TestFlagsAreKnown(t *testing.T) {
	for _, component := range []string{"webhook", "controller"} {
		known := flagsOf(t, "cmd/"+component)
		if len(known) < 3 {
			t.Fatalf("found only the flags %q in cmd/%s", known, component)
		}
		check := func(t *testing.T, args []string) {
			seen := map[string]bool{}
			for _, arg := range args {
				name, value, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
				if !slices.Contains(known, name) || value == "" || seen[name] {
					t.Errorf("argument %q: want --flag=value, once each, with the flags %q", arg, known)
				}
				seen[name] = true
			}
		}
		eachFile(t, func(t *testing.T, path string) {
			objects := decode(t, path)
			check(t, named[*appsv1.Deployment](t, objects, "podtoken-"+component).Spec.Template.Spec.Containers[0].Args)
			for _, job := range all[*batchv1.Job](objects) {
				if args := job.Spec.Template.Spec.Containers[0].Args; component == "controller" {
					check(t, args[1:])
				}
			}
		}, golden, install)
	}
}

// flagsOf returns the names in calls like fs.StringVar(&variable, "name", ...).
func flagsOf(t *testing.T, directory string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, directory, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(node ast.Node) bool {
			call, ok := node.(*ast.CallExpr)
			if !ok || len(call.Args) < 3 {
				return true
			}
			method, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !strings.HasSuffix(method.Sel.Name, "Var") {
				return true
			}
			if name, ok := call.Args[1].(*ast.BasicLit); ok && name.Kind == token.STRING {
				unquoted, err := strconv.Unquote(name.Value)
				if err != nil {
					t.Fatal(err)
				}
				names = append(names, unquoted)
			}
			return true
		})
	}
	return names
}
