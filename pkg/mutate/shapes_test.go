package mutate

import (
	"encoding/json"
	"strconv"
)

// fuzzedPod builds a pod out of bytes. The unknown JSON, when it is valid, is put on every object.
func fuzzedPod(annotations map[string]string, shape []byte, unknown string) []byte {
	b := &shapeReader{shape: shape}
	if json.Valid([]byte(unknown)) {
		b.unknown = json.RawMessage(unknown)
	}
	metadata := b.object(map[string]any{"name": "app"})
	if len(annotations) > 0 {
		metadata["annotations"] = annotations
	}
	switch b.next(4) {
	case 1:
		metadata["labels"] = map[string]string{}
	case 2:
		metadata["labels"] = map[string]string{"app": "web", "podtoken.dev/injected": b.pick("true", "", "false")}
	case 3:
		metadata["labels"] = nil
	}
	if b.next(3) == 1 && annotations != nil {
		annotations["cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"] = b.pick("", "a", "a,podtoken", ",a", "podtoken-api")
	}
	spec := b.object(map[string]any{})
	spec["containers"] = b.list(1+b.next(3), func(i int) any { return b.container("c", i) })
	if n := b.next(4); n > 0 {
		spec["initContainers"] = b.list(n-1, func(i int) any { return b.container("i", i) })
	}
	if n := b.next(4); n > 0 {
		spec["volumes"] = b.list(n-1, func(int) any {
			volume := map[string]any{"name": b.pick("data", "cache", "podtoken", "podtoken-api")}
			switch b.next(3) {
			case 1:
				volume["emptyDir"] = map[string]any{"medium": "Memory", "sizeLimit": b.pick("1Mi", "1024Ki", "2Mi")}
			case 2:
				volume["projected"] = map[string]any{"sources": []any{}}
			}
			return b.object(volume)
		})
	}
	spec["hostNetwork"] = b.next(3) == 1
	spec["shareProcessNamespace"] = b.next(2) == 1
	if b.next(2) == 1 {
		spec["securityContext"] = b.object(map[string]any{"runAsUser": b.next(3), "fsGroup": b.next(2)})
	}
	if b.next(4) == 1 {
		spec["resources"] = map[string]any{"limits": map[string]any{"cpu": b.next(2)}}
	}
	return mustJSON(b.object(map[string]any{"metadata": metadata, "spec": spec}))
}

// shapeReader makes choices out of bytes, and the first choice each time when there are no more.
type shapeReader struct {
	shape   []byte
	unknown json.RawMessage
}

func (b *shapeReader) next(n int) int {
	if len(b.shape) == 0 {
		return 0
	}
	choice := int(b.shape[0]) % n
	b.shape = b.shape[1:]
	return choice
}

func (b *shapeReader) pick(choices ...string) string { return choices[b.next(len(choices))] }

func (b *shapeReader) list(n int, element func(i int) any) []any {
	elements := []any{}
	for i := range n {
		elements = append(elements, element(i))
	}
	return elements
}

func (b *shapeReader) object(fields map[string]any) map[string]any {
	if b.unknown != nil {
		fields["futureField"] = b.unknown
	}
	return fields
}

func (b *shapeReader) container(prefix string, i int) any {
	c := b.object(map[string]any{"name": prefix + strconv.Itoa(i)})
	if n := b.next(4); n > 0 {
		c["env"] = b.list(n-1, func(int) any {
			return b.object(map[string]any{"name": b.pick("A", "A_TOKEN_FILE", "V", "TOKEN_TOKEN_FILE", "AWS_REGION", "VAULT_ADDR"), "value": b.pick("", "/var/run/secrets/podtoken.dev/a", "x")})
		})
	}
	if n := b.next(4); n > 0 {
		c["volumeMounts"] = b.list(n-1, func(int) any {
			mount := map[string]any{
				"name":      b.pick("data", "podtoken", "podtoken-api", "cache"),
				"mountPath": b.pick("/data", "/var/run/secrets/podtoken.dev", "/var/run/secrets/podtoken.dev/a", "/etc/tokens/", "/var/run"),
				"readOnly":  b.next(2) == 0,
			}
			if b.next(4) == 1 {
				mount["subPath"] = "x"
			}
			return b.object(mount)
		})
	}
	if b.next(3) == 1 {
		c["securityContext"] = b.object(map[string]any{"runAsUser": b.next(4), "seLinuxOptions": map[string]any{"level": b.pick("s0", "s1")}})
	}
	if b.next(3) == 1 {
		c["resources"] = map[string]any{"limits": map[string]any{"cpu": "1", "memory": "1Gi"}, "requests": map[string]any{"cpu": b.next(3)}}
	}
	if b.next(4) == 1 {
		c["ports"] = []any{map[string]any{"containerPort": 9102, "protocol": b.pick("TCP", "UDP")}}
	}
	return c
}
