package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/podtoken/podtoken/e2e/attack"
)

// allowedTo is what a pod may have by its ServiceAccount's grant.
func (n *testNamespace) allowedTo(pod *corev1.Pod, lifetime int64, audiences ...string) attack.Grant {
	return attack.Grant{
		Namespace: n.name, Account: pod.Spec.ServiceAccountName, Pod: pod.Name, PodUID: string(pod.UID),
		Audiences: audiences, Lifetimes: []int64{lifetime}, Own: []string{apiAudience},
	}
}

// answers sends every row of attack.TokenRequests from inside a pod, with the sidecar's credential.
func (n *testNamespace) answers(pod string, victim attack.Victim) map[string]attack.Answer {
	n.t.Helper()
	out, err := n.exec(pod, "app", probePath, "rows", string(mustJSON(n.t, victim)))
	must(n.t, err, "sending token requests from inside pod %q", pod)
	var answers map[string]attack.Answer
	must(n.t, json.Unmarshal([]byte(out), &answers), "decoding the answers")
	return answers
}

// flood is an attack.Race on its way.
type flood struct {
	t       *testing.T
	stdin   io.WriteCloser
	stdout  io.Reader
	answers *json.Decoder
	ended   chan error
}

// flood starts a race inside a pod, and returns when it runs.
func (n *testNamespace) flood(pod string, race attack.Race) *flood {
	n.t.Helper()
	request := n.client.CoreV1().RESTClient().Post().Namespace(n.name).Resource("pods").Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Container: "app", Command: []string{probePath, "race", string(mustJSON(n.t, race))}, Stdin: true, Stdout: true, Stderr: true,
		}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(n.restConfig, "GET", request.URL().String())
	must(n.t, err, "preparing a race in pod %q", pod)
	stdin, stdinWriter := io.Pipe()
	stdout, stdoutWriter := io.Pipe()
	f := &flood{t: n.t, stdin: stdinWriter, stdout: stdout, answers: json.NewDecoder(stdout), ended: make(chan error, 1)}
	ctx, cancel := context.WithTimeout(n.t.Context(), race.Time+time.Minute)
	go func() {
		defer cancel()
		var stderr bytes.Buffer
		err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: stdoutWriter, Stderr: &stderr})
		if err != nil {
			err = fmt.Errorf("%w: %s", err, stderr.String())
		}
		f.ended <- err
		_ = stdoutWriter.CloseWithError(err) // io.EOF if there is none
	}()
	f.read()
	return f
}

// read returns the next thing that the race says.
func (f *flood) read() *attack.Result {
	f.t.Helper()
	var progress struct{ Result *attack.Result }
	must(f.t, f.answers.Decode(&progress), "reading what a race says")
	return progress.Result
}

// stop ends the race.
func (f *flood) stop() attack.Result {
	f.t.Helper()
	if _, err := f.stdin.Write([]byte("\n")); err != nil {
		f.t.Fatalf("ending a race: %v", err)
	}
	result := f.read()
	_ = f.stdin.Close()
	// The result is all there is. What is left of the connection, the line's end and its own, may be cut off.
	_, _ = io.Copy(io.Discard, f.stdout)
	<-f.ended
	return *result
}
