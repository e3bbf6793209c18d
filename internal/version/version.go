// Package version holds the version that the build stamps into the binaries.
package version

// Version is set by the build with -ldflags "-X github.com/podtoken/podtoken/internal/version.Version=v1.2.3".
var Version = "v0.0.0-dev"
