package mutate

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/config"
	"github.com/podtoken/podtoken/pkg/tokenfile/compile"
)

// maxCABytes is the length of AnnotationKubeconfigCAOf's PEM: several authorities.
const maxCABytes = 16 << 10

// maxTemplateError is the length of what is said about a template.
const maxTemplateError = 600

// format sets the steps that write the token's file, if it is not the raw one.
func (p *parser) format(t *tokenRequest, mountPath string, preset *preset) {
	formatKey, templateKey := api.AnnotationFormatOf+t.name, api.AnnotationTemplateOf+t.name
	format := setting(p, formatKey, api.FormatRaw, parseFormat)
	_, hasFormat := p.annotations[formatKey]
	template, hasTemplate := p.annotations[templateKey]
	if hasFormat && hasTemplate {
		p.add(api.ReasonInvalidValue, "%s and %s both say what is in the file of the token %q: remove one", p.label(formatKey), p.label(templateKey), t.name)
		return
	}
	if preset != nil && (hasTemplate || format != api.FormatRaw) {
		key := formatKey
		if hasTemplate {
			key = templateKey
		}
		p.add(api.ReasonInvalidValue, "%s: what reads the file because of %s needs the token itself: remove one of them, or use two tokens",
			p.label(key), p.label(preset.key+t.name))
		return
	}
	server, ca := p.kubeconfigCluster(t, format)
	switch {
	case hasTemplate:
		steps, err := parseTemplate(template, t.audiences)
		if err != nil {
			p.fail(templateKey, template, err)
		}
		t.steps = steps
	case format == api.FormatJSON:
		t.steps = steps(`{"token":`, call("json", ".token"), `,"audiences":`, call("json", ".audiences"), `,"expiration":`, call("json", ".expiry"), "}")
	case format == api.FormatHeader:
		t.steps = steps("Authorization: Bearer ", get(".token"))
	case format == api.FormatExecCredential:
		t.steps = steps(`{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":`, call("json", ".token"),
			`,"expirationTimestamp":`, call("json", ".expiry"), "}}")
	case format == api.FormatKubeconfig:
		t.ownKubeconfig = server == ""
		t.steps = kubeconfig(server, ca, mountPath+"/"+api.TokenPrefix+t.name)
	}
}

// kubeconfig has the token itself and the file that has it: client-go reads the file again when it changes, and others take
// what is there.
func kubeconfig(server string, ca []byte, tokenFile string) []api.Step {
	parts := []any{"apiVersion: v1\nkind: Config\nclusters:\n- name: cluster\n  cluster:\n    server: "}
	if server == "" {
		parts = append(parts, call("json", ".cluster.server"), "\n    certificate-authority-data: ", call("base64", ".cluster.ca"))
	} else {
		parts = append(parts, string(mustJSON(server)))
	}
	if len(ca) > 0 {
		parts = append(parts, "\n    certificate-authority-data: "+base64.StdEncoding.EncodeToString(ca))
	}
	parts = append(parts, "\nusers:\n- name: podtoken\n  user:\n    token: ", call("json", ".token"), "\n    tokenFile: "+string(mustJSON(tokenFile))+
		"\ncontexts:\n- name: podtoken\n  context:\n    cluster: cluster\n    user: podtoken")
	if server == "" {
		parts = append(parts, "\n    namespace: ", call("json", ".pod.namespace"))
	}
	return steps(append(parts, "\ncurrent-context: podtoken")...)
}

// steps makes steps out of texts and values. Neighbouring texts become one.
func steps(parts ...any) []api.Step {
	var all []api.Step
	for _, part := range parts {
		switch part := part.(type) {
		case string:
			if n := len(all); n > 0 && all[n-1].Value == nil {
				all[n-1].Text += part
			} else {
				all = append(all, api.Step{Text: part})
			}
		case *api.Expr:
			all = append(all, api.Step{Value: part})
		}
	}
	return all
}

func get(name string) *api.Expr { return &api.Expr{Get: name} }

func call(function, name string) *api.Expr {
	return &api.Expr{Call: function, Args: []api.Expr{{Get: name}}}
}

