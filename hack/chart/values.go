package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"
)

// value is one row of the table: a value of the chart that has no documented values below it.
type value struct {
	Path        string
	Default     string // compact JSON
	Description string
}

// key is a line of values.yaml that starts a key.
type key struct {
	path        string
	depth       int
	description string
}

// parseValues reads the values and their comments, in the order of the file. It understands block style with two
// blanks per level, which is all that values.yaml may use. A key whose children have no comments is one value; one
// whose children have comments is a section, and then every child needs one.
func parseValues(source string) ([]value, error) {
	keys, err := parseKeys(source)
	if err != nil {
		return nil, err
	}
	var tree map[string]any
	if err := yaml.UnmarshalStrict([]byte(source), &tree); err != nil {
		return nil, err
	}

	var values []value
	for i := 0; i < len(keys); {
		k := keys[i]
		end := i + 1
		for end < len(keys) && keys[end].depth > k.depth {
			end++
		}
		if isSection(keys[i+1 : end]) {
			i++
			continue
		}
		if k.description == "" {
			return nil, fmt.Errorf("%s has no comment", k.path)
		}
		encoded, err := json.Marshal(lookup(tree, k.path))
		if err != nil {
			return nil, err
		}
		values = append(values, value{Path: k.path, Default: string(encoded), Description: k.description})
		i = end
	}
	return values, nil
}

func isSection(children []key) bool {
	for _, child := range children {
		if child.description != "" {
			return true
		}
	}
	return false
}

func parseKeys(source string) ([]key, error) {
	var (
		keys    []key
		parents []string
		comment []string
	)
	for number, line := range strings.Split(source, "\n") {
		text := strings.TrimLeft(line, " ")
		switch {
		case text == "":
			comment = nil // a comment before an empty line is about no key
		case strings.HasPrefix(text, "#"):
			comment = append(comment, strings.TrimSpace(strings.TrimPrefix(text, "#")))
		case strings.HasPrefix(text, "- "):
			comment = nil
		default:
			name, _, found := strings.Cut(text, ":")
			depth := (len(line) - len(text)) / 2
			if !found || depth > len(parents) {
				return nil, fmt.Errorf("line %d: want a key in block style with two blanks per level, got %q", number+1, line)
			}
			parents = append(parents[:depth:depth], name)
			keys = append(keys, key{
				path:        strings.Join(parents, "."),
				depth:       depth,
				description: strings.Join(comment, " "),
			})
			comment = nil
		}
	}
	return keys, nil
}

func lookup(tree map[string]any, path string) any {
	var current any = tree
	for _, name := range strings.Split(path, ".") {
		current = current.(map[string]any)[name]
	}
	return current
}

const (
	tableBegin = "<!-- values: generated from values.yaml by hack/chart/render.sh -->\n"
	tableEnd   = "<!-- end of values -->\n"
)

// withTable returns the README with a new table of values between its two marks.
func withTable(readme string, values []value) (string, error) {
	before, rest, found := strings.Cut(readme, tableBegin)
	if !found {
		return "", errors.New("there is no line " + strings.TrimSpace(tableBegin))
	}
	_, after, found := strings.Cut(rest, tableEnd)
	if !found {
		return "", errors.New("there is no line " + strings.TrimSpace(tableEnd))
	}
	return before + tableBegin + table(values) + tableEnd + after, nil
}

func table(values []value) string {
	var b strings.Builder
	b.WriteString("\n| Value | Default | Description |\n|---|---|---|\n")
	escape := strings.NewReplacer("|", `\|`)
	for _, v := range values {
		fmt.Fprintf(&b, "| `%s` | `%s` | %s |\n", v.Path, escape.Replace(v.Default), escape.Replace(v.Description))
	}
	b.WriteString("\n")
	return b.String()
}
