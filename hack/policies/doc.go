// Package policies evaluates the expressions of the chart's admission policies and of its webhook configuration with the API server's
// own code: what they match, what they deny, with which message, and what they cost.
//
// It is a module of its own, so that k8s.io/apiserver never becomes a dependency of the product.
package policies
