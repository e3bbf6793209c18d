package tokenfile

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// function is one that templates can call. None reaches anything but its arguments. Each takes nil for a value that this
// token lacks; what else does not fit is an error, which Check finds because it calls with values of the same kinds.
type function struct {
	min, max int
	call     func(strict bool, args []any) (any, error)
}

const many = 100

var functions = map[string]function{
	"and": {1, many, func(_ bool, args []any) (any, error) { return !slices.ContainsFunc(args, empty), nil }},
	"or": {1, many, func(_ bool, args []any) (any, error) {
		return slices.ContainsFunc(args, func(v any) bool { return !empty(v) }), nil
	}},
	"not":     {1, 1, func(_ bool, args []any) (any, error) { return empty(args[0]), nil }},
	"eq":      {2, 2, func(_ bool, args []any) (any, error) { return equal(args[0], args[1]) }},
	"ne":      {2, 2, notEqual},
	"default": {2, 2, fallback},
	"index":   {2, many, index},
	"len":     {1, 1, length},
	"join":    {2, 2, join},
	"json":    {1, 1, func(_ bool, args []any) (any, error) { return encode(args[0]), nil }},
	"quote":   {1, 1, func(_ bool, args []any) (any, error) { return encode(text(args[0])), nil }},
	"base64": {1, 1, func(_ bool, args []any) (any, error) {
		return base64.StdEncoding.EncodeToString([]byte(text(args[0]))), nil
	}},
	"urlquery": {1, 1, func(_ bool, args []any) (any, error) { return url.QueryEscape(text(args[0])), nil }},
	"unix": {1, 1, func(_ bool, args []any) (any, error) {
		return onTime(args[0], func(t time.Time) any { return t.Unix() })
	}},
	"rfc3339": {1, 1, func(_ bool, args []any) (any, error) {
		return onTime(args[0], func(t time.Time) any { return t.Format(time.RFC3339) })
	}},
}

// Functions are the names of all functions, sorted.
func Functions() []string { return slices.Sorted(maps.Keys(functions)) }

// kind names a value for a message.
func kind(value any) string {
	switch value.(type) {
	case nil:
		return "nothing"
	case bool:
		return "a truth value"
	case int64:
		return "a number"
	case string:
		return "a text"
	case time.Time:
		return "a time"
	case []any:
		return "a list"
	}
	return "a map"
}

// empty is what counts as false.
func empty(value any) bool {
	switch value := value.(type) {
	case nil:
		return true
	case bool:
		return !value
	case int64:
		return value == 0
	case string:
		return value == ""
	case []any:
		return len(value) == 0
	case map[string]any:
		return len(value) == 0
	}
	return false
}

// text is how a value is written into the file.
func text(value any) string {
	switch value := value.(type) {
	case nil:
		return ""
	case string:
		return value
	case time.Time:
		return value.Format(time.RFC3339)
	}
	return encode(value)
}

// encode is the JSON of a value.
func encode(value any) string {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		panic("tokenfile: plain values always encode")
	}
	return strings.TrimSuffix(buffer.String(), "\n")
}

func equal(a, b any) (bool, error) {
	switch a.(type) {
	case []any, map[string]any:
		return false, fmt.Errorf("compares %s: only texts, numbers, truth values and times can be compared", kind(a))
	}
	if a != nil && b != nil && kind(a) != kind(b) {
		return false, fmt.Errorf("compares %s with %s", kind(a), kind(b))
	}
	if x, ok := a.(time.Time); ok && b != nil {
		return x.Equal(b.(time.Time)), nil
	}
	return b == nil && a == nil || b != nil && a == b, nil
}

func notEqual(_ bool, args []any) (any, error) {
	same, err := equal(args[0], args[1])
	return !same, err
}

// fallback is the second value, or the first when the second is empty: `.x | default "y"`.
func fallback(_ bool, args []any) (any, error) {
	if args[0] != nil && args[1] != nil && kind(args[0]) != kind(args[1]) {
		return nil, fmt.Errorf("has %s in place of %s", kind(args[0]), kind(args[1]))
	}
	if empty(args[1]) {
		return args[0], nil
	}
	return args[1], nil
}

func index(strict bool, args []any) (any, error) {
	value := args[0]
	for _, key := range args[1:] {
		switch container := value.(type) {
		case nil:
			return nil, nil
		case []any:
			i, ok := key.(int64)
			if !ok && key != nil {
				return nil, fmt.Errorf("looks for %s in a list: use a number", kind(key))
			}
			if i < 0 || i >= int64(len(container)) {
				if strict {
					return nil, fmt.Errorf("looks for element %d of a list of %d", i, len(container))
				}
				return nil, nil
			}
			value = container[i]
		case map[string]any:
			k, ok := key.(string)
			if !ok && key != nil {
				return nil, fmt.Errorf("looks for %s in a map: use a text", kind(key))
			}
			var err error
			if value, err = member(strict, container, k); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("looks into %s: use a list or a map", kind(value))
		}
	}
	return value, nil
}

// member is a map's value of that name. That there is none is an error only in a check.
func member(strict bool, container map[string]any, key string) (any, error) {
	value, ok := container[key]
	if !ok && strict {
		return nil, fmt.Errorf("there is no %.100q: there are %s", key, strings.Join(slices.Sorted(maps.Keys(container)), ", "))
	}
	return value, nil
}

func length(_ bool, args []any) (any, error) {
	switch value := args[0].(type) {
	case nil:
		return int64(0), nil
	case string:
		return int64(len(value)), nil
	case []any:
		return int64(len(value)), nil
	case map[string]any:
		return int64(len(value)), nil
	}
	return nil, fmt.Errorf("counts %s: use a text, a list or a map", kind(args[0]))
}

func join(_ bool, args []any) (any, error) {
	elements, isList := args[0].([]any)
	separator, isText := args[1].(string)
	if args[0] != nil && !isList || args[1] != nil && !isText {
		return nil, errors.New("needs a list and a text, as in: join .audiences \",\"")
	}
	texts := make([]string, 0, len(elements))
	for _, element := range elements {
		texts = append(texts, text(element))
	}
	return strings.Join(texts, separator), nil
}

// onTime takes a time, or seconds since 1970 as in claims.
func onTime(value any, format func(time.Time) any) (any, error) {
	switch value := value.(type) {
	case nil:
		return nil, nil
	case time.Time:
		return format(value), nil
	case int64:
		return format(time.Unix(value, 0).UTC()), nil
	}
	return nil, errors.New("needs a time, as .expiry, or seconds, as .claims.exp; this is " + strconv.Quote(kind(value)))
}
