//go:build !race

package main

// attackers is how many connections are held at once.
const attackers = 1000
