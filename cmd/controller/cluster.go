package main

import (
	"fmt"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/podtoken/podtoken/internal/version"
)

// Requests per second to the API server. A cluster with a thousand ServiceAccounts needs two thousand requests at the
// first start, and a handful an hour later; the API server's own priority and fairness is what protects it.
const (
	clientQPS   = 100
	clientBurst = 200
)

// clusterConfig returns how to reach the API server.
func clusterConfig(kubeconfig string) (*rest.Config, error) {
	var cluster *rest.Config
	var err error
	if kubeconfig == "" {
		cluster, err = rest.InClusterConfig()
	} else {
		cluster, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("reading how to reach the API server (flag --kubeconfig: %q): %w", kubeconfig, err)
	}
	cluster.QPS, cluster.Burst = clientQPS, clientBurst
	cluster.UserAgent = "podtoken-controller/" + version.Version
	return cluster, nil
}
