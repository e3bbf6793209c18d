package tokenrequest_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/podtoken/podtoken/pkg/sidecar/jwt"
	"github.com/podtoken/podtoken/pkg/sidecar/jwt/jwttest"
	"github.com/podtoken/podtoken/pkg/tokensource"
	"github.com/podtoken/podtoken/pkg/tokensource/tokenrequest"
)

// An operator calls a service as one of its ServiceAccounts. A token that is bound to a pod ends with the pod.
func Example() {
	var clientset kubernetes.Interface = newClientset() // kubernetes.NewForConfig(...)
	serviceURL := newService()

	source, err := tokenrequest.New(clientset.CoreV1(), tokenrequest.Config{
		Namespace:      "payments",
		ServiceAccount: "reconciler",
		Audiences:      []string{"vault", "https://billing.example.com"},
		Expiration:     30 * time.Minute,
		Pod:            &tokenrequest.Pod{Name: "reconciler-0", UID: "1f0c9a52-5f1b-4f5b-8d3c-0e7a6b1d2c3e"},
	})
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: tokensource.NewTransport(source, nil), Timeout: 10 * time.Second}
	for range 3 {
		answer, err := client.Get(serviceURL)
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			log.Fatal(err)
		}
		_ = answer.Body.Close()
		fmt.Println(string(body))
	}
	// Output:
	// the API server was asked for [vault https://billing.example.com]
	// called with a token
	// called with a token
	// called with a token
}

// newClientset is a client of an API server that answers with tokens.
func newClientset() *fake.Clientset {
	clientset := fake.NewClientset()
	clientset.PrependReactor("create", "serviceaccounts", func(action clienttesting.Action) (bool, runtime.Object, error) {
		request := action.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenRequest)
		fmt.Println("the API server was asked for", request.Spec.Audiences)
		lifetime := time.Duration(*request.Spec.ExpirationSeconds) * time.Second
		request.Status.Token = jwttest.Encode(jwt.Claims{Audiences: request.Spec.Audiences, IssuedAt: time.Now(), Expires: time.Now().Add(lifetime)})
		return true, request, nil
	})
	return clientset
}

func newService() string {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			_, _ = w.Write([]byte("called with a token"))
		}
	})).URL
}
