package plugin

import (
	"bytes"
	"errors"
	"net"
	"strings"
	"testing"
)

// What a container writes without an end does not fill the memory of who asks, and is read to its end all the same.
func TestAnswerIsBounded(t *testing.T) {
	var a answer
	part := bytes.Repeat([]byte("x"), 1<<20)
	for range 10 {
		if n, err := a.Write(part); n != len(part) || err != nil {
			t.Fatalf("took %d bytes, %v", n, err)
		}
	}
	if !a.cut || a.content.Len() != maxAnswerBytes {
		t.Errorf("kept %d bytes, cut %t", a.content.Len(), a.cut)
	}
	var short answer
	if _, err := short.Write(part); err != nil || short.cut || short.content.Len() != len(part) {
		t.Errorf("of a short answer %d bytes were kept, %v", short.content.Len(), err)
	}
}

func TestPlain(t *testing.T) {
	for text, want := range map[string]string{
		"as it is: ä 漢 “x”":   "as it is: ä 漢 “x”",
		"two\r\nlines\tand":   "two  lines and",
		"\x1b[2J\a\x7f\u009b": "\ufffd[2J\ufffd\ufffd\ufffd",
		"a\u202eb\u2066c":     "a\ufffdb\ufffdc",
	} {
		if got := Plain(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// A host that nobody knows is an API server that cannot be reached.
func TestDescribeUnknownHost(t *testing.T) {
	err := errors.Join(&net.DNSError{Err: "no such host", Name: "host.invalid", IsNotFound: true})
	if got := Describe(err); !strings.HasPrefix(got, "the API server cannot be reached: ") {
		t.Errorf("got %q", got)
	}
}
