package status

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// What `check --output=json` prints has each token's claims and what is wrong with it, and no signature.
func TestDetail(t *testing.T) {
	dir := volume(t, Token{Name: "a", Path: "a", Audiences: []string{"vault"}}, Token{Name: "b", Path: "b", LastError: "no", Failures: 3}, Token{Name: "c", Path: "c"})
	now := time.Now()
	good := token(now)
	write(t, dir, "a", good)
	write(t, dir, "c", "not a token")
	details, fresh, err := Detail(dir, now)
	if err != nil || fresh || len(details.Tokens) != 3 || details.Version != "v1" || !details.Now.Equal(now) {
		t.Fatalf("got %+v, %t, %v", details, fresh, err)
	}
	a, b, c := details.Tokens[0], details.Tokens[1], details.Tokens[2]
	var claims struct {
		Subject string `json:"sub"`
		Expires int64  `json:"exp"`
	}
	if err := json.Unmarshal(a.Claims, &claims); err != nil || claims.Expires != now.Add(time.Hour).Unix() || !strings.HasPrefix(claims.Subject, "system:serviceaccount:") {
		t.Errorf("the claims are %s (%v)", a.Claims, err)
	}
	if a.Problem != "" || a.Mode != "0600" || a.Modified.IsZero() || !strings.Contains(string(a.Header), "RS256") {
		t.Errorf("the good token is %+v", a)
	}
	if b.Problem != "does not exist yet" || b.Claims != nil || b.Mode != "" || b.Failures != 3 {
		t.Errorf("the missing token is %+v", b)
	}
	if !strings.HasPrefix(c.Problem, "cannot be used") || c.Claims != nil {
		t.Errorf("the broken token is %+v", c)
	}
	encoded, err := json.Marshal(details)
	if err != nil {
		t.Fatal(err)
	}
	if signature := good[strings.LastIndex(good, ".")+1:]; strings.Contains(string(encoded), signature) || strings.Contains(string(encoded), "eyJ") {
		t.Error("the details contain a token")
	}

	write(t, dir, "b", good)
	write(t, dir, "c", good)
	if _, fresh, err := Detail(dir, now); err != nil || !fresh {
		t.Errorf("with three good files: %t, %v", fresh, err)
	}
	if _, _, err := Detail(t.TempDir(), now); err == nil || !strings.Contains(err.Error(), "is the sidecar running") {
		t.Errorf("without a status: %v", err)
	}
}
