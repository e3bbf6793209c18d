package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/podtoken/podtoken/e2e/attack"
)

// raceProgress is what race prints, a line for each.
type raceProgress struct {
	Running bool           `json:"running,omitempty"`
	Result  *attack.Result `json:"result,omitempty"`
}

// race runs an attack.Race (its argument, as JSON) with the pod's credential, until something or the end comes from the standard input.
func race(args []string) error {
	if len(args) != 1 {
		return errors.New("race wants an attack.Race as JSON")
	}
	var r attack.Race
	if err := json.Unmarshal([]byte(args[0]), &r); err != nil {
		return err
	}
	caller, err := attack.InPod(ownCredential)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		cancel()
	}()
	out := json.NewEncoder(os.Stdout)
	result, err := r.Run(ctx, caller, func() { _ = out.Encode(raceProgress{Running: true}) })
	if err != nil {
		return err
	}
	return out.Encode(raceProgress{Result: &result})
}

// rows sends every row of attack.TokenRequests, for the attack.Victim that its argument is, with the sidecar's credential, and prints
// an attack.Answer for each, by name.
func rows(args []string) error {
	if len(args) != 1 {
		return errors.New("rows wants an attack.Victim as JSON")
	}
	var victim attack.Victim
	if err := json.Unmarshal([]byte(args[0]), &victim); err != nil {
		return err
	}
	directory, err := sidecarCredential()
	if err != nil {
		return err
	}
	caller, err := attack.InPod(directory)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	answers := map[string]attack.Answer{}
	for _, row := range attack.TokenRequests(victim) {
		answer, err := caller.Do(ctx, row.Request)
		if err != nil {
			return fmt.Errorf("%s: %w", row.Name, err)
		}
		answers[row.Name] = answer
	}
	return json.NewEncoder(os.Stdout).Encode(answers)
}

// hold runs an attack.Hold and prints what became of it.
func hold(args []string) error {
	var h attack.Hold
	flags := flag.NewFlagSet("hold", flag.ContinueOnError)
	flags.StringVar(&h.Kind, "kind", "", fmt.Sprintf("one of %q", attack.HoldKinds()))
	flags.IntVar(&h.Connections, "connections", 50, "how many at once to each address")
	flags.DurationVar(&h.Time, "for", time.Minute, "how long")
	if err := flags.Parse(args); err != nil {
		return err
	}
	h.Addresses = flags.Args()
	held, err := h.Run(context.Background())
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(held)
}
