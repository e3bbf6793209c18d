// Package plugin is what the commands of `kubectl podtoken` share: streams, the connection to the cluster, and how what they
// found is told. Each command is a package below this one and decides nothing by itself that the webhook, the controller or the
// API server decide: it runs their code, or asks them.
//
// Do not add: a command, writing to the cluster.
package plugin
