package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	stdlog "log"
	"math/rand"
	"net/http"
	"os"
	"path/filepath"

	"github.com/aws/amazon-eks-pod-identity-webhook/pkg/cache"
	"github.com/aws/amazon-eks-pod-identity-webhook/pkg/containercredentials"
	"github.com/aws/amazon-eks-pod-identity-webhook/pkg/handler"
	"github.com/go-logr/logr"
	"github.com/hashicorp/go-hclog"
	agentinject "github.com/hashicorp/vault-k8s/agent-inject"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	crlog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	cradmission "sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"gomodules.xyz/jsonpatch/v2"

	"github.com/podtoken/podtoken/bench/admission/tlsserver"
	"github.com/podtoken/podtoken/internal/admission/reviews"
)

// others are the webhooks beside our own, by name.
var others = map[string]func(log io.Writer) http.Handler{
	"controller-runtime": func(io.Writer) http.Handler { return controllerRuntime(explicitOperations) },
	"c-r with a diff":    func(io.Writer) http.Handler { return controllerRuntime(diff) },
	"EKS pod identity":   eks,
	vaultName:            vault,
}

const vaultName = "Vault agent injector"

// serve runs one of the others with the certificate in the directory, until its parent ends it.
func serve(ctx context.Context, name, dir, address string) error {
	crlog.SetLogger(logr.Discard()) // else it keeps all lines of its first half minute in memory
	logFile, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer func() { _ = logFile.Close() }()
	stdlog.SetOutput(logFile)
	return tlsserver.Serve(ctx, others[name](logFile), dir, address)
}

// controllerRuntime is a webhook as its documentation shows it.
func controllerRuntime(answer func(request cradmission.Request, pod *corev1.Pod) cradmission.Response) http.Handler {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		panic(err)
	}
	decoder := cradmission.NewDecoder(scheme)
	return &webhook.Admission{Handler: cradmission.HandlerFunc(func(_ context.Context, request cradmission.Request) cradmission.Response {
		pod := &corev1.Pod{}
		if err := decoder.Decode(request, pod); err != nil {
			return cradmission.Errored(http.StatusBadRequest, err)
		}
		return answer(request, pod)
	})}
}

// added is about what we add: a volume and a container.
func added() (corev1.Volume, corev1.Container) {
	always := corev1.ContainerRestartPolicyAlways
	return corev1.Volume{Name: "tokens", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
		corev1.Container{
			Name: "tokens", Image: "example/tokens:v1", RestartPolicy: &always, Args: []string{"--audience=vault"},
			VolumeMounts: []corev1.VolumeMount{{Name: "tokens", MountPath: "/tokens"}},
		}
}

func explicitOperations(_ cradmission.Request, pod *corev1.Pod) cradmission.Response {
	volume, container := added()
	patches := []jsonpatch.Operation{
		jsonpatch.NewOperation("add", "/spec/volumes/-", volume),
		jsonpatch.NewOperation("add", "/spec/initContainers", []corev1.Container{container}),
	}
	for i := range pod.Spec.Containers {
		patches = append(patches, jsonpatch.NewOperation("add", fmt.Sprintf("/spec/containers/%d/volumeMounts/-", i), container.VolumeMounts[0]))
	}
	return cradmission.Patched("", patches...)
}

func diff(request cradmission.Request, pod *corev1.Pod) cradmission.Response {
	volume, container := added()
	pod.Spec.Volumes = append(pod.Spec.Volumes, volume)
	pod.Spec.InitContainers = append(pod.Spec.InitContainers, container)
	for i := range pod.Spec.Containers {
		pod.Spec.Containers[i].VolumeMounts = append(pod.Spec.Containers[i].VolumeMounts, container.VolumeMounts[0])
	}
	after, err := json.Marshal(pod)
	if err != nil {
		return cradmission.Errored(http.StatusInternalServerError, err)
	}
	return cradmission.PatchResponseFromRaw(request.Object.Raw, after)
}

// eks is amazon-eks-pod-identity-webhook; the ServiceAccount is in its cache.
func eks(io.Writer) http.Handler {
	accounts := cache.NewFakeServiceAccountCache()
	accounts.Add(reviews.ServiceAccount, reviews.Namespace, "arn:aws:iam::111122223333:role/shop", "sts.amazonaws.com", true, 86400)
	return http.HandlerFunc(handler.NewModifier(rand.New(rand.NewSource(1)), //nolint:gosec // its jitter
		handler.WithServiceAccountCache(accounts),
		handler.WithContainerCredentialsConfig(&containercredentials.FakeConfig{}),
	).Handle)
}

// vault is vault-k8s. It injects what annotations of its own ask for.
func vault(log io.Writer) http.Handler {
	h := &agentinject.Handler{
		RequireAnnotation: true, VaultAddress: "https://vault.example.com", VaultAuthPath: "auth/kubernetes", VaultAuthType: "kubernetes",
		ImageVault: "hashicorp/vault:1.19", UserID: "100", GroupID: "1000", DefaultTemplate: "map", ExitOnRetryFailure: true,
		ResourceRequestCPU: "250m", ResourceRequestMem: "64Mi", ResourceLimitCPU: "500m", ResourceLimitMem: "128Mi",
		Log: hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Info}),
	}
	return http.HandlerFunc(h.Handle)
}
