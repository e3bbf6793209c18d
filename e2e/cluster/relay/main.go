// Command relay carries TCP connections from a socket that it inherits (file descriptor 3) to an address.
//
// A socket stays in the network namespace in which it was made. The cluster's network namespace has no way out, so the
// listener is made on the host's loopback and given to this process, which runs inside the namespace: whoever connects
// on the host reaches the API server, and nothing else of the cluster can be reached from outside or reach out.
//
// Usage: relay ADDRESS 3<LISTENER
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
)

const listenerFD = 3

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: relay ADDRESS 3<LISTENER")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(address string) error {
	listener, err := net.FileListener(os.NewFile(listenerFD, "listener"))
	if err != nil {
		return fmt.Errorf("taking over the listening socket at file descriptor %d: %w", listenerFD, err)
	}
	for {
		from, err := listener.Accept()
		if err != nil {
			return fmt.Errorf("accepting a connection: %w", err)
		}
		go carry(from.(*net.TCPConn), address)
	}
}

func carry(from *net.TCPConn, address string) {
	defer func() { _ = from.Close() }()
	var dialer net.Dialer
	dialled, err := dialer.DialContext(context.Background(), "tcp", address) //nolint:gosec // whoever starts this program chooses the address
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	to := dialled.(*net.TCPConn)
	defer func() { _ = to.Close() }()
	answered := make(chan struct{})
	go func() {
		copyHalf(from, to)
		close(answered)
	}()
	copyHalf(to, from)
	<-answered
}

// copyHalf passes the end of one direction on and leaves the other direction open, as "kubectl exec" needs it.
func copyHalf(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		// One broken direction makes the connection useless; closing it ends the other direction too.
		_ = to.Close()
		_ = from.Close()
		return
	}
	_ = to.CloseWrite()
}
