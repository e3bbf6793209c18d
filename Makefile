# podtoken. `make` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --warn-undefined-variables --no-builtin-rules
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo v0.0.0-dev)
GO_BUILD := CGO_ENABLED=0 go build -trimpath -buildvcs=false
LDFLAGS := -s -w -X github.com/podtoken/podtoken/internal/version.Version=$(VERSION)
# The test cluster's command: it builds Kubernetes, helm and cert-manager from Go modules and installs Debian packages.
CLUSTER := cd e2e && CGO_ENABLED=0 go run ./cmd/cluster
LINT := go tool -modfile=$(CURDIR)/hack/tools/go.mod golangci-lint
DEMO ?= demo
# What tests without a cluster run under: UNDER=hack/hostile-env.sh shows that nothing of your shell matters to them.
UNDER ?=
FUZZ ?=
FUZZTIME ?=
TEST = $(if $(UNDER),$(abspath $(UNDER))) go test
# Where benchmarks write their tables.
REPORT ?= docs/performance.md

##@ What most people want
help: ## Show this list.
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## A running cluster with podtoken and an example pod, and what the pod's application sees.
	@cd e2e && CGO_ENABLED=0 go run ./cmd/demo --name $(DEMO)

demo-down: ## Remove what `make demo` left running.
	@$(CLUSTER) down --name $(DEMO)

test: test-unit test-chart test-policies test-alerts e2e ## Everything: unit, race, golden, fuzz corpus, chart, and the suite on a real cluster.

##@ Parts of `make test`
test-unit: cluster-tools ## Unit, golden and fuzz-corpus tests under the race detector, and the example applications.
	hack/test-tools.sh
	$(TEST) -race ./...
	cd hack/supply && $(TEST) ./...

test-chart: ## Render the chart with the real helm and compare it with what is committed.
	helm="$$($(CLUSTER) path)/helm" && HELM="$$helm" hack/chart/render.sh --check && HELM="$$helm" $(TEST) -tags helm -count=1 ./hack/chart/...

test-policies: ## The expressions of the admission policies: what they match, deny and cost, with the API server's own code.
	cd hack/policies && $(TEST) -count=1 .

test-alerts: ## Alerts, dashboard and metrics, with Prometheus's own code.
	cd hack/alerts && $(TEST) -count=1 ./...

e2e: cluster-tools ## The suite on a real Kubernetes (KUBECONFIG and PODTOKEN_E2E_REGISTRY choose another cluster).
	cd e2e && go test -count=1 -timeout 20m ./attack ./cluster/...
	cd e2e && go test -count=1 -timeout 60m -parallel 16 -v .

# What takes long and is the same on every version.
SAME_ON_ALL_VERSIONS := TestComparedWithAProjectedVolume|TestKilledTwoHundredTimes|TestReplicasComeAndGo|TestExampleApplication
e2e-versions: ## The suite on older versions of Kubernetes, without what is the same on all of them (KUBERNETES=1.35 for one).
	for version in $${KUBERNETES:-$$($(CLUSTER) versions | tail -n +2)}; do echo "=== Kubernetes $$version"; \
		(cd e2e && PODTOKEN_E2E_KUBERNETES=$$version go test -count=1 -timeout 60m -parallel 16 -v -skip '$(SAME_ON_ALL_VERSIONS)' .); done

cluster-tools: ## Build Kubernetes, helm and cert-manager once, and install the Debian packages that tests need.
	@$(CLUSTER) build >/dev/null

##@ Development
build: ## Build the binaries into bin/.
	$(GO_BUILD) -ldflags '$(LDFLAGS)' -o bin/podtoken-webhook ./cmd/webhook
	$(GO_BUILD) -ldflags '$(LDFLAGS)' -o bin/podtoken-controller ./cmd/controller
	$(GO_BUILD) -ldflags '$(LDFLAGS)' -o bin/podtoken-sidecar ./cmd/sidecar
	$(GO_BUILD) -ldflags '$(LDFLAGS)' -o bin/kubectl-podtoken ./cmd/kubectl-podtoken

