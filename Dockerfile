# The images of podtoken: --target webhook, --target controller and --target sidecar. Each holds one static
# program, its licence, and the licences of what is linked into it (licenses/, see `make licenses`).
ARG BUILDER_IMAGE=golang:1.26

# The compiler runs on the platform of the build and compiles for the platform of the image.
FROM --platform=$BUILDPLATFORM ${BUILDER_IMAGE} AS source
WORKDIR /src
# The dependencies change seldom; what they need comes before what changes often.
COPY go.mod go.sum ./
RUN go mod download
COPY pkg/ pkg/
COPY internal/ internal/
COPY cmd/ cmd/
ARG TARGETOS
ARG TARGETARCH
# The same sources give the same bytes: no paths of the build, no version control, no C compiler.
ENV CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH

FROM source AS build-webhook
ARG VERSION=v0.0.0-dev
RUN go build -trimpath -buildvcs=false \
    -ldflags="-s -w -X github.com/podtoken/podtoken/internal/version.Version=$VERSION" \
    -o /out/podtoken-webhook ./cmd/webhook

FROM source AS build-controller
ARG VERSION=v0.0.0-dev
RUN go build -trimpath -buildvcs=false \
    -ldflags="-s -w -X github.com/podtoken/podtoken/internal/version.Version=$VERSION" \
    -o /out/podtoken-controller ./cmd/controller

FROM source AS build-sidecar
ARG VERSION=v0.0.0-dev
RUN go build -trimpath -buildvcs=false \
    -ldflags="-s -w -X github.com/podtoken/podtoken/internal/version.Version=$VERSION" \
    -o /out/podtoken-sidecar ./cmd/sidecar

FROM scratch AS webhook
ARG VERSION=v0.0.0-dev
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="podtoken webhook" \
      org.opencontainers.image.description="Adds the podtoken sidecar to annotated Kubernetes pods" \
      org.opencontainers.image.source="https://github.com/podtoken/podtoken" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
COPY --chmod=0555 --from=build-webhook /out/podtoken-webhook /podtoken-webhook
COPY --chmod=0444 LICENSE licenses/webhook.txt /licenses/
USER 65532:65532
ENTRYPOINT ["/podtoken-webhook"]

FROM scratch AS controller
ARG VERSION=v0.0.0-dev
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="podtoken controller" \
      org.opencontainers.image.description="Lets annotated Kubernetes pods mint the tokens that they declare, and nothing else" \
      org.opencontainers.image.source="https://github.com/podtoken/podtoken" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
COPY --chmod=0555 --from=build-controller /out/podtoken-controller /podtoken-controller
COPY --chmod=0444 LICENSE licenses/controller.txt /licenses/
USER 65532:65532
ENTRYPOINT ["/podtoken-controller"]

FROM scratch AS sidecar
ARG VERSION=v0.0.0-dev
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="podtoken sidecar" \
      org.opencontainers.image.description="Keeps the tokens of one Kubernetes pod fresh" \
      org.opencontainers.image.source="https://github.com/podtoken/podtoken" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
COPY --chmod=0555 --from=build-sidecar /out/podtoken-sidecar /podtoken-sidecar
COPY --chmod=0444 LICENSE licenses/sidecar.txt /licenses/
USER 65532:65532
ENTRYPOINT ["/podtoken-sidecar"]
