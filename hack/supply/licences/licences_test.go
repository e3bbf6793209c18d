package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const mit = `MIT License

Copyright (c) 2026 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
`

const gpl = `This program is free software: you can redistribute it and/or modify it under the terms of the GNU General Public
License as published by the Free Software Foundation, either version 3 of the License, or (at your option) any later version.

This program is distributed in the hope that it will be useful, but WITHOUT ANY WARRANTY; without even the implied warranty
of MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE. See the GNU General Public License for more details.

You should have received a copy of the GNU General Public License along with this program. If not, see
<https://www.gnu.org/licenses/>.
`

const condition = `
The right to sell is not granted.
It is not granted to anybody.
Selling means to provide to third parties,
for a fee or other consideration,
a product whose value derives from the Software.
`

// tree makes a module of these files, one of whose packages is linked.
func tree(t *testing.T, files map[string]string) module {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return module{Path: "example.com/m", Version: "v1.2.3", Dir: root, packages: []string{filepath.Join(root, "linked", "deep")}}
}

func TestNotices(t *testing.T) {
	known, err := newLicences()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		files   map[string]string
		want    []string // in the text, if it is allowed
		problem string
	}{
		"an allowed licence is shipped with its notice": {
			files: map[string]string{"LICENSE": mit, "NOTICE": "Made by Somebody.", "linked/deep/a.go": ""},
			want:  []string{"example.com/m v1.2.3: MIT", "Copyright (c) 2026 Somebody", "example.com/m: NOTICE\n\nMade by Somebody."},
		},
		"a copy of other code has its own licence": {
			files: map[string]string{"LICENSE": mit, "linked/COPYING": strings.ReplaceAll(mit, "Somebody", "Else"), "linked/deep/a.go": ""},
			want:  []string{"example.com/m: linked/COPYING", "Copyright (c) 2026 Else"},
		},
		"what is not linked does not matter": {
			files: map[string]string{"LICENSE": mit, "other/LICENSE": gpl, "linked/deep/a.go": ""},
		},
		"a licence that is not allowed": {
			files:   map[string]string{"LICENSE": mit, "linked/LICENSE.md": gpl, "linked/deep/a.go": ""},
			problem: "module example.com/m v1.2.3: linked/LICENSE.md is licensed under GPL-3.0",
		},
		"a licence that nobody knows": {
			files:   map[string]string{"LICENCE": "Do what I say.\n", "linked/deep/a.go": ""},
			problem: "module example.com/m v1.2.3: LICENCE is no licence that is known",
		},
		"a condition that was added to a licence": {
			files:   map[string]string{"LICENSE": mit + condition, "linked/deep/a.go": ""},
			problem: "module example.com/m v1.2.3: LICENSE has 6 lines that belong to no known licence: [\"MIT License\" \"The right to sell",
		},
		"no licence at all": {
			files:   map[string]string{"license.go": "package m", "linked/deep/a.go": ""},
			problem: "module example.com/m v1.2.3: has no file with a licence",
		},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := notices("podtoken-webhook", []module{tree(t, c.files)}, known)
			switch {
			case c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)):
				t.Errorf("got error %v, want one with %q", err, c.problem)
			case c.problem == "" && err != nil:
				t.Error(err)
			}
			for _, want := range c.want {
				if !strings.Contains(text, want) {
					t.Errorf("%q is missing in:\n%s", want, text)
				}
			}
		})
	}
}

func TestCollectKnowsEveryKindOfPackage(t *testing.T) {
	modules := map[string]*module{}
	list := `{"Dir": "/goroot/src/fmt", "Standard": true}
{"Dir": "/src/cmd", "Module": {"Path": "example.com/own", "Dir": "/src", "Main": true}}
{"Dir": "/mod/a/x", "Module": {"Path": "example.com/a", "Version": "v1.0.0", "Dir": "/mod/a"}}
{"Dir": "/mod/fork", "Module": {"Path": "example.com/b", "Dir": "/mod/b", "Replace": {"Path": "example.com/fork", "Version": "v2.0.0", "Dir": "/mod/fork"}}}`
	if err := collect(modules, []byte(list), "/goroot"); err != nil {
		t.Fatal(err)
	}
	if len(modules) != 3 || modules["example.com/own"] != nil {
		t.Errorf("got %v", modules)
	}
	if m := modules["example.com/fork"]; m == nil || m.Dir != "/mod/fork" || m.String() != "example.com/fork v2.0.0" {
		t.Errorf("the replacement is %v", m)
	}
	if m := modules[standardLibrary]; m == nil || m.Dir != "/goroot" {
		t.Errorf("the standard library is %v", m)
	}
	if err := collect(modules, []byte(`{"Dir": "/src/none"}`), "/goroot"); err == nil {
		t.Error("a package without a module was accepted")
	}
}
