// Command podtoken-sidecar keeps the tokens of one pod fresh. Its reference manual is help.txt, which `help` prints.
//
// It runs in every pod of podtoken's users and links the standard library only; deps_test.go says what each exception
// would cost.
package main

import (
	"context"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	setThrifty()
	// The sidecar's own log is another. With GODEBUG=http2debug, which a Pod can have for all containers, the HTTP client writes the
	// headers of each request here, and with them the sidecar's credential.
	log.SetOutput(io.Discard)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
