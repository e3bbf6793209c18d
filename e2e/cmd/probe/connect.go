package main

import (
	"context"
	"fmt"
	"net"
	"time"
)

// connectTimeout is what a firewall that drops packets in silence gets.
const connectTimeout = 3 * time.Second

// connect opens a TCP connection, and closes it again.
func connect(address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	connection, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	fmt.Println("connected")
	return connection.Close()
}
