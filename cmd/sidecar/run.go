package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/podtoken/podtoken/internal/version"
	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/status"
)

// Exit codes. They are part of the interface: help.txt.
const (
	exitOK      = 0
	exitMissing = 1
	exitUsage   = 2
)

// outputText is the value of api.FlagOutput for people, and the default.
const outputText = "text"

//go:embed help.txt
var help string

// run is the program: everything it uses of its process is an argument.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	command := "help"
	if len(args) > 0 {
		command, args = args[0], args[1:]
	}
	var err error
	code := exitOK
	switch command {
	case api.CommandRun:
		code, err = runSidecar(ctx, args, getenv, stderr)
	case api.CommandWait:
		code, err = runWait(ctx, args)
	case api.CommandCheck:
		code, err = runCheck(args, stdout)
	case api.CommandRefresh:
		code, err = runRefresh(ctx, args, stdout)
	case "version", "-version", "--version":
		_, _ = fmt.Fprintln(stdout, version.Version)
	case "help", "-h", "-help", "--help":
		err = flag.ErrHelp
	default:
		code, err = exitUsage, fmt.Errorf("unknown command %q: want run, wait, check, refresh, version or help", command)
	}
	if errors.Is(err, flag.ErrHelp) {
		_, _ = fmt.Fprint(stdout, help)
		return exitOK
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, err)
	}
	return code
}

// runSidecar is the command run.
func runSidecar(ctx context.Context, args []string, getenv func(string) string, stderr io.Writer) (int, error) {
	lines := newLogWriter(stderr)
	defer lines.flush()
	log := slog.New(slog.NewJSONHandler(lines, nil))
	o, err := parseOptions(args)
	if errors.Is(err, flag.ErrHelp) {
		return exitOK, err
	}
	var p *parts
	if err == nil {
		p, err = o.build(getenv, log)
	}
	if err != nil {
		log.Error("Configuration refused", "error", err.Error())
		terminate(log, o.terminationLog, err.Error())
		return exitUsage, nil
	}
	err = p.run(ctx)
	if err != nil {
		log.Error("Stopping before every token existed", "error", err.Error())
		terminate(log, o.terminationLog, err.Error())
		return exitMissing, nil
	}
	log.Info("Stopping")
	return exitOK, nil
}

// runWait is the command wait, the postStart hook. The kubelet sets no limit on a hook's time, so this does.
func runWait(ctx context.Context, args []string) (int, error) {
	flags := newFlags(api.CommandWait)
	dir := flags.String("dir", api.SidecarTokenDir, "")
	timeout := flags.Duration(api.FlagTimeout, time.Minute, "")
	if err := parse(flags, args); err != nil {
		return exitUsage, err
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	if err := status.Wait(ctx, *dir); err != nil {
		return exitMissing, err
	}
	return exitOK, nil
}

// runCheck is the command check, for people, and with --output=json for `kubectl podtoken`.
func runCheck(args []string, stdout io.Writer) (int, error) {
	flags := newFlags(api.CommandCheck)
	dir := flags.String("dir", api.SidecarTokenDir, "")
	output := flags.String(api.FlagOutput, outputText, "")
	if err := parse(flags, args); err != nil {
		return exitUsage, err
	}
	switch *output {
	case outputText:
		return printCheck(*dir, stdout)
	case api.OutputJSON:
		return printDetails(*dir, stdout)
	}
	return exitUsage, fmt.Errorf("check: --%s=%s: want %s or %s", api.FlagOutput, *output, outputText, api.OutputJSON)
}

// printDetails prints what is known of each token, as JSON.
func printDetails(dir string, stdout io.Writer) (int, error) {
	details, fresh, err := status.Detail(dir, time.Now())
	if err != nil {
		return exitMissing, err
	}
	if err := json.NewEncoder(stdout).Encode(details); err != nil {
		return exitMissing, err
	}
	if !fresh {
		return exitMissing, nil
	}
	return exitOK, nil
}

// printCheck prints one line for each token.
func printCheck(dir string, stdout io.Writer) (int, error) {
	lines, fresh, err := status.Check(dir, time.Now())
	if err != nil {
		return exitMissing, err
	}
	for _, line := range lines {
		_, _ = fmt.Fprintln(stdout, line)
	}
	if !fresh {
		return exitMissing, nil
	}
	return exitOK, nil
}

// maxTerminationBytes is what the kubelet reads of a termination message.
const maxTerminationBytes = 4096

// terminate leaves the reason where `kubectl describe pod` shows it.
func terminate(log *slog.Logger, path, message string) {
	if len(message) > maxTerminationBytes {
		end := maxTerminationBytes
		for !utf8.RuneStart(message[end]) {
			end--
		}
		message = message[:end]
	}
	// In a container the kubelet made the file; its mode stays.
	if err := os.WriteFile(path, []byte(strings.TrimSpace(message)), 0o600); err != nil { //nolint:gosec // the path is a flag of the container's own command
		log.Warn("Writing the termination message failed", "error", err.Error())
	}
}
