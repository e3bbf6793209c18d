package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
)

// Details is what `check` prints as JSON, for programs: the status, and what each token file says about itself. It has no
// signatures, so no tokens.
type Details struct {
	Version string `json:"version"`
	// Now is the node's time, by which Problem was decided.
	Now    time.Time      `json:"now"`
	Tokens []TokenDetails `json:"tokens"`
}

// TokenDetails is a token's part of Details.
type TokenDetails struct {
	Token
	// Problem is why the file cannot be used; empty when it can.
	Problem string `json:"problem,omitempty"`
	// The rest is of the file, and absent when there is no complete token in it. Mode is octal, as "0400".
	Mode     string          `json:"mode,omitempty"`
	Modified time.Time       `json:"modified,omitzero"`
	Header   json.RawMessage `json:"header,omitempty"`
	Claims   json.RawMessage `json:"claims,omitempty"`
}

// Detail looks at every token of the status in dir, and tells whether all can be used.
func Detail(dir string, now time.Time) (details Details, fresh bool, err error) {
	status, err := Read(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("no status in %q: is the sidecar running in this container?", dir)
	}
	if err != nil {
		return Details{}, false, err
	}
	details, fresh = Details{Version: status.Version, Now: now.UTC()}, true
	for _, token := range status.Tokens {
		detail := TokenDetails{Token: token, Problem: token.Problem(dir, now)}
		fresh = fresh && detail.Problem == ""
		if f, content, err := ReadToken(dir, token.Path); err == nil {
			detail.Mode, detail.Modified = fmt.Sprintf("%04o", f.Mode), f.Modified.UTC()
			detail.Header, detail.Claims, _ = jwt.Segments(string(content)) // it was just parsed
		}
		details.Tokens = append(details.Tokens, detail)
	}
	return details, fresh, nil
}
