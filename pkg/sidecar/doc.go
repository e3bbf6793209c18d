// Package sidecar keeps the tokens of one pod fresh: the schedule, the loop, and the status that `wait` and `check`
// read.
//
// The contract it keeps: a file is replaced at refresh-at of the lifetime that was really granted, minus up to a tenth,
// and at the latest after a day; the first refresh after a start comes earlier, at random. When it cannot be done the old
// file stays and the attempts go on, whatever the error, slower or faster by its class (see the table in schedule.go). It
// never gives up and never removes a file.
//
// At least every minute it looks at the files, and puts back from memory what somebody else changed; at its own API
// credential, which is renewed when the kubelet does not; and at who signed that, because a new signing key or a
// ServiceAccount that was made anew makes every older token useless.
//
// The package runs in every pod of podtoken's users: it imports the standard library, pkg/api and pkg/tokenfile, and nothing
// else may be added. The network and the file system's details are behind Minter and Writer.
package sidecar