// kubeconfigCluster reads the settings that only FormatKubeconfig has. The server is empty for the own cluster.
func (p *parser) kubeconfigCluster(t *tokenRequest, format string) (server string, ca []byte) {
	serverKey, caKey := api.AnnotationKubeconfigServerOf+t.name, api.AnnotationKubeconfigCAOf+t.name
	server = setting(p, serverKey, "", parseHTTPS)
	ca = setting(p, caKey, nil, parseCA)
	for _, key := range []string{serverKey, caKey} {
		if _, set := p.annotations[key]; set && format != api.FormatKubeconfig {
			p.need("%s: only a kubeconfig has this: add %s%s: %q, or remove this setting", p.label(key), api.AnnotationFormatOf, t.name, api.FormatKubeconfig)
		}
	}
	_, hasServer := p.annotations[serverKey]
	if _, hasCA := p.annotations[caKey]; hasCA && !hasServer {
		p.need("%s: the authorities of the pod's own cluster are known: add %s for another cluster, or remove this setting", p.label(caKey), serverKey)
	}
	return server, ca
}

// maxArgumentBytes is what the sidecar may be told. The kernel takes as much as one argument, and the controller reads twice as
// much of a pod.
const maxArgumentBytes = 120 << 10

// checkSize checks that the sidecar can be told what it is to write.
func (p *parser) checkSize(req *request) {
	size := 0
	for _, token := range req.withModes("0400") {
		if len(token.Files) > 0 {
			size += len(config.FormatToken(token))
		}
	}
	if size > maxArgumentBytes {
		p.add(api.ReasonLimitExceeded, "the templates and certificates of the pod make %d bytes of arguments, and at most %d are allowed: "+
			"use shorter templates, or several pods", size, maxArgumentBytes)
	}
}

// writesFiles returns the annotation because of which files besides the token itself are written; empty when none are.
func (p *parser) writesFiles(t *tokenRequest) string {
	for _, key := range []string{api.AnnotationTemplateOf, api.AnnotationFormatOf, api.AnnotationGCPProviderOf, api.AnnotationVaultRoleOf} {
		if _, set := p.annotations[key+t.name]; set && (len(t.steps) > 0 || len(t.extra) > 0) {
			return key + t.name
		}
	}
	return ""
}

// The errors of the functions below continue the text `<annotation>: "<value>" `.

func parseFormat(value string) (string, error) {
	if !slices.Contains(api.Formats(), value) {
		return "", fmt.Errorf("is not a format: use one of %s, or %s<token> for a template", strings.Join(api.Formats(), ", "), api.AnnotationTemplateOf)
	}
	return value, nil
}

func parseTemplate(value string, audiences []string) ([]api.Step, error) {
	if len(audiences) == 0 {
		audiences = []string{"unknown"} // what is wrong with them is said elsewhere
	}
	steps, err := compile.Template(value, audiences)
	if err != nil {
		text := strings.Map(func(r rune) rune {
			if r < ' ' {
				return ' '
			}
			return r
		}, strings.ToValidUTF8(err.Error(), "?"))
		return nil, fmt.Errorf("is not a template that can be used: %s", cutTo(text, maxTemplateError))
	}
	return steps, nil
}

// parseCA returns PEM of certificates and of nothing else: no comments, and above all no keys.
func parseCA(value string) ([]byte, error) {
	data := []byte(value)
	if !strings.Contains(value, "-----BEGIN") {
		decoded, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(value), ""))
		if err != nil {
			return nil, errors.New("is neither PEM nor base64 of PEM: use the certificates that sign for the server")
		}
		data = decoded
	}
	var certificates bytes.Buffer
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("has a block %s: use certificates only", quote(block.Type))
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, errors.New("has a block that is not a certificate: use the certificates that sign for the server")
		}
		if err := pem.Encode(&certificates, &pem.Block{Type: block.Type, Bytes: block.Bytes}); err != nil {
			return nil, errors.New("has a block that cannot be written")
		}
	}
	switch n := certificates.Len(); {
	case n == 0:
		return nil, errors.New("has no certificate: use PEM, or base64 of PEM")
	case n > maxCABytes:
		return nil, fmt.Errorf("has %d bytes of PEM: at most %d are allowed", n, maxCABytes)
	}
	return certificates.Bytes(), nil
}
