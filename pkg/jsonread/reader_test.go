package jsonread

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// read reads {"text", "flag", "number", "map", "list": [{"name"}], "raw"} into one line.
func read(data string) (got string, err error) {
	err = Document([]byte(data), func(r *Reader) {
		r.Object(func(name string) {
			switch name {
			case "text":
				got += "text=" + r.String() + " "
			case "flag":
				if r.Bool() {
					got += "flag "
				}
			case "number":
				if n := r.Int(8); n != nil {
					got += "number=" + string(rune('0'+*n)) + " "
				}
			case "map":
				for key, value := range r.Strings(func(name string) bool { return name != "other" }) {
					got += key + "=" + value + " "
				}
			case "list":
				r.Array(func() {
					got += r.Within(func() {
						r.Object(func(string) { _ = r.String() })
					}) + " "
				})
			case "raw":
				got += "raw=" + r.Raw() + " "
			default:
				r.Skip()
			}
		})
	})
	return strings.TrimSpace(got), err
}

func TestReader(t *testing.T) {
	tests := map[string]struct{ data, want, err string }{
		"everything":                    {`{"text": "a", "flag": true, "number": 7, "map": {"k": "v", "other": 1}, "list": [ {"name": "x"} , {} ], "raw": [1, 2]}`, `text=a flag number=7 k=v {"name": "x"} {} raw=[1, 2]`, ""},
		"null everywhere":               {`{"text": null, "flag": null, "number": null, "map": null, "list": [null], "raw": null}`, "text= null raw=", ""},
		"nothing":                       {`null`, "", ""},
		"unknown fields":                {`{"a": {"b": [1, {"c": null}]}, "text": "x"}`, "text=x", ""},
		"escapes":                       {`{"\u0074ext": "\u00e4\n\ud83d\ude00"}`, "text=ä\n😀", ""},
		"half of a pair":                {`{"text": "\ud83d"}`, "text=\ufffd", ""},
		"a text for a number":           {`{"number": "1", "text": "x"}`, "text=x", `field "number" has a value that is not an integer`},
		"a number out of range":         {`{"number": 128}`, "", `field "number" has a value that is not an integer of 8 bits`},
		"a fraction":                    {`{"number": 1.5}`, "", `field "number" has a value that is not an integer of 8 bits`},
		"a number for a text":           {`{"text": 1}`, "text=", `field "text" has a value that is not a string`},
		"an array for an object":        {`[]`, "", `field "" has a value that is not an object`},
		"an object for a flag":          {`{"flag": {}}`, "", `field "flag" has a value that is not a boolean`},
		"an object for an array":        {`{"list": {}}`, "", `field "list" has a value that is not an array`},
		"deep inside":                   {`{"list": [{}, {"name": 1}]}`, `{} {"name": 1}`, `field "list.1.name" has a value that is not a string`},
		"the keys of maps are not told": {`{"map": {"secret": 1}}`, "", `field "map" has a value that is not an object of strings`},
		"the first of two":              {`{"text": 1, "flag": 1}`, "text=", `field "text" has a value that is not a string`},
		"cut off":                       {`{"text": "a`, "text=", "invalid JSON at byte 11"},
		"empty":                         {``, "", "invalid JSON at byte 0"},
		"something behind":              {`{} {}`, "", "invalid JSON at byte 4"},
		"syntax before types":           {`{"text": 1,}`, "text=", "invalid JSON at byte 10"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := read(test.data)
			text := ""
			if err != nil {
				text = err.Error()
			}
			if diff := cmp.Diff([]string{test.want, test.err}, []string{got, text}); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// Readers are used again, also after one that stopped in the middle of a document.
func TestReaderIsReused(t *testing.T) {
	for range 100 {
		if _, err := read(`{"list": [{"name": 1}, {`); !errors.As(err, new(*SyntaxError)) {
			t.Fatalf("got %v, want a syntax error", err)
		}
		if got, err := read(`{"text": "x"}`); got != "text=x" || err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
	}
}

// What goes beyond the elements that are kept is read past, and one mismatch tells where.
func TestFewElements(t *testing.T) {
	text := `{"a":[` + strings.TrimSuffix(strings.Repeat("1,", maxElements+2), ",") + `],"b":{"x":"y"},"c":"kept"}`
	count, kept := 0, ""
	var values map[string]string
	err := Document([]byte(text), func(r *Reader) {
		r.Object(func(name string) {
			switch name {
			case "a":
				r.Array(func() { count++; r.Skip() })
			case "b":
				values = r.Strings(nil)
			default:
				kept = r.String()
			}
		})
	})
	if err == nil || err.Error() != `field "a" has a value that is not within the first 20000 elements of all lists` {
		t.Errorf("err = %v", err)
	}
	if count != maxElements || len(values) != 0 || kept != "kept" {
		t.Errorf("%d elements, values %v, %q afterwards", count, values, kept)
	}
}