lint: ## Run golangci-lint over every module, and actionlint over the workflows.
	$(LINT) run ./...
	cd e2e && $(LINT) run --config ../.golangci.yml ./...
	cd e2e/clients && $(LINT) run --config ../../.golangci.yml ./...
	cd bench && $(LINT) run --config ../.golangci.yml ./...
	cd bench/admission && $(LINT) run --config ../../.golangci.yml ./...
	cd hack/alerts && $(LINT) run --config ../../.golangci.yml ./...
	cd hack/policies && $(LINT) run --config ../../.golangci.yml ./...
	cd hack/supply && $(LINT) run --config ../../.golangci.yml ./...
	go tool -modfile=hack/supply/go.mod actionlint -shellcheck= -pyflakes=

generate: ## Render manifests/install.yaml and the chart's golden files.
	HELM="$$($(CLUSTER) path)/helm" hack/chart/render.sh

RECORDING := $(or $(TMPDIR),/tmp)/podtoken-recording.jsonl
picture: cluster-tools ## Draw the dashboard from thirteen minutes of a real cluster into docs/dashboard.svg.
	cd e2e && CGO_ENABLED=0 go run ./cmd/record --to $(RECORDING)
	cd hack/alerts && go run ./picture --recording $(RECORDING) --board ../../charts/podtoken/files/dashboard.json --to ../../docs/dashboard.svg
	rm $(RECORDING)

golden: ## Rewrite every golden file; review the diff like code.
	hack/golden.sh
	$(MAKE) generate

licenses: ## Check the licences of what is linked, and rewrite the texts that are shipped in licenses/.
	go run -C hack/supply ./licences

verify: ## Check generated files, formatting, modules, licences of what is linked, and known vulnerabilities.
	hack/verify.sh

fuzz: ## Fuzz each target below FUZZ (default: everywhere) for FUZZTIME (default 30s).
	hack/fuzz.sh $(or $(FUZZTIME),30s) $(FUZZ)

bench: bench-go bench-admission bench-sidecar ## Benchmarks without a cluster: ten minutes. Writes tables of docs/performance.md.

bench-cluster: bench-podstart bench-scale ## Benchmarks on a real Kubernetes: half an hour. Writes tables of docs/performance.md.

bench-go: ## Go's benchmarks of the admission path and the sidecar.
	go test -run '^$$' -bench . -benchmem ./pkg/... ./internal/... ./cmd/...

bench-admission: ## The webhook beside its peers and beside a server that does nothing, and with more callers than it can serve.
	cd bench/admission && go run . --report ../../$(REPORT)

bench-sidecar: ## The sidecar's process beside the least that can do its job (minutes).
	cd bench && go run ./cmd/sidecar -report ../$(REPORT)

bench-podstart: cluster-tools ## Starts of pods by ways of giving them tokens, and the sidecar's footprint in one.
	cd bench && go run ./cmd/podstart -report ../$(REPORT)

bench-scale: cluster-tools ## Ten thousand injected pods on nodes of kwok, which is built first.
	cd bench && go run ./cmd/scale -report ../$(REPORT)

footprint: build ## Sizes of the binaries and packages they link.
	@ls -l bin/ | awk 'NR>1 {printf "%-20s %.1f MB\n", $$NF, $$5/1e6}'
	@for c in webhook sidecar; do echo "$$c: $$(go list -deps ./cmd/$$c | grep -c '\.') packages outside the standard library"; done

image: ## Build the images with buildah, as the tests do.
	@$(CLUSTER) images

reproducible: ## Build binaries and images twice, and fail if they differ in a byte (minutes).
	hack/release/reproducible.sh

release: ## Make the files of a release in dist/ from the commit that is checked out (VERSION=vX.Y.Z; see docs/releasing.md).
	@hack/release/release.sh '$(if $(filter command environment,$(origin VERSION)),$(VERSION))'

release-notes: ## Print the newest section of the changelog.
	@awk '/^## /{n++} n==1' CHANGELOG.md

clean: ## Remove build output (the cache of test binaries stays; see e2e/doc.go).
	rm -rf bin dist

.PHONY: help demo demo-down test test-unit test-chart test-policies test-alerts e2e e2e-versions cluster-tools build lint generate picture golden licenses verify fuzz bench bench-cluster bench-go bench-admission bench-sidecar bench-podstart bench-scale footprint image reproducible release release-notes clean
