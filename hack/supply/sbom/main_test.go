package main

import (
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

const notices = `podtoken-webhook has in it code of these modules:

  example.com/a v1.0.0: MIT
  example.com/b/v2 v2.0.0-20260101000000-abc: Apache-2.0, BSD-3-Clause
  the Go standard library: BSD-3-Clause
`

func TestEveryComponentGetsItsLicences(t *testing.T) {
	bom := &cdx.BOM{Components: &[]cdx.Component{
		{Name: "example.com/a", Version: "v1.0.0"},
		{Name: "example.com/b/v2", Version: "v2.0.0-20260101000000-abc"},
		{Name: "std", Version: "go1.26.0"},
	}}
	if err := license(bom, readLicences(notices)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, component := range *bom.Components {
		for _, choice := range *component.Licenses {
			if choice.License != nil {
				got = append(got, choice.License.ID)
			}
			if choice.Expression != "" {
				got = append(got, choice.Expression)
			}
		}
	}
	if want := "MIT|Apache-2.0 AND BSD-3-Clause|BSD-3-Clause"; strings.Join(got, "|") != want {
		t.Errorf("got %q, want %q", strings.Join(got, "|"), want)
	}
}

func TestAComponentWithoutALicenceIsAnError(t *testing.T) {
	bom := &cdx.BOM{Components: &[]cdx.Component{{Name: "example.com/a", Version: "v1.0.1"}}}
	if err := license(bom, readLicences(notices)); err == nil || !strings.Contains(err.Error(), "example.com/a v1.0.1") {
		t.Errorf("got %v", err)
	}
}
