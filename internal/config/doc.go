// Package config keeps what our servers read from files while they run up to date: configuration, policy, serving
// certificate, and the audiences of the API server (from a token that the kubelet renews).
//
// All of them live in volumes whose content the kubelet swaps under the process, so all are polled and compared by
// content. fsnotify is not used: volumes swap symlinks rather than files, and the kernel limits inotify
// instances per user, a limit that every pod of a node that runs as the same user shares (128 by default); a webhook
// that cannot start because of its neighbours' watches is worse than one that reads five small files every two seconds.
//
// The rule for all: a good new content is used at once; a bad one, or a missing file, is refused, logged and counted
// once, and the last good one stays in use.
//
// Do not add: decisions about pods, HTTP, Kubernetes clients.
package config
