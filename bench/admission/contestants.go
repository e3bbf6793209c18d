package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/podtoken/podtoken/bench/proc"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt/jwttest"
)

// contestant is a webhook in a process of its own.
type contestant struct {
	name    string
	url     string
	process *exec.Cmd
	client  *http.Client
	// idle is what it holds before its first request.
	idle proc.Memory
	// peaks, in MB, after each cell of many callers.
	peaks []string
}

const (
	oursName = "podtoken"
	nullName = "null"
)

const (
	rules  = "apiVersion: podtoken.dev/v1alpha1\nkind: WebhookConfiguration\nsidecar: {image: podtoken/sidecar:v1}\n"
	policy = "apiVersion: podtoken.dev/v1alpha1\nkind: PolicyConfiguration\nallow: [{namespaces: ['*'], serviceAccounts: ['*'], audiences: ['*']}]\n"
)

// start starts all of them: ours first, then the least that a webhook does, then the others.
func start(ctx context.Context, dir string) ([]*contestant, error) {
	if err := writeFiles(dir); err != nil {
		return nil, err
	}
	ours, null := filepath.Join(dir, "podtoken-webhook"), filepath.Join(dir, "null-webhook")
	if err := errors.Join(build(ctx, filepath.Join("..", ".."), "./cmd/webhook", ours), build(ctx, ".", "./null", null)); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var all []*contestant
	add := func(name, program string, args func(address string) []string) error {
		c, err := startOne(ctx, dir, name, program, args)
		if c != nil {
			all = append(all, c)
		}
		return err
	}
	if err := add(oursName, ours, func(address string) []string {
		return []string{
			"--webhook-bind-address=" + address, "--http-bind-address=" + freeAddress(), "--cert-dir=" + dir, "--config=" + filepath.Join(dir, "config.yaml"),
			"--policy=" + filepath.Join(dir, "policy.yaml"), "--identity-token=" + filepath.Join(dir, "token"), "--drain-delay=0s",
		}
	}); err != nil {
		return all, err
	}
	if err := add(nullName, null, func(address string) []string { return []string{dir, address} }); err != nil {
		return all, err
	}
	for _, name := range slices.Sorted(maps.Keys(others)) {
		if err := add(name, self, func(address string) []string { return []string{serveCommand, name, dir, address} }); err != nil {
			return all, err
		}
	}
	return all, nil
}

// build makes a program as it is shipped.
func build(ctx context.Context, dir, what, to string) error {
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, what) //nolint:gosec // our own modules
	command.Dir, command.Env, command.Stderr = dir, append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
	if err := command.Run(); err != nil {
		return fmt.Errorf("building %s: %w", what, err)
	}
	return nil
}

// startOne starts a server, waits until it can be called, and looks at what it holds then.
func startOne(ctx context.Context, dir, name, program string, args func(address string) []string) (*contestant, error) {
	address := freeAddress()
	log, err := os.Create(filepath.Join(dir, name+".log")) //nolint:gosec // the directory is ours
	if err != nil {
		return nil, err
	}
	c := &contestant{name: name, url: "https://" + address + "/mutate?timeout=10s", client: newClient(keptConnections)}
	c.process = exec.CommandContext(ctx, program, args(address)...) //nolint:gosec // built a moment ago
	c.process.Stderr = log
	if err := c.process.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		connection, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err == nil {
			_ = connection.Close()
			break
		}
		if time.Now().After(deadline) {
			return c, fmt.Errorf("%s does not listen: %w", name, err)
		}
	}
	time.Sleep(time.Second)
	c.idle, err = proc.MemoryOf(c.process.Process.Pid)
	return c, err
}

// stopAll ends the processes.
func stopAll(all []*contestant) {
	for _, c := range all {
		_ = c.process.Process.Kill()
		_ = c.process.Wait()
	}
}

// freeAddress is an address at which nobody listens.
func freeAddress() string {
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it is closed at once
	if err != nil {
		panic(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

// writeFiles writes what the servers read: a certificate as cert-manager makes it for us (ECDSA P-256), and our files.
func writeFiles(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	encodedKey, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	write := func(name string, content []byte) error { return os.WriteFile(filepath.Join(dir, name), content, 0o600) }
	return errors.Join(
		write("tls.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})),
		write("tls.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encodedKey})),
		write("config.yaml", []byte(rules)),
		write("policy.yaml", []byte(policy)),
		write("token", []byte(jwttest.Encode(jwt.Claims{
			Audiences: []string{"https://kubernetes.default.svc"}, IssuedAt: time.Now(), Expires: time.Now().Add(time.Hour),
		}))),
	)
}
