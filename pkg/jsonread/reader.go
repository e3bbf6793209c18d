package jsonread

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
	"unsafe"

	"github.com/go-json-experiment/json/jsontext"
)

// SyntaxError is the error of a document that is not JSON. It repeats nothing of the document, which may hold secrets.
type SyntaxError struct{ Offset int64 }

func (e *SyntaxError) Error() string {
	return "invalid JSON at byte " + strconv.FormatInt(e.Offset, 10)
}

// MismatchError is the error of a value that has another type than the field needs.
type MismatchError struct {
	// Field is the path to the value, "spec.containers.0.name". Of maps it has no keys, which may be anybody's.
	Field string
	// Want is what the field needs, "an object".
	Want string
}

func (e *MismatchError) Error() string {
	return "field " + strconv.Quote(e.Field) + " has a value that is not " + e.Want
}

// Reader stands before a value of the document; each method takes that value, and null for the zero value. After a value
// of another type the rest is still read, after a syntax error everything is zero: Document returns both.
type Reader struct {
	decoder  *jsontext.Decoder
	buffer   *bytes.Buffer
	text     string
	syntax   error
	mismatch error
	elements int
}

// readers are reused: a decoder has stacks and buffers of its own.
var readers = sync.Pool{New: func() any {
	return &Reader{decoder: new(jsontext.Decoder)}
}}

// Document reads a document, of which read has to take exactly one value. The strings that are read are parts of data,
// which must not be changed as long as they are in use. The error is a *SyntaxError, else the first *MismatchError.
func Document(data []byte, read func(*Reader)) error {
	r, _ := readers.Get().(*Reader)
	defer r.release()
	r.buffer = bytes.NewBuffer(data)
	r.text = unsafe.String(unsafe.SliceData(data), len(data)) //nolint:gosec // a copy would double the memory of each review; see the contract above
	// Duplicate names and invalid UTF-8 are what encoding/json takes, too; looking for them costs a third of the time.
	r.decoder.Reset(r.buffer, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	read(r)
	if r.syntax == nil {
		if _, err := r.decoder.ReadToken(); !errors.Is(err, io.EOF) {
			r.failed(err)
		}
	}
	if r.syntax != nil {
		return r.syntax
	}
	return r.mismatch
}

func (r *Reader) release() {
	r.decoder.Reset(bytes.NewReader(nil))
	*r = Reader{decoder: r.decoder} // Nothing of this document may be kept.
	readers.Put(r)
}

// failed notes the decoder's error, nil for a second document behind the first.
func (r *Reader) failed(err error) {
	offset := r.decoder.InputOffset()
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		offset = syntactic.ByteOffset
	}
	r.syntax = &SyntaxError{offset}
}

// Object reads an object: field is called for each name, and has to take its value.
func (r *Reader) Object(field func(name string)) {
	if !r.enter('{', "an object") {
		return
	}
	for r.syntax == nil && r.decoder.PeekKind() != '}' {
		if name := r.next(); r.syntax == nil {
			field(unquote(name))
		}
	}
	r.leave()
}

// Array reads an array: element is called for each element, and has to take it.
func (r *Reader) Array(element func()) {
	if !r.enter('[', "an array") {
		return
	}
	for r.syntax == nil && r.decoder.PeekKind() != ']' {
		if r.elements++; r.elements > maxElements {
			r.next()
			if r.mismatch == nil { // the pointer is a string of its own for each element
				r.mismatchAt(r.decoder.StackPointer().Parent(), fewElements)
			}
			continue
		}
		element()
	}
	r.leave()
}

// maxElements is how many elements of arrays and maps are kept of a document. Three bytes of JSON are hundreds in memory, and
// no Pod has so many.
const (
	maxElements = 20000
	fewElements = "within the first 20000 elements of all lists"
)

// enter goes into an object or array.
func (r *Reader) enter(kind jsontext.Kind, want string) bool {
	if !r.is(kind, want) {
		return false
	}
	r.leave()
	return r.syntax == nil
}

// leave takes the brace or bracket that is next.
func (r *Reader) leave() {
	if r.syntax != nil {
		return
	}
	if _, err := r.decoder.ReadToken(); err != nil {
		r.failed(err)
	}
}

