package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Told is what an application was told, and how: by a POST, or by a signal.
type Told struct {
	Path        string `json:"path,omitempty"`
	ContentType string `json:"contentType,omitempty"`
	Body        string `json:"body,omitempty"`
	Signal      string `json:"signal,omitempty"`
}

// listenName is the name of a process that listens. It has none in common with the test cluster's sandbox process and with
// what the tests run beside it: the program of every image is /program.
const listenName = "listener"

// listen is an application that wants to be told of its tokens: it serves HTTP on the loopback until SIGTERM, and prints a
// Told for each POST and each SIGHUP. With -status it answers something else than 200.
func listen(args []string) error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM)
	// Only now: before, SIGHUP would end this process.
	if err := os.WriteFile("/proc/self/comm", []byte(listenName), 0); err != nil {
		return err
	}

	flags := flag.NewFlagSet("listen", flag.ContinueOnError)
	status := flags.Int("status", http.StatusOK, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("listen wants a port")
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", flags.Arg(0))) //nolint:noctx // it takes no time
	if err != nil {
		return err
	}
	told := make(chan Told)
	server := &http.Server{ReadTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost {
			http.Error(w, fmt.Sprintf("want a POST, got %s (%v)", r.Method, err), http.StatusBadRequest)
			return
		}
		told <- Told{Path: r.URL.Path, ContentType: r.Header.Get("Content-Type"), Body: string(body)}
		w.WriteHeader(*status)
	})}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	out := json.NewEncoder(os.Stdout)
	for {
		var one Told
		select {
		case err := <-failed:
			return err
		case one = <-told:
		case s := <-signals:
			if s == syscall.SIGTERM {
				return nil
			}
			one.Signal = s.String()
		}
		if err := out.Encode(one); err != nil {
			return err
		}
	}
}
