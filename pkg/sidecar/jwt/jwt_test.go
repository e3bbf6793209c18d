package jwt_test

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt/jwttest"
)

func encode(segments ...string) string {
	for i, segment := range segments {
		segments[i] = base64.RawURLEncoding.EncodeToString([]byte(segment))
	}
	return strings.Join(segments, ".")
}

func TestParseReadsWhatKubeAPIServerWrites(t *testing.T) {
	// The claims of a real token of kube-apiserver 1.37.2, with other names and a signature of nothing.
	token := encode(
		`{"alg":"RS256","kid":"pLy2xSyI"}`,
		`{"aud":["vault","https://kubernetes.default.svc"],"exp":1790003600,"iat":1790000000,"iss":"https://kubernetes.default.svc.cluster.local",
		"jti":"b7a2c3d4","kubernetes.io":{"namespace":"shop","node":{"name":"n1","uid":"u-n"},"pod":{"name":"cart-1","uid":"u-p"},
		"serviceaccount":{"name":"cart","uid":"u-sa"},"warnafter":1790003000},"nbf":1790000000,"sub":"system:serviceaccount:shop:cart"}`,
		"signature")
	want := jwt.Claims{
		KeyID: "pLy2xSyI", ID: "b7a2c3d4", Audiences: []string{"vault", "https://kubernetes.default.svc"},
		IssuedAt: time.Unix(1790000000, 0).UTC(), Expires: time.Unix(1790003600, 0).UTC(), WarnAfter: time.Unix(1790003000, 0).UTC(),
		Namespace: "shop", ServiceAccountName: "cart", ServiceAccountUID: "u-sa", PodName: "cart-1", PodUID: "u-p",
	}
	got, err := jwt.Parse(token)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	again, err := jwt.Parse(jwttest.Encode(want))
	if diff := cmp.Diff(want, again); diff != "" || err != nil {
		t.Errorf("jwttest writes something else: %v\n%s", err, diff)
	}
}

