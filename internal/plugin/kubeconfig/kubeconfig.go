// Package kubeconfig is the command `kubectl podtoken kubeconfig`: a kubeconfig for a ServiceAccount that ends soon, for jobs of
// a CI system. It is the one command of the plugin that gets a token.
package kubeconfig

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/podtoken/podtoken/internal/plugin"
	"github.com/podtoken/podtoken/pkg/api"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
)

const long = `Prints a kubeconfig with a token of a ServiceAccount, made for you by TokenRequest, and with server, CA and proxy of the current context.

The token ends after an hour, or as --expiration says, 10m to 12h: nobody can take it back before, but by deleting the
ServiceAccount or the pod that it is bound to. Whoever has the file is the ServiceAccount; --write makes a file that only you can read.`

const example = `  kubectl podtoken kubeconfig deployer --write ci.kubeconfig
  kubectl podtoken kubeconfig deployer --expiration 15m
  kubectl podtoken kubeconfig deployer --pod runner-0`

// Limits of --expiration.
const (
	minExpiration     = api.MinExpirationSeconds * time.Second
	maxExpiration     = 12 * time.Hour
	defaultExpiration = time.Hour
	// tolerance is how much longer a token may be than was asked for: seconds are rounded.
	tolerance = time.Minute
)

type options struct {
	expiration time.Duration
	pod        string
	audiences  []string
	write      string
}

// New returns the command.
func New(e *plugin.Env) *cobra.Command {
	o := &options{}
	command := &cobra.Command{
		Use: "kubeconfig SERVICEACCOUNT", Short: "Make a short-lived kubeconfig for a ServiceAccount",
		Long: long, Example: example, Args: cobra.MaximumNArgs(1), ValidArgsFunction: e.CompleteAccounts,
	}
	flags := command.Flags()
	flags.DurationVar(&o.expiration, "expiration", defaultExpiration, "lifetime of the token, 10m to 12h")
	flags.StringVar(&o.pod, "pod", "", "`name` of a pod of the ServiceAccount: the token ends with it")
	flags.StringSliceVar(&o.audiences, "audience", nil, "`audiences` of the token (default: the API server's)")
	flags.StringVar(&o.write, "write", "", "new `file` to write, which only you can read, instead of standard output")
	command.RunE = func(command *cobra.Command, args []string) error {
		if len(args) == 0 {
			return errors.New("whose kubeconfig? Name a ServiceAccount")
		}
		return o.run(command.Context(), e, args[0])
	}
	return command
}

func (o *options) validate() error {
	switch {
	case o.expiration < minExpiration || o.expiration > maxExpiration || o.expiration%time.Second != 0:
		return fmt.Errorf("--expiration: %v is not allowed: use whole seconds, 10m to 12h; who needs a credential for longer is better off with one that is renewed", o.expiration)
	case o.expiration == api.ForbiddenExpirationSeconds*time.Second:
		return fmt.Errorf("--expiration: %v is not allowed, the API server can make a token of one year of it: use 1h", o.expiration)
	case slices.Contains(o.audiences, ""):
		return errors.New("--audience: an empty audience is not allowed: leave it out")
	}
	return nil
}

func (o *options) run(ctx context.Context, e *plugin.Env, account string) error {
	if err := o.validate(); err != nil {
		return err
	}
	c, err := e.Connect()
	if err != nil {
		return err
	}
	server, err := serverOf(c.Config)
	if err != nil {
		return err
	}
	token, err := o.token(ctx, c, account)
	if err != nil {
		return err
	}
	claims, err := jwt.Parse(token)
	if err != nil {
		return fmt.Errorf("the API server answered with something else than a token: %w", err)
	}
	if lifetime := claims.Expires.Sub(claims.IssuedAt); lifetime > o.expiration+tolerance {
		return fmt.Errorf("the API server made a token that lasts %v instead of %v: it is not used", lifetime, o.expiration)
	}
	content, err := clientcmd.Write(*file(server, c.Namespace, account, token))
	if err != nil {
		return err
	}
	if o.write == "" {
		_, err = e.Out.Write(content)
	} else {
		err = writeNew(o.write, content)
	}
	if err == nil {
		_, _ = fmt.Fprintf(e.ErrOut, "ServiceAccount %s/%s until %s (%s)\n", c.Namespace, account,
			claims.Expires.UTC().Format(time.RFC3339), claims.Expires.Sub(claims.IssuedAt))
	}
	return err
}

// token asks for the token.
func (o *options) token(ctx context.Context, c *plugin.Cluster, account string) (string, error) {
	seconds := int64(o.expiration / time.Second)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: o.audiences, ExpirationSeconds: &seconds}}
	if o.pod != "" {
		pod, err := c.Client.CoreV1().Pods(c.Namespace).Get(ctx, o.pod, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		if pod.Spec.ServiceAccountName != account {
			return "", fmt.Errorf("pod %s/%s runs as ServiceAccount %q, not %q: a token can be bound only to a pod of its own ServiceAccount",
				c.Namespace, o.pod, pod.Spec.ServiceAccountName, account)
		}
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	}
	answer, err := c.Client.CoreV1().ServiceAccounts(c.Namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
	if apierrors.IsNotFound(err) {
		return "", fmt.Errorf("there is no ServiceAccount %q in namespace %q", account, c.Namespace)
	}
	if err != nil {
		return "", fmt.Errorf("asking for a token of ServiceAccount %s/%s: %w", c.Namespace, account, err)
	}
	return answer.Status.Token, nil
}

// serverOf is the server of a connection with its CA, so that the file needs no other.
func serverOf(config *rest.Config) (*clientcmdapi.Cluster, error) {
	if config.Insecure {
		return nil, errors.New("the current context does not verify the API server, and neither would the new kubeconfig: whoever is in between would get the token")
	}
	if !rest.IsConfigTransportTLS(*config) {
		return nil, errors.New("the current context has a server without TLS, to which clients send no token: name a context with an https:// server")
	}
	cluster := clientcmdapi.NewCluster()
	cluster.Server, cluster.TLSServerName = config.Host, config.ServerName
	cluster.CertificateAuthorityData = config.CAData
	if len(config.CAData) == 0 && config.CAFile != "" {
		content, err := os.ReadFile(config.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading the CA of the current context: %w", err)
		}
		cluster.CertificateAuthorityData = content
	}
	if config.Proxy != nil {
		proxy, err := proxyOf(config)
		if err != nil {
			return nil, fmt.Errorf("finding the proxy of the current context: %w", err)
		}
		cluster.ProxyURL = proxy
	}
	return cluster, nil
}

// proxyOf is the proxy-url of a connection's kubeconfig, of which clientcmd has made a function.
func proxyOf(config *rest.Config) (string, error) {
	server, err := url.Parse(config.Host)
	if err != nil {
		return "", err
	}
	proxy, err := config.Proxy(&http.Request{URL: server})
	if err != nil || proxy == nil {
		return "", err
	}
	return proxy.String(), nil
}

func file(server *clientcmdapi.Cluster, namespace, account, token string) *clientcmdapi.Config {
	config := clientcmdapi.NewConfig()
	user, name := namespace+"/"+account, "cluster"
	config.Clusters[name] = server
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts[account] = &clientcmdapi.Context{Cluster: name, AuthInfo: user, Namespace: namespace}
	config.CurrentContext = account
	return config
}

// writeNew makes a file, and takes no other's place: that could be readable for others.
func writeNew(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists already: remove it, or name another file", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path)) // a part of a kubeconfig is of no use, and in the way of the next attempt
	}
	return nil
}
