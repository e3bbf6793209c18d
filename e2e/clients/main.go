// Command clients holds real clients of services that take ServiceAccount tokens, and a server that verifies as those services
// do; for Vault it has Vault's own auth method. The tests run each client in a pod that podtoken has injected.
//
//	clients serve -subject SUBJECT -cert FILE -key FILE
//	                the services: see serve.go
//	clients aws     the AWS SDK: its web identity provider
//	clients azure   the Azure SDK: WorkloadIdentityCredential, a new one each time, as in a program that starts
//	clients azure-kept
//	                the same credential for as long as the program runs
//	clients google  Google's library: external account credentials
//	clients vault   Vault's API client
//	clients openbao OpenBao's API client
//	clients kubernetes
//	                client-go, with the kubeconfig that KUBECONFIG names
//
// A client takes its settings from the environment and the files that it names, as any program does that uses the same library.
// Every second it authenticates and asks the service whose token that was. It prints one Line whenever the answer is another.
//
// It is a module of its own, so that these libraries become dependencies of nothing else.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Line is what a client prints: the ID (jti) of the token by which the service knows it, or what went wrong.
type Line struct {
	ID    string `json:"id,omitempty"`
	Error string `json:"error,omitempty"`
}

// client authenticates if it has to, and returns the ID of the token that the service has accepted.
type client func(ctx context.Context) (id string, err error)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "clients:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("no command; want one of the package's documentation")
	}
	if args[0] == "serve" {
		return serve(ctx, args[1:])
	}
	clients := map[string]func(context.Context) (client, error){
		"aws": newAWS, "azure": newAzure, "azure-kept": newKeptAzure, "google": newGoogle,
		"vault": newVault, "openbao": newOpenBao, "kubernetes": newKubernetes,
	}
	construct, ok := clients[args[0]]
	if !ok {
		return fmt.Errorf("unknown command %q; want one of the package's documentation", args[0])
	}
	c, err := construct(ctx)
	if err != nil {
		return err
	}
	return repeat(ctx, c)
}

// repeat uses the client every second until the context ends.
func repeat(ctx context.Context, c client) error {
	ticks := time.NewTicker(time.Second)
	defer ticks.Stop()
	var last Line
	for {
		one, cancel := context.WithTimeout(ctx, 30*time.Second)
		id, err := c(one)
		cancel()
		line := Line{ID: id}
		if err != nil {
			line = Line{Error: err.Error()}
		}
		if line != last && ctx.Err() == nil {
			if err := json.NewEncoder(os.Stdout).Encode(line); err != nil {
				return err
			}
			last = line
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		}
	}
}
