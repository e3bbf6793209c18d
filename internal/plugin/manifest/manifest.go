// Package manifest reads files of Kubernetes objects, finds the pods and pod templates in them, and writes them back. Fields that
// it does not know survive; what is not changed is written as it was read.
//
// Do not add: anything about podtoken.
package manifest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	yamlv2 "go.yaml.in/yaml/v2"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Document is one document of a YAML stream.
type Document struct {
	// Source is the file, "-" for standard input, and the place in it: "app.yaml, document 2".
	Source  string
	raw     []byte
	object  map[string]any
	changed bool
}

// Read reads files, the YAML and JSON files of directories, and standard input for "-".
func Read(paths []string, stdin io.Reader) ([]*Document, error) {
	var documents []*Document
	for _, path := range paths {
		files := []string{path}
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			if files, err = inDirectory(path); err != nil {
				return nil, err
			}
		}
		for _, file := range files {
			found, err := readFile(file, stdin)
			if err != nil {
				return nil, err
			}
			documents = append(documents, found...)
		}
	}
	return documents, nil
}

func inDirectory(directory string) ([]string, error) {
	entries, err := os.ReadDir(directory)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, entry := range entries {
		if slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(entry.Name())) && !entry.IsDir() {
			files = append(files, filepath.Join(directory, entry.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("the directory %q has no .yaml, .yml or .json files", directory)
	}
	return files, nil
}

func readFile(path string, stdin io.Reader) ([]*Document, error) {
	reader, name := stdin, "standard input"
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer func() { _ = file.Close() }()
		reader, name = file, path
	}
	documents, err := split(name, reader)
	if err != nil {
		return nil, err
	}
	if len(documents) == 0 {
		return nil, fmt.Errorf("%s has no objects", name)
	}
	return documents, nil
}

func split(name string, reader io.Reader) ([]*Document, error) {
	var documents []*Document
	stream := utilyaml.NewYAMLReader(bufio.NewReader(reader))
	for number := 1; ; number++ {
		raw, err := stream.Read()
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		source := fmt.Sprintf("%s, document %d", name, number)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", source, err)
		}
		for _, raw := range jsonStream(raw) {
			object, err := decode(raw)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", source, err)
			}
			if object != nil {
				documents = append(documents, &Document{Source: source, raw: raw, object: object})
			}
		}
	}
}

// jsonStream returns the objects of a document that is JSON: several may follow one another without a separator, as jq and
// repeated calls of kubectl write them. Any other document is returned as it is.
func jsonStream(raw []byte) [][]byte {
	var objects [][]byte
	decoder := json.NewDecoder(bytes.NewReader(raw))
	for {
		var object json.RawMessage
		err := decoder.Decode(&object)
		switch {
		case err == nil:
			objects = append(objects, object)
		case errors.Is(err, io.EOF) && len(objects) > 1:
			return objects
		default:
			return [][]byte{raw}
		}
	}
}

// single is an error if there is more than one document, of which a decoder would take the first and drop the others in silence.
func single(raw []byte) error {
	decoder := yamlv2.NewDecoder(bytes.NewReader(raw))
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil //nolint:nilerr // what is wrong with it is said elsewhere
	}
	if err := decoder.Decode(&value); !errors.Is(err, io.EOF) {
		return errors.New("there is more after the first object: put a line \"---\" between objects")
	}
	return nil
}

// decode returns nil for a document without content. Numbers stay as they are written.
func decode(raw []byte) (map[string]any, error) {
	content, err := yaml.YAMLToJSONStrict(raw)
	if err != nil {
		return nil, fmt.Errorf("this is not valid YAML: %s", strings.Join(strings.Fields(err.Error()), " ")) // it has line breaks
	}
	if err := single(raw); err != nil {
		return nil, err
	}
	var value any
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		return nil, err
	}
	if value == nil {
		return nil, nil
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, errors.New("this is not a Kubernetes object: want a mapping with apiVersion and kind")
	}
	if text(object, "kind") == "" || text(object, "apiVersion") == "" {
		return nil, errors.New("this is not a Kubernetes object: it has no apiVersion or no kind")
	}
	return object, nil
}

// YAML is the document as it is now. What was not changed is as it was read.
func (d *Document) YAML() ([]byte, error) {
	if !d.changed {
		return slices.Concat(bytes.TrimRight(d.raw, "\n"), []byte("\n")), nil
	}
	return Normal(d.object)
}

// Change is an object before and after, in the form of Normal.
type Change struct {
	// Source is the document, and the place in it for an item of a list.
	Source        string
	Before, After []byte
}

// Changes are the objects that were changed, each item of a list by itself: to compare long lists as a whole takes hours.
func (d *Document) Changes() ([]Change, error) {
	if !d.changed {
		return nil, nil
	}
	original, err := decode(d.raw)
	if err != nil {
		return nil, err
	}
	return changes(d.Source, original, d.object)
}

func changes(source string, before, after map[string]any) ([]Change, error) {
	items, isList := before["items"].([]any)
	if !isList || !strings.HasSuffix(text(before, "kind"), "List") {
		was, err := Normal(before)
		if err != nil {
			return nil, err
		}
		is, err := Normal(after)
		if err != nil || bytes.Equal(was, is) {
			return nil, err
		}
		return []Change{{source, was, is}}, nil
	}
	var all []Change
	for i, item := range items {
		// Injection changes objects in their place.
		was, _ := item.(map[string]any)
		is, _ := after["items"].([]any)[i].(map[string]any)
		found, err := changes(fmt.Sprintf("%s, items[%d]", source, i), was, is)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// Normal is YAML with sorted keys.
func Normal(value any) ([]byte, error) {
	content, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	return yaml.JSONToYAML(content)
}

// Write writes the documents as one stream.
func Write(w io.Writer, documents []*Document) error {
	for i, d := range documents {
		content, err := d.YAML()
		if err != nil {
			return err
		}
		if i > 0 {
			content = append([]byte("---\n"), content...)
		}
		if _, err := w.Write(content); err != nil {
			return err
		}
	}
	return nil
}

// text is the text at a path of keys; empty if there is none.
func text(object map[string]any, keys ...string) string {
	for _, key := range keys[:len(keys)-1] {
		object, _ = object[key].(map[string]any)
	}
	value, _ := object[keys[len(keys)-1]].(string)
	return value
}
