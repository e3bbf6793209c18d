//go:build race

package main

// attackers is how many connections are held at once. The race detector makes the attackers' side of a handshake many times
// as expensive, so that there are fewer; the server has as many fewer connections, and is built without it.
const attackers = 100