// is reports whether a value of the kind is next. If not, the value is taken; null is taken without an error.
func (r *Reader) is(kind jsontext.Kind, want string) bool {
	if r.syntax != nil {
		return false
	}
	switch r.decoder.PeekKind() {
	case kind:
		return true
	case 'n', 0: // 0 is a syntax error, which next finds.
		r.next()
	default:
		r.next()
		r.Mismatch(want)
	}
	return false
}

// next takes a value, or a name, as it is in the document.
func (r *Reader) next() string {
	if r.syntax != nil {
		return ""
	}
	value, err := r.decoder.ReadValue()
	if err != nil {
		r.failed(err)
		return ""
	}
	// value is only good until the next call: the same bytes of the text are good for as long as the document.
	end := int(r.decoder.InputOffset())
	return r.text[end-len(value) : end]
}

// Mismatch notes that the value that was just taken is not what the field needs.
func (r *Reader) Mismatch(want string) { r.mismatchAt(r.decoder.StackPointer(), want) }

func (r *Reader) mismatchAt(pointer jsontext.Pointer, want string) {
	if r.mismatch == nil && r.syntax == nil {
		r.mismatch = &MismatchError{strings.ReplaceAll(strings.TrimPrefix(string(pointer), "/"), "/", "."), want}
	}
}

// Skip takes any value.
func (r *Reader) Skip() { r.next() }

// Raw takes any value and returns its JSON, empty for null.
func (r *Reader) Raw() string {
	if raw := r.next(); raw != "null" {
		return raw
	}
	return ""
}

// RawArray takes an array and returns its JSON, empty for null.
func (r *Reader) RawArray() string {
	if !r.is('[', "an array") {
		return ""
	}
	return r.next()
}

// String takes a string.
func (r *Reader) String() string {
	if !r.is('"', "a string") {
		return ""
	}
	return unquote(r.next())
}

// Null reports whether null is next, and takes it.
func (r *Reader) Null() bool {
	if r.syntax != nil || r.decoder.PeekKind() != 'n' {
		return false
	}
	r.next()
	return true
}

// IsObject reports whether an object is next, and takes nothing.
func (r *Reader) IsObject() bool { return r.syntax == nil && r.decoder.PeekKind() == '{' }

// Bool takes a boolean.
func (r *Reader) Bool() bool {
	if r.syntax == nil && r.decoder.PeekKind() == 'f' {
		r.next()
		return false
	}
	return r.is('t', "a boolean") && r.next() != ""
}

// Int takes an integer that fits into so many bits, nil for null.
func (r *Reader) Int(bits int) *int64 {
	if !r.is('0', "an integer") {
		return nil
	}
	value, err := strconv.ParseInt(r.next(), 10, bits)
	if err != nil {
		r.Mismatch("an integer of " + strconv.Itoa(bits) + " bits")
		return nil
	}
	return &value
}

// Strings takes an object whose values are strings, nil for null. With a filter it is of the names that it accepts; the
// values of others may be anything.
func (r *Reader) Strings(wanted func(name string) bool) map[string]string {
	if r.Null() {
		return nil
	}
	values := map[string]string{}
	r.Object(func(name string) {
		switch {
		case wanted != nil && !wanted(name):
			r.Skip()
		case r.syntax == nil && r.decoder.PeekKind() != '"' && r.decoder.PeekKind() != 'n':
			r.Skip()
			r.mismatchAt(r.decoder.StackPointer().Parent(), "an object of strings")
		case r.elements >= maxElements:
			r.Skip()
			r.mismatchAt(r.decoder.StackPointer().Parent(), fewElements)
		default:
			r.elements++
			values[name] = r.String()
		}
	})
	return values
}

// Within returns the JSON of the value that read takes.
func (r *Reader) Within(read func()) string {
	if r.syntax != nil {
		return ""
	}
	// Between the last value and this one there are a comma and blanks.
	start := r.decoder.InputOffset()
	read()
	if r.syntax != nil {
		return ""
	}
	return strings.TrimLeft(r.text[start:r.decoder.InputOffset()], ",: \t\r\n")
}

// unquote decodes a JSON string; most are nothing but their own bytes.
func unquote(quoted string) string {
	if len(quoted) < 2 {
		return "" // After a syntax error.
	}
	if plain := quoted[1 : len(quoted)-1]; strings.IndexByte(plain, '\\') < 0 && utf8.ValidString(plain) {
		return plain
	}
	// The only error is invalid UTF-8, which is replaced as encoding/json does it.
	decoded, _ := jsontext.AppendUnquote(nil, quoted)
	return string(decoded)
}
