package plugin

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
)

// Cluster is a connection, and the namespace that commands are about by default.
type Cluster struct {
	Config    *rest.Config
	Client    kubernetes.Interface
	Namespace string
	// Object returns the one object that an argument names: POD, or TYPE/NAME.
	Object func(ctx context.Context, argument string) (runtime.Object, error)
	// Exec runs a command in a container.
	Exec func(ctx context.Context, namespace, pod, container string, command ...string) (stdout, stderr string, err error)
	// Raw gets a path of the API server.
	Raw func(ctx context.Context, path string) ([]byte, error)
	// Forward connects to a port of a pod; the function it returns ends that.
	Forward func(ctx context.Context, namespace, pod string, port int) (address string, stop func(), err error)
}

func (e *Env) connect() (*Cluster, error) {
	config, err := e.Flags.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	config.UserAgent = "kubectl-podtoken"
	// A person waits for a few dozen requests at most.
	config.QPS, config.Burst = 50, 100
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	namespace, err := e.Namespace()
	if err != nil {
		return nil, err
	}
	c := &Cluster{Config: config, Client: client, Namespace: namespace}
	c.Exec, c.Forward = c.exec, c.forward
	c.Raw = func(ctx context.Context, path string) ([]byte, error) {
		return client.Discovery().RESTClient().Get().AbsPath(path).DoRaw(ctx)
	}
	c.Object = func(_ context.Context, argument string) (runtime.Object, error) { return e.object(namespace, argument) }
	return c, nil
}

func (e *Env) object(namespace, argument string) (runtime.Object, error) {
	infos, err := resource.NewBuilder(e.Flags).Unstructured().NamespaceParam(namespace).DefaultNamespace().
		ResourceNames("pods", argument).SingleResourceType().Latest().Do().Infos()
	if err != nil {
		return nil, err
	}
	if len(infos) != 1 {
		return nil, fmt.Errorf("%q names %d objects, want one: POD or TYPE/NAME", argument, len(infos))
	}
	return infos[0].Object, nil
}

func (c *Cluster) exec(ctx context.Context, namespace, pod, container string, command ...string) (stdout, stderr string, err error) {
	request := c.Client.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: command, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(c.Config, http.MethodGet, request.URL().String())
	if err != nil {
		return "", "", err
	}
	var out, errOut answer
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut})
	if out.cut || errOut.cut {
		err = fmt.Errorf("the answer has more than %d bytes", maxAnswerBytes)
	}
	return out.content.String(), errOut.content.String(), err
}

// maxAnswerBytes is more than a sidecar with the greatest number of tokens has to say.
const maxAnswerBytes = 4 << 20

// answer is what a command in a container writes, of which no more is kept than maxAnswerBytes: whoever made the pod chose what
// answers. It takes all of it, since the stream's reader stalls otherwise.
type answer struct {
	content bytes.Buffer
	cut     bool
}

func (a *answer) Write(p []byte) (int, error) {
	n := min(len(p), maxAnswerBytes-a.content.Len())
	a.cut = a.cut || n < len(p)
	_, _ = a.content.Write(p[:n]) // A Buffer never fails.
	return len(p), nil
}

func (c *Cluster) forward(ctx context.Context, namespace, pod string, port int) (address string, stop func(), err error) {
	request := c.Client.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").Name(pod).SubResource("portforward")
	dialer, err := portforward.NewSPDYOverWebsocketDialer(request.URL(), c.Config)
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ready, ended := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.NewOnAddressesWithContext(ctx, dialer, []string{"127.0.0.1"}, []string{"0:" + strconv.Itoa(port)}, ready, io.Discard, io.Discard)
	if err != nil {
		cancel()
		return "", nil, err
	}
	var failure error // before ended is closed
	go func() {
		defer close(ended)
		failure = forwarder.ForwardPorts()
	}()
	stop = func() {
		cancel()
		<-ended
	}
	select {
	case <-ready:
	case <-ended:
		cancel()
		return "", nil, cmp.Or(failure, errors.New("it ended at once"))
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		stop()
		return "", nil, err
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(ports[0].Local))), stop, nil
}

// podSelector is the label selector of a workload; empty if an object has none.
func podSelector(spec map[string]any) (string, error) {
	selector, _ := spec["selector"].(map[string]any)
	plain := labels.Set{} // as a ReplicationController has it
	for key, value := range selector {
		if text, ok := value.(string); ok {
			plain[key] = text
		}
	}
	if len(plain) > 0 || len(selector) == 0 {
		return plain.String(), nil
	}
	var parsed metav1.LabelSelector
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(selector, &parsed); err != nil {
		return "", fmt.Errorf("reading the selector: %w", err)
	}
	all, err := metav1.LabelSelectorAsSelector(&parsed)
	if err != nil {
		return "", fmt.Errorf("reading the selector: %w", err)
	}
	return all.String(), nil
}
