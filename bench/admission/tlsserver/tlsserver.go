// Package tlsserver is Go's TLS server as a webhook needs it, for all webhooks that are compared.
package tlsserver

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"time"
)

// Serve serves at the address, with the certificate in the directory, until ctx ends.
func Serve(ctx context.Context, handler http.Handler, dir, address string) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13},
	}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.ServeTLS(listener, filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
