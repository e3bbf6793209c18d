package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"

	"github.com/podtoken/podtoken/e2e/cluster/internal/binaries"
)

var crdResource = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// applyCertManagerCRDs creates the types of cert-manager and waits until the API server serves them: its controllers end
// when they cannot list them.
func (c *Cluster) applyCertManagerCRDs(ctx context.Context) error {
	client, err := dynamic.NewForConfig(c.restConfig)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(c.binaries.Path(binaries.CRDsFile))
	if err != nil {
		return err
	}
	definitions := client.Resource(crdResource)
	var names []string
	for documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096); ; {
		var definition unstructured.Unstructured
		if err := documents.Decode(&definition); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if len(definition.Object) == 0 {
			continue
		}
		if _, err := definitions.Create(ctx, &definition, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
		names = append(names, definition.GetName())
	}
	for _, name := range names {
		err := c.waitFor(ctx, APIServer, func(ctx context.Context) error {
			definition, err := definitions.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if !hasCondition(definition, "Established") {
				return fmt.Errorf("CustomResourceDefinition %q is not established yet", name)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// checkCertManager says what is missing in a cluster that is not ours.
func (c *Cluster) checkCertManager(ctx context.Context) error {
	client, err := dynamic.NewForConfig(c.restConfig)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, err = client.Resource(crdResource).Get(ctx, "certificates.cert-manager.io", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("the cluster of %s has no cert-manager, which the chart needs; install cert-manager first", c.kubeconfig)
	} else if err != nil {
		return fmt.Errorf("asking the cluster of %s for cert-manager: %w", c.kubeconfig, err)
	}
	return nil
}

func hasCondition(object *unstructured.Unstructured, kind string) bool {
	conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	for _, entry := range conditions {
		if condition, ok := entry.(map[string]any); ok && condition["type"] == kind && condition["status"] == "True" {
			return true
		}
	}
	return false
}
