package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/podtoken/podtoken/e2e/attack"
)

// ownCredential is where a pod's automounted credential is, and the sidecar's in the sidecar's own file system.
const ownCredential = "/var/run/secrets/kubernetes.io/serviceaccount" //nolint:gosec // a path

// sidecarCredential is where the sidecar's credential is, for a pod that shares its process namespace.
func sidecarCredential() (string, error) {
	pids, err := processes("/podtoken-sidecar")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("/proc/%d/root%s", pids[0], ownCredential), nil
}

// minted is what the API server answered, without the token itself unless it is requested.
type minted struct {
	attack.Answer
	Raw string `json:"raw,omitempty"`
}

// mint sends a TokenRequest as an attacker inside the pod would: with a credential that it finds there. Flags:
//
//	-sidecar          with the sidecar's credential, through /proc, instead of the pod's automounted one
//	-account NS/NAME  the ServiceAccount that the token is to be of
//	-show             prints the token too
//
// The argument is the spec of the TokenRequest, as JSON.
func mint(args []string) (*minted, error) {
	flags := flag.NewFlagSet("mint", flag.ContinueOnError)
	sidecar := flags.Bool("sidecar", false, "")
	account := flags.String("account", "", "")
	show := flags.Bool("show", false, "")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	namespace, name, ok := strings.Cut(*account, "/")
	if flags.NArg() != 1 || !ok {
		return nil, errors.New("mint wants -account NS/NAME and the spec of a TokenRequest")
	}
	directory := ownCredential
	if *sidecar {
		var err error
		if directory, err = sidecarCredential(); err != nil {
			return nil, err
		}
	}
	caller, err := attack.InPod(directory)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	answer, token, err := caller.RequestToken(ctx, attack.NewTokenRequest(namespace, name, flags.Arg(0)))
	if err != nil {
		return nil, err
	}
	result := &minted{Answer: answer}
	if *show {
		result.Raw = token
	}
	return result, nil
}
