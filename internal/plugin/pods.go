package plugin

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/podtoken/podtoken/pkg/api"
)

// injected selects the pods that the webhook changed.
const injected = api.LabelInjected + "=true"

// PodsOf returns the pods that an argument names: one pod, or the injected pods of a workload, TYPE/NAME.
func (c *Cluster) PodsOf(ctx context.Context, argument string) ([]corev1.Pod, error) {
	object, err := c.Object(ctx, argument)
	if err != nil {
		return nil, err
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return nil, err
	}
	if content["kind"] == "Pod" {
		var pod corev1.Pod
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, &pod); err != nil {
			return nil, err
		}
		return []corev1.Pod{pod}, nil
	}
	spec, _ := content["spec"].(map[string]any)
	selector, err := podSelector(spec)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q: %w", argument, err)
	case content["kind"] == "CronJob":
		return nil, fmt.Errorf("%q has no pods of its own: name one of its Jobs, as job/NAME", argument)
	case selector == "":
		return nil, fmt.Errorf("%q has no pods: name a pod or a workload, as pod/NAME or deployment/NAME", argument)
	}
	return c.Injected(ctx, c.Namespace, selector)
}

// Injected returns the injected pods of a namespace, of all with an empty one, that match the selector, which may be empty.
func (c *Cluster) Injected(ctx context.Context, namespace, selector string) ([]corev1.Pod, error) {
	if selector != "" {
		selector += ","
	}
	list, err := c.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector + injected})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// CompletePods completes the names of injected pods.
func (e *Env) CompletePods(command *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
	return e.complete(args, begin, func(c *Cluster) (names []string, err error) {
		pods, err := c.Injected(command.Context(), c.Namespace, "")
		for i := range pods {
			names = append(names, pods[i].Name)
		}
		return names, err
	})
}

// CompleteAccounts completes the names of ServiceAccounts.
func (e *Env) CompleteAccounts(command *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
	return e.complete(args, begin, func(c *Cluster) (names []string, err error) {
		list, err := c.Client.CoreV1().ServiceAccounts(c.Namespace).List(command.Context(), metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
		return names, nil
	})
}

// complete completes the first argument, of which there is a beginning.
func (e *Env) complete(args []string, begin string, names func(*Cluster) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	c, err := e.Connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	found, err := names(c)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return slices.DeleteFunc(found, func(name string) bool { return !strings.HasPrefix(name, begin) }), cobra.ShellCompDirectiveNoFileComp
}
