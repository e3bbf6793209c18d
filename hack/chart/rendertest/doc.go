// Package rendertest has the tests of the chart that need helm: what values are refused, and how names, images and
// values that are set to null come out. They are behind the build tag helm, so that `go test ./...` works without it:
//
//	HELM=/path/to/helm go test -tags helm ./hack/chart/rendertest
package rendertest
