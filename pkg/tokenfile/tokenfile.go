// Package tokenfile makes the text of a file out of a token, by the steps of a parsed template.
//
// The webhook checks the steps with it, and the sidecar executes them with it, so that what was admitted runs. The language is
// that of text/template, whose parser the webhook uses (package compile). text/template itself calls methods by name, which keeps
// the linker from removing any method of the sidecar (1.5 MB of binary); its parser alone would be 0.2 MB; and it has no limits.
// Here the values are plain maps, lists, texts, numbers and times, and functions reach nothing but their arguments.
//
// The package runs in every pod of podtoken's users: the standard library and pkg/api only. No error holds a token.
package tokenfile

import (
	"errors"

	"github.com/podtoken/podtoken/pkg/api"
)

// Limits. The check is made with the longest values that there can be, so that steps that pass it stay below the limits of
// a real file.
const (
	// maxCheckedBytes is what checked steps may write, with all their branches.
	maxCheckedBytes = 48 << 10
	// maxBytes is the length of a file: a page, where pages are largest.
	maxBytes = 64 << 10
	// maxSteps and maxMade bound the time: loops in loops need not write anything. maxMade is in files of the greatest length.
	maxSteps = 5000
	maxMade  = 10
)

// Execute returns the text of the file.
func Execute(steps []api.Step, v Values) (string, error) {
	root, err := v.root()
	if err != nil {
		return "", err
	}
	m := &machine{limit: maxBytes}
	return m.run(steps, root)
}

// Check tells whether the steps can be executed for every token of the audiences. It executes every branch, and is strict
// where Execute is lenient: a value that other tokens have and this one lacks is empty there.
func Check(steps []api.Step, audiences []string) error {
	m := &machine{limit: maxCheckedBytes, strict: true}
	text, err := m.run(steps, sample(audiences))
	if err == nil && text == "" {
		err = errors.New("it writes nothing, and a file must not be empty")
	}
	if err == nil {
		err = checkForm(steps)
	}
	return err
}
