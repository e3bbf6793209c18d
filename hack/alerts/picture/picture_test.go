package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/podtoken/podtoken/hack/alerts/board"
)

const (
	document  = "../../../docs/dashboard.svg"
	dashboard = "../../../charts/podtoken/files/dashboard.json"
	// maxBytes is what a page may load for one picture.
	maxBytes = 300_000
)

func readBoard(t *testing.T) board.Board {
	t.Helper()
	text, err := os.ReadFile(dashboard)
	if err != nil {
		t.Fatal(err)
	}
	b, err := board.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// contents returns what a picture says of itself, and all its texts.
func contents(t *testing.T, picture []byte) (a about, texts []string) {
	t.Helper()
	decoder := xml.NewDecoder(strings.NewReader(string(picture)))
	var element string
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return a, texts
		}
		if err != nil {
			t.Fatalf("the picture is not well-formed: %v", err)
		}
		switch v := token.(type) {
		case xml.StartElement:
			element = v.Name.Local
		case xml.EndElement:
			element = ""
		case xml.CharData:
			switch element {
			case "metadata":
				if err := json.Unmarshal(v, &a); err != nil {
					t.Fatal(err)
				}
			case "text":
				texts = append(texts, string(v))
			}
		}
	}
}

// The picture in the documents is of the dashboard in the chart, and every panel shows something.
func TestPictureIsOfTheDashboard(t *testing.T) {
	picture, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	if len(picture) > maxBytes {
		t.Errorf("it has %d bytes, at most %d are good", len(picture), maxBytes)
	}
	b := readBoard(t)
	a, texts := contents(t, picture)
	if a.Queries != hash(b) {
		t.Errorf("it is of another dashboard than that in the chart: run make picture")
	}
	for i := range b.Panels {
		p := &b.Panels[i]
		if !slices.Contains(texts, p.Title) {
			t.Errorf("the title of %q is not in it", p.Title)
		}
		if p.Type == rowType {
			continue
		}
		if n := slices.IndexFunc(a.Panels, func(q aboutPanel) bool { return q.ID == p.ID }); n < 0 || a.Panels[n].Series == 0 {
			t.Errorf("panel %q shows nothing in it", p.Title)
		}
	}
}

// A picture must not load or run anything: pages show it as it is.
func TestPictureIsOnlyAPicture(t *testing.T) {
	picture, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"<script", "href", "<image", "<foreignObject", "@import", "url(", "eyJ"} {
		if strings.Contains(string(picture), word) {
			t.Errorf("it has %q", word)
		}
	}
}

func TestHashIsOfWhatIsShown(t *testing.T) {
	before := hash(readBoard(t))
	for name, change := range map[string]func(p *board.Panel){
		"query":  func(p *board.Panel) { p.Targets[0].Expr += " " },
		"legend": func(p *board.Panel) { p.Targets[0].LegendFormat += "x" },
		"unit":   func(p *board.Panel) { p.FieldConfig.Defaults.Unit = "bits" },
		"place":  func(p *board.Panel) { p.GridPos.W-- },
	} {
		b := readBoard(t)
		change(&b.Panels[1])
		if hash(b) == before {
			t.Errorf("a change of a panel's %s does not change it", name)
		}
	}
	b := readBoard(t)
	b.Panels[1].Description += "x"
	if hash(b) != before {
		t.Error("a description, which the picture does not show, changes it")
	}
}
