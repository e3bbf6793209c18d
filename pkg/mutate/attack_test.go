package mutate

import "testing"

// Addresses by which an attacker would have the sidecar call another host than its own pod; e2e/attack/doc.go has the rest.
func TestNotifyGoesNowhereElse(t *testing.T) {
	for _, url := range []string{
		"http://0x7f000001:80/", "http://017700000001:80/", "http://127.0.0.1.nip.io:80/", "http://localhost.example.com:80/", "http://localhost@example.com:80/",
		"http://169.254.169.254:80/latest/meta-data/", "http://[fd00:ec2::254]:80/", "http://[fe80::1]:80/", "http://[::]:80/", "http://[::ffff:10.0.0.1]:80/",
		"http://localhost:80/\u202e", "http://localhost:80\\@example.com/",
	} {
		if got, err := parseNotify(url); err == nil {
			t.Errorf("%q is taken as %v", url, got)
		}
	}
}
