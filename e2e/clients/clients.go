package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
)

// newAWS uses the default chain of credentials, of which the variables choose the web identity provider.
func newAWS(ctx context.Context) (client, error) {
	config, err := awsconfig.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, err
	}
	service := sts.NewFromConfig(config)
	return func(ctx context.Context) (string, error) {
		identity, err := service.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
		if err != nil {
			return "", err
		}
		return *identity.UserId, nil
	}, nil
}

func newAzure(context.Context) (client, error) {
	return func(ctx context.Context) (string, error) {
		credential, err := azureCredential()
		if err != nil {
			return "", err
		}
		return useAzure(ctx, credential)
	}, nil
}

func newKeptAzure(context.Context) (client, error) {
	credential, err := azureCredential()
	return func(ctx context.Context) (string, error) { return useAzure(ctx, credential) }, err
}

func azureCredential() (*azidentity.WorkloadIdentityCredential, error) {
	// Instance discovery would ask Microsoft's own servers about an authority that they do not know: private clouds need this too.
	return azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{DisableInstanceDiscovery: true})
}

func useAzure(ctx context.Context, credential *azidentity.WorkloadIdentityCredential) (string, error) {
	token, err := credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{"https://vault.azure.net/.default"}})
	if err != nil {
		return "", err
	}
	return whoami(ctx, oauth2.NewClient(ctx, oauth2.StaticTokenSource(&oauth2.Token{AccessToken: token.Token})))
}

// newGoogle uses application default credentials, for which the file says that they are an external account.
func newGoogle(ctx context.Context) (client, error) {
	credentials, err := google.FindDefaultCredentials(ctx, "https://www.googleapis.com/auth/cloud-platform")
	if err != nil {
		return nil, err
	}
	authenticated := oauth2.NewClient(ctx, credentials.TokenSource)
	return func(ctx context.Context) (string, error) { return whoami(ctx, authenticated) }, nil
}

// whoami asks a service of Azure's or Google's whose token the access token was got for.
func whoami(ctx context.Context, authenticated *http.Client) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, os.Getenv("WHOAMI_URL"), nil) //nolint:gosec // the test says where the service is
	if err != nil {
		return "", err
	}
	response, err := authenticated.Do(request) //nolint:gosec // as above
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("HTTP %d", response.StatusCode)
	}
	var line Line
	err = json.NewDecoder(response.Body).Decode(&line)
	return line.ID, err
}

// newKubernetes asks the API server who the client is, which has the ID of the token among what it knows.
func newKubernetes(context.Context) (client, error) {
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(), &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, err
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	reviews := objects.Resource(schema.GroupVersionResource{Group: "authentication.k8s.io", Version: "v1", Resource: "selfsubjectreviews"})
	question := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}}
	return func(ctx context.Context) (string, error) {
		review, err := reviews.Create(ctx, question.DeepCopy(), metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		ids, _, err := unstructured.NestedStringSlice(review.Object, "status", "userInfo", "extra", "authentication.kubernetes.io/credential-id")
		if err != nil || len(ids) != 1 {
			return "", errors.Join(err, fmt.Errorf("the API server knows %d credentials", len(ids)))
		}
		return strings.TrimPrefix(ids[0], "JTI="), nil
	}, nil
}
