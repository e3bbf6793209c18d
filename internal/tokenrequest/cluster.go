package tokenrequest

import (
	"path/filepath"
	"strings"

	"github.com/podtoken/podtoken/pkg/sidecar"
	"github.com/podtoken/podtoken/pkg/tokenfile"
)

// Cluster tells how others reach the API server that is asked here: its address, and the CA file as it is now.
func (c *Client) Cluster() (tokenfile.Cluster, error) {
	authority, err := readFile(filepath.Join(c.config.CredentialDir, "ca.crt"))
	if err != nil {
		return tokenfile.Cluster{}, &sidecar.Error{Class: sidecar.ClassCredential, Message: "reading the cluster's CA: " + err.Error()}
	}
	server, _, _ := strings.Cut(c.endpoint, "/api/")
	return tokenfile.Cluster{Server: server, CA: string(authority)}, nil
}