func TestParse(t *testing.T) {
	const dates = `"iat":1790000000,"exp":1790003600`
	for name, c := range map[string]struct {
		token string
		want  []string // audiences
		err   string
	}{
		"a single audience may be a string":               {token: encode(`{}`, `{"aud":"a",`+dates+`}`, "s"), want: []string{"a"}},
		"an empty string is no audience":                  {token: encode(`{}`, `{"aud":"",`+dates+`}`, "s")},
		"no audience is none":                             {token: encode(`{}`, `{`+dates+`}`, "s")},
		"a fraction in a date is allowed":                 {token: encode(`{}`, `{"iat":1.7e9,"exp":1790003600.25}`, "s")},
		"an empty file is no token":                       {token: "", err: "a token has 3 segments, this has 1"},
		"two segments are no token":                       {token: encode(`{}`, `{`+dates+`}`), err: "a token has 3 segments, this has 2"},
		"four segments are no token":                      {token: encode(`{}`, `{`+dates+`}`, "s", "s"), err: "a token has 3 segments, this has 4"},
		"a cut off signature of no length is no token":    {token: encode(`{}`, `{`+dates+`}`) + ".", err: "segment 3 of the token is empty or has a line break"},
		"a newline at the end is no part of a token":      {token: encode(`{}`, `{`+dates+`}`, "s") + "\n", err: "segment 3 of the token is empty or has a line break"},
		"padding is not base64url":                        {token: encode(`{}`, `{`+dates+`}`, "s") + "==", err: "segment 3 of the token is not base64url"},
		"blanks are not base64url":                        {token: " " + encode(`{}`, `{`+dates+`}`, "s"), err: "segment 1 of the token is not base64url"},
		"a header must be JSON":                           {token: encode(`secret`, `{`+dates+`}`, "s"), err: "segment 1 of the token is not the JSON that was expected"},
		"claims must be JSON":                             {token: encode(`{}`, `secret`, "s"), err: "segment 2 of the token is not the JSON that was expected"},
		"claims must be an object":                        {token: encode(`{}`, `["secret"]`, "s"), err: "segment 2 of the token is not the JSON that was expected"},
		"an audience of another type is refused":          {token: encode(`{}`, `{"aud":{"secret":1},`+dates+`}`, "s"), err: "segment 2 of the token is not the JSON that was expected"},
		"an end is needed":                                {token: encode(`{}`, `{"iat":1790000000}`, "s"), err: "the token has no iat or no exp claim"},
		"a beginning is needed":                           {token: encode(`{}`, `{"exp":1790000000}`, "s"), err: "the token has no iat or no exp claim"},
		"a date that is a string is refused":              {token: encode(`{}`, `{"iat":"1790000000","exp":1790000000}`, "s"), err: "segment 2 of the token is not the JSON that was expected"},
		"a negative date is refused":                      {token: encode(`{}`, `{"iat":-1,"exp":1790000000}`, "s"), err: "segment 2 of the token is not the JSON that was expected"},
		"a date beyond what time can print is refused":    {token: encode(`{}`, `{"iat":1,"exp":1e300}`, "s"), err: "segment 2 of the token is not the JSON that was expected"},
		"a pod that is null is the same as no pod at all": {token: encode(`{}`, `{"kubernetes.io":{"pod":null},`+dates+`}`, "s")},
	} {
		t.Run(name, func(t *testing.T) {
			claims, err := jwt.Parse(c.token)
			if (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if diff := cmp.Diff(c.want, claims.Audiences); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestHasAudiences(t *testing.T) {
	for name, c := range map[string]struct {
		have, wanted []string
		want         bool
	}{
		"all in another order":      {[]string{"b", "a"}, []string{"a", "b"}, true},
		"more than wanted":          {[]string{"a", "b"}, []string{"a"}, false},
		"one is missing":            {[]string{"a"}, []string{"a", "b"}, false},
		"a prefix is not the same":  {[]string{"ab"}, []string{"a"}, false},
		"nothing when something is": {nil, []string{"a"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (jwt.Claims{Audiences: c.have}).HasAudiences(c.wanted); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestExtended(t *testing.T) {
	issued := time.Unix(1790000000, 0)
	in := func(d time.Duration) time.Time { return issued.Add(d) }
	const year, meant = 365 * 24 * time.Hour, 3607 * time.Second
	for name, c := range map[string]struct {
		exp, warnAfter, granted time.Time
		want                    bool
	}{
		"what kube-apiserver makes of 3607 s": {in(year), in(meant), in(meant), true},
		"without the claim":                   {exp: in(year), granted: in(meant), want: true},
		"a token alone":                       {exp: in(year), warnAfter: in(meant), want: true},
		"nothing is extended":                 {exp: in(time.Hour), granted: in(time.Hour)},
		"shortened":                           {exp: in(time.Hour), granted: in(time.Hour - time.Second)},
		"an external signer's maximum is the lifetime it grants": {in(meant), in(meant), in(meant), false},
		"nothing is known":                        {exp: in(year)},
		"an answer that says more than the token": {exp: in(time.Hour), granted: in(year)},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (jwt.Claims{IssuedAt: issued, Expires: c.exp, WarnAfter: c.warnAfter}).Extended(c.granted); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// FuzzParse: whatever the bytes, no panic, dates that can be printed, and no error that quotes what was read.
func FuzzParse(f *testing.F) {
	f.Add("x.y.z")
	f.Add(encode(`{"kid":"k"}`, `{"aud":["a"],"iat":1790000000,"exp":1790003600}`, "s"))
	f.Add(encode(`{}`, `{"aud":"a","iat":1,"exp":253402300799,"kubernetes.io":{"warnafter":1.5}}`, "s"))
	f.Fuzz(func(t *testing.T, token string) {
		claims, err := jwt.Parse(token)
		if err != nil {
			for segment := range strings.SplitSeq(token, ".") {
				if len(segment) > 16 && strings.Contains(err.Error(), segment) {
					t.Errorf("the error quotes the token: %v", err)
				}
			}
			return
		}
		if claims.IssuedAt.IsZero() || claims.Expires.IsZero() {
			t.Error("a date is missing")
		}
		for _, date := range []time.Time{claims.IssuedAt, claims.Expires, claims.WarnAfter} {
			if _, err := date.MarshalJSON(); err != nil {
				t.Error(err)
			}
		}
	})
}
