package mutate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/podtoken/podtoken/pkg/api"
)

// encoded has the JSON of what is injected, for the patch.
type encoded struct {
	sidecar json.RawMessage
	volumes []json.RawMessage
	status  string
}

// encode sets the JSON of the settled plan.
func (p *plan) encode() {
	hash := sha256.New()
	if p.sidecar != nil {
		if p.own < 0 {
			p.encoded.sidecar = appendContainer(make([]byte, 0, patchBytes), p.sidecar)
		}
		// Of the container only what it was told to do: the rest may be changed by others (see containerRules).
		hash.Write(mustJSON(p.sidecar.Args))
	}
	hash.Write([]byte(p.req.mountPath))
	p.encoded.volumes = make([]json.RawMessage, 0, len(p.volumes))
	for _, volume := range p.volumes {
		data := apiVolumeJSON
		if volume.Name != api.VolumeAPI {
			data = mustJSON(volume)
		}
		p.encoded.volumes = append(p.encoded.volumes, data)
		hash.Write(data)
	}
	status := api.Status{Version: p.version, Tokens: make([]string, 0, len(p.tokens)), Hash: hex.EncodeToString(hash.Sum(nil))[:16]}
	for _, t := range p.tokens {
		status.Tokens = append(status.Tokens, t.Name)
	}
	p.encoded.status = string(mustJSON(status))
}

// appendContainer encodes podtoken's container, with the fields that newSidecar sets and no others; encoding/json takes a
// fifth of a whole decision for it. The golden and the fuzz tests hold the two against each other (checkEncoded).
func appendContainer(b []byte, c *corev1.Container) []byte {
	w := &patchWriter{buf: b}
	w.text(`{"name":`).quoted(c.Name).text(`,"image":`).quoted(c.Image).text(`,"command":`).strings(c.Command).text(`,"args":`).strings(c.Args)
	if len(c.Ports) > 0 {
		w.text(`,"ports":`).json(mustJSON(c.Ports))
	}
	w.text(`,"env":[`)
	for i, e := range c.Env {
		if i > 0 {
			w.text(`,`)
		}
		field := e.ValueFrom.FieldRef
		w.text(`{"name":`).quoted(e.Name).text(`,"valueFrom":{"fieldRef":{"apiVersion":`).quoted(field.APIVersion).text(`,"fieldPath":`).quoted(field.FieldPath).text(`}}}`)
	}
	w.text(`],"resources":`).json(mustJSON(c.Resources)).text(`,"restartPolicy":`).quoted(string(*c.RestartPolicy)).text(`,"volumeMounts":[`)
	for i, m := range c.VolumeMounts {
		if i > 0 {
			w.text(`,`)
		}
		w.text(`{"name":`).quoted(m.Name)
		if m.ReadOnly {
			w.text(`,"readOnly":true`)
		}
		w.text(`,"mountPath":`).quoted(m.MountPath).text(`}`)
	}
	w.text(`]`)
	if c.ReadinessProbe != nil {
		w.text(`,"readinessProbe":`).json(mustJSON(c.ReadinessProbe))
	}
	if c.StartupProbe != nil {
		w.text(`,"startupProbe":`).json(mustJSON(c.StartupProbe))
	}
	if c.Lifecycle != nil {
		w.text(`,"lifecycle":{"postStart":{"exec":{"command":`).strings(c.Lifecycle.PostStart.Exec.Command).text(`}}}`)
	}
	w.text(`,"terminationMessagePath":`).quoted(c.TerminationMessagePath).text(`,"terminationMessagePolicy":`).quoted(string(c.TerminationMessagePolicy))
	w.text(`,"imagePullPolicy":`).quoted(string(c.ImagePullPolicy)).text(`,"securityContext":`)
	return w.securityContext(c.SecurityContext).text(`}`).buf
}

func (w *patchWriter) securityContext(sc *corev1.SecurityContext) *patchWriter {
	w.text(`{"capabilities":{"drop":["ALL"]}`)
	if sc.SELinuxOptions != nil {
		w.text(`,"seLinuxOptions":`).json(mustJSON(sc.SELinuxOptions))
	}
	w.id(`,"runAsUser":`, sc.RunAsUser).id(`,"runAsGroup":`, sc.RunAsGroup)
	w.text(`,"runAsNonRoot":true,"readOnlyRootFilesystem":true,"allowPrivilegeEscalation":false,"seccompProfile":{"type":"RuntimeDefault"}`)
	if sc.AppArmorProfile != nil {
		w.text(`,"appArmorProfile":`).json(mustJSON(sc.AppArmorProfile))
	}
	return w.text(`}`)
}

// id appends a user or group under its name, if there is one.
func (w *patchWriter) id(name string, id *int64) *patchWriter {
	if id != nil {
		w.text(name)
		w.buf = strconv.AppendInt(w.buf, *id, 10)
	}
	return w
}

// strings appends an array of strings.
func (w *patchWriter) strings(list []string) *patchWriter {
	for i, s := range list {
		separator := "["
		if i > 0 {
			separator = ","
		}
		w.text(separator).quoted(s)
	}
	return w.text(`]`)
}

// mustJSON encodes values that always can be: structs of ours and of k8s.io/api made of strings, numbers and quantities.
func mustJSON(value any) []byte {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return data
}
