package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/podtoken/podtoken/pkg/api"
)

// ParseToken decodes the value of --token, and takes only what FormatToken writes, apart from blanks, the order of names and the
// spelling of texts. Webhook and sidecar are released together: anything else is a setting of the user that would not be
// honored, or one that other readers of the argument understand differently.
func ParseToken(value string) (api.TokenSpec, error) {
	problem := func(err error) (api.TokenSpec, error) {
		return api.TokenSpec{}, fmt.Errorf("decoding %q: %w; use the sidecar image of the webhook's own version", value, err)
	}
	decoder := json.NewDecoder(strings.NewReader(value))
	decoder.DisallowUnknownFields()
	var spec api.TokenSpec
	if err := decoder.Decode(&spec); err != nil {
		return problem(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return problem(errors.New("only one JSON object is allowed"))
	}
	read, err := document(value)
	if err != nil {
		return problem(err)
	}
	if err := validateToken(spec); err != nil {
		return api.TokenSpec{}, err
	}
	formatted := FormatToken(spec)
	written, err := document(formatted)
	if err == nil {
		err = difference("the token", read, written)
	}
	if err == nil && strings.Count(value, "\uFFFD") != strings.Count(formatted, "\uFFFD") {
		err = errors.New("half of a surrogate pair is not a character")
	}
	if err != nil {
		return problem(err)
	}
	return spec, nil
}

// FormatToken is the inverse of ParseToken, and what the webhook writes: JSON without HTML escapes, so that it reads well in
// `kubectl describe pod`, and with every '$' escaped, because the kubelet expands "$(NAME)" in arguments.
func FormatToken(spec api.TokenSpec) string {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(spec); err != nil {
		panic(err) // Strings and numbers always encode.
	}
	return strings.ReplaceAll(strings.TrimSuffix(buffer.String(), "\n"), "$", `\u0024`)
}

// ParseDeclaration decodes only name, audiences and lifetime in the value of --token, for readers that belong to no particular
// version of the sidecar: the controller and kubectl podtoken. Of these three it understands the same as ParseToken. Names
// that it does not know are those of another version.
func ParseDeclaration(value string) (api.TokenSpec, error) {
	members, err := membersOf(value)
	if err != nil {
		return api.TokenSpec{}, err
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		for _, known := range declared {
			if strings.EqualFold(name, known) && name != known {
				return api.TokenSpec{}, fmt.Errorf("it has %q, which must be spelled %q", name, known)
			}
		}
	}
	var spec api.TokenSpec
	var audiences []*string // for null, which is no string
	for _, member := range []struct {
		name string
		into any
		want string
		ok   func() bool
	}{
		{nameOfName, &spec.Name, "a string", nil},
		{nameOfAudiences, &audiences, "a list of strings", func() bool { return !slices.Contains(audiences, nil) }},
		{nameOfExpiration, &spec.ExpirationSeconds, "a whole number of 64 bits", nil},
	} {
		raw, ok := members[member.name]
		if !ok {
			return api.TokenSpec{}, fmt.Errorf("it has no %q", member.name)
		}
		if raw == "null" || json.Unmarshal([]byte(raw), member.into) != nil || member.ok != nil && !member.ok() {
			return api.TokenSpec{}, fmt.Errorf("%q is %s, want %s", member.name, raw, member.want)
		}
	}
	spec.Audiences = make([]string, len(audiences))
	for i, audience := range audiences {
		spec.Audiences[i] = *audience
	}
	return spec, nil
}

// membersOf takes an object apart, of which each name is there once; values are as they stand in the text. A value may have
// names twice inside.
func membersOf(value string) (map[string]string, error) {
	if err := checkSyntax(value); err != nil {
		return nil, err
	}
	at := blanks(value, 0)
	if value[at] != '{' {
		return nil, errors.New("it must be a JSON object")
	}
	members := map[string]string{}
	for at = blanks(value, at+1); value[at] != '}'; at = blanks(value, at) {
		end := endOf(value, at)
		name := value[at+1 : end-1]
		if strings.Contains(name, `\`) {
			if err := json.Unmarshal([]byte(value[at:end]), &name); err != nil {
				return nil, err
			}
		}
		if _, twice := members[name]; twice {
			return nil, fmt.Errorf("%q is there twice", name)
		}
		at = blanks(value, blanks(value, end)+1) // behind the colon
		end = endOf(value, at)
		members[name] = value[at:end]
		if at = blanks(value, end); value[at] == ',' {
			at++
		}
	}
	return members, nil
}

// blanks returns where the first byte at or behind a position of a valid JSON text is that is no blank.
func blanks(text string, at int) int {
	for at < len(text) && strings.IndexByte(" \t\r\n", text[at]) >= 0 {
		at++
	}
	return at
}

// endOf returns where the value ends that begins at a position of a valid JSON text.
func endOf(text string, at int) int {
	depth := 0
	for {
		switch text[at] {
		case '"':
			for at++; text[at] != '"'; at++ {
				if text[at] == '\\' {
					at++
				}
			}
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		at++
		if depth == 0 && (at == len(text) || strings.IndexByte(",:]} \t\r\n", text[at]) >= 0) {
			return at
		}
	}
}

// Names of api.TokenSpec's fields in JSON.
const (
	nameOfName       = "name"
	nameOfAudiences  = "audiences"
	nameOfExpiration = "expirationSeconds"
)

var declared = []string{nameOfName, nameOfAudiences, nameOfExpiration}

// document decodes JSON into maps, lists, strings, json.Number, bool and nil. A name that an object has twice is an error,
// and so is what is not UTF-8: readers differ in what they make of these.
func document(value string) (any, error) {
	if err := checkSyntax(value); err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(strings.NewReader(value))
	decoder.UseNumber()
	return next(decoder)
}

// checkSyntax checks it to the end, and the depth.
func checkSyntax(value string) error {
	if !utf8.ValidString(value) {
		return errors.New("it is not UTF-8")
	}
	if data := []byte(value); !json.Valid(data) {
		var whole json.RawMessage
		return json.Unmarshal(data, &whole) // says why
	}
	return nil
}

func next(decoder *json.Decoder) (any, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'):
		object := map[string]any{}
		for decoder.More() {
			key, err := decoder.Token()
			if err != nil {
				return nil, err
			}
			name, _ := key.(string)
			if _, twice := object[name]; twice {
				return nil, fmt.Errorf("%q is there twice", name)
			}
			if object[name], err = next(decoder); err != nil {
				return nil, err
			}
		}
		_, err = decoder.Token()
		return object, err
	case json.Delim('['):
		list := []any{}
		for decoder.More() {
			element, err := next(decoder)
			if err != nil {
				return nil, err
			}
			list = append(list, element)
		}
		_, err = decoder.Token()
		return list, err
	}
	return token, nil
}

// difference is the first one between what was read and what is written of it: something that the decoder took for
// something else, or ignored.
func difference(where string, read, written any) error {
	switch read := read.(type) {
	case map[string]any:
		want, ok := written.(map[string]any)
		if !ok {
			return mismatch(where, read, written)
		}
		for _, name := range slices.Sorted(maps.Keys(read)) {
			value, ok := want[name]
			if !ok {
				return surplus(where, name, read[name], want)
			}
			if err := difference(where+"."+name, read[name], value); err != nil {
				return err
			}
		}
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if _, ok := read[name]; !ok {
				return fmt.Errorf("%s has no %q", where, name)
			}
		}
		return nil
	case []any:
		want, ok := written.([]any)
		if !ok || len(read) != len(want) {
			return mismatch(where, read, written)
		}
		for i, element := range read {
			if err := difference(where+"."+strconv.Itoa(i), element, want[i]); err != nil {
				return err
			}
		}
		return nil
	}
	if read != written {
		return mismatch(where, read, written)
	}
	return nil
}

func mismatch(where string, read, written any) error {
	return fmt.Errorf("%s is %s, want %s", where, plain(read), plain(written))
}

func surplus(where, name string, value any, written map[string]any) error {
	for known := range written {
		if strings.EqualFold(name, known) {
			return fmt.Errorf("%s has %q, which must be spelled %q", where, name, known)
		}
	}
	return fmt.Errorf("%s has %q: %s, which must be left out", where, name, plain(value))
}

func plain(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // It was decoded from JSON.
	}
	return string(text)
}
