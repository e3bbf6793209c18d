package api

// Prefix is the domain of every annotation and label that podtoken reads or writes.
const Prefix = "podtoken.dev/"

// Annotations on the pod (template). Keys that end in a dot take a token's name as suffix.
const (
	// AnnotationAudience lists the audiences of a single token named DefaultTokenName.
	AnnotationAudience = Prefix + "audience"
	// AnnotationAudienceOf, with a token's name, lists the audiences (1 to MaxAudiences) of that one token.
	AnnotationAudienceOf = AnnotationAudience + "."

	// AnnotationExpiration is the lifetime to ask for: MinExpirationSeconds up to the installation's maximum.
	// Without suffix it is the default of all tokens of the pod.
	AnnotationExpiration = Prefix + "expiration"
	// AnnotationExpirationOf is AnnotationExpiration for one token.
	AnnotationExpirationOf = AnnotationExpiration + "."

	// AnnotationPathOf is the token's file below the mount directory; the token's name by default.
	AnnotationPathOf = Prefix + "path."
	// AnnotationEnvOf names the variable that holds the file's absolute path; EnvNone for no variable.
	AnnotationEnvOf = Prefix + "env."

	// AnnotationFileMode is the octal mode of the token files, owner-readable, never writable by group or others.
	AnnotationFileMode = Prefix + "file-mode"
	// AnnotationFileModeOf is AnnotationFileMode for one token.
	AnnotationFileModeOf = AnnotationFileMode + "."

	// AnnotationMountPath is the directory in the containers; DefaultMountPath by default.
	AnnotationMountPath = Prefix + "mount-path"
	// AnnotationContainers names the only containers that get the mount and the variables.
	AnnotationContainers = Prefix + "containers"
	// AnnotationSkipContainers names containers that get neither.
	AnnotationSkipContainers = Prefix + "skip-containers"

	// AnnotationRefreshAt is the part of the lifetime, in percent, after which a token is replaced.
	AnnotationRefreshAt = Prefix + "refresh-at"
	// AnnotationWait tells whether the pod's other containers wait until every token exists: WaitTrue, WaitFalse or WaitStrict.
	AnnotationWait = Prefix + "wait"
	// AnnotationNotify is a loopback URL that is POSTed after files changed.
	AnnotationNotify = Prefix + "notify"
	// AnnotationNotifySignal is SIGNAL:process-name, sent after files changed.
	AnnotationNotifySignal = Prefix + "notify-signal"
	// AnnotationMetricsPort opens the sidecar's port for /metrics, /healthz and /readyz.
	AnnotationMetricsPort = Prefix + "metrics-port"
	// AnnotationReadiness tells whether the pod is unready while one of its tokens is missing or expired. It needs
	// AnnotationMetricsPort.
	AnnotationReadiness = Prefix + "readiness"
	// AnnotationDelivery is DeliverySidecar or DeliveryProjected.
	AnnotationDelivery = Prefix + "delivery"
	// AnnotationSidecarResources is the JSON of a container's resources.
	AnnotationSidecarResources = Prefix + "sidecar-resources"
	// AnnotationFormatOf is one of Formats: what the token's file holds.
	AnnotationFormatOf = Prefix + "format."
	// AnnotationTemplateOf is a template for what the token's file holds, in place of a format.
	AnnotationTemplateOf = Prefix + "template."
	// AnnotationKubeconfigServerOf is the API server in the kubeconfig of FormatKubeconfig; the pod's own cluster's by default.
	AnnotationKubeconfigServerOf = Prefix + "kubeconfig-server."
	// AnnotationKubeconfigCAOf has the certificates, PEM or base64 of it, that sign for that server.
	AnnotationKubeconfigCAOf = Prefix + "kubeconfig-ca."

	// AnnotationAWSRoleARNOf is the role that AWS SDKs assume with the token. It asks for the token, as the other presets do.
	AnnotationAWSRoleARNOf = Prefix + "aws-role-arn."
	// AnnotationAWSRegionOf is the region of the AWS SDKs.
	AnnotationAWSRegionOf = Prefix + "aws-region."
	// AnnotationAWSSessionNameOf names the session of the role.
	AnnotationAWSSessionNameOf = Prefix + "aws-session-name."

	// AnnotationAzureClientIDOf is the application or managed identity as which Azure SDKs log in with the token.
	AnnotationAzureClientIDOf = Prefix + "azure-client-id."
	// AnnotationAzureTenantIDOf is its tenant.
	AnnotationAzureTenantIDOf = Prefix + "azure-tenant-id."
	// AnnotationAzureAuthorityHostOf is where Azure SDKs log in; DefaultAzureAuthorityHost by default.
	AnnotationAzureAuthorityHostOf = Prefix + "azure-authority-host."

	// AnnotationGCPProviderOf is the workload identity pool's provider at which Google's libraries exchange the token.
	AnnotationGCPProviderOf = Prefix + "gcp-provider."
	// AnnotationGCPServiceAccountOf is the service account that is impersonated then: its e-mail address, or the URL for that.
	AnnotationGCPServiceAccountOf = Prefix + "gcp-service-account."
	// AnnotationGCPTokenURLOf is where the token is exchanged; DefaultGCPTokenURL by default.
	AnnotationGCPTokenURLOf = Prefix + "gcp-token-url."

	// AnnotationVaultRoleOf is the role as which a Vault or OpenBao agent logs in with the token.
	AnnotationVaultRoleOf = Prefix + "vault-role."
	// AnnotationVaultAddrOf is the server's URL.
	AnnotationVaultAddrOf = Prefix + "vault-addr."
	// AnnotationVaultAuthPathOf is the mount of the JWT auth method; DefaultVaultAuthPath by default.
	AnnotationVaultAuthPathOf = Prefix + "vault-auth-path."
	// AnnotationVaultNamespaceOf is the server's namespace.
	AnnotationVaultNamespaceOf = Prefix + "vault-namespace."

	// AnnotationProfile names sets of settings of the installation.
	AnnotationProfile = Prefix + "profile"

	// AnnotationInject switches injection off with "false".
	AnnotationInject = Prefix + "inject"

	// AnnotationStatus is written by the webhook (see Status); users do not set it.
	AnnotationStatus = Prefix + "status"
)

// Values of AnnotationWait.
const (
	// WaitTrue is the default: a hook of the sidecar holds them back.
	WaitTrue = "true"
	// WaitFalse lets them start at once.
	WaitFalse = "false"
	// WaitStrict holds them back also when the kubelet is started again meanwhile, which runs no hook twice. It costs a startup
	// probe, 1.2 s of each start as measured (docs/performance.md).
	WaitStrict = "strict"
)

// Values of AnnotationDelivery.
const (
	DeliverySidecar   = "sidecar"
	DeliveryProjected = "projected"
)

// Values of AnnotationFormatOf.
const (
	// FormatRaw is the token and nothing else.
	FormatRaw = "raw"
	// FormatJSON is an object with token, audiences and expiration.
	FormatJSON = "json"
	// FormatHeader is the header of an HTTP request, as curl -H @file takes it.
	FormatHeader = "header"
	// FormatKubeconfig is a kubeconfig with server, authorities and token.
	FormatKubeconfig = "kubeconfig"
	// FormatExecCredential is an ExecCredential of client.authentication.k8s.io/v1.
	FormatExecCredential = "exec-credential" //nolint:gosec // a name
)

// Formats lists every value of AnnotationFormatOf.
func Formats() []string {
	return []string{FormatRaw, FormatJSON, FormatHeader, FormatKubeconfig, FormatExecCredential}
}

// Default audiences of the presets: those that the other side expects when nobody configures another. That of
// AnnotationGCPProviderOf is GCPAudiencePrefix and the provider.
const (
	AWSAudience       = "sts.amazonaws.com"
	AzureAudience     = "api://AzureADTokenExchange"
	GCPAudiencePrefix = "https://iam.googleapis.com/"
	VaultAudience     = "vault"
)

// Other defaults of the presets.
const (
	DefaultAzureAuthorityHost = "https://login.microsoftonline.com/"
	DefaultGCPTokenURL        = "https://sts.googleapis.com/v1/token" //nolint:gosec // a public address
	DefaultVaultAuthPath      = "auth/jwt"
)

// Suffixes of the path of a token for the files that presets add.
const (
	GCPFileSuffix   = ".json"
	VaultFileSuffix = ".hcl"
)

// NotifySignals are the signals of AnnotationNotifySignal: those that a program may take as "read your files again".
func NotifySignals() []string {
	return []string{"SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGWINCH"}
}

// EnvNone is the value of AnnotationEnvOf for "no variable".
const EnvNone = "none"

// DefaultTokenName is the name of the token that AnnotationAudience, without a name, asks for.
const DefaultTokenName = "token"

// Limits and defaults of the contract.
const (
	MaxTokenNameLength       = 40
	MaxAudiences             = 8
	MinExpirationSeconds     = 600
	DefaultExpirationSeconds = 3600
	// MaxExpirationSeconds is what the API server accepts at most, whatever an installation allows
	// (k8s.io/kubernetes@v1.37.2/pkg/apis/authentication/validation/validation.go).
	MaxExpirationSeconds = 1 << 32
	// ForbiddenExpirationSeconds is the lifetime that kube-apiserver extends to a year for pod-bound tokens of the API
	// server's audience (k8s.io/kubernetes@v1.37.2/pkg/serviceaccount/claims.go). podtoken never asks for it.
	ForbiddenExpirationSeconds = 3607
	MinRefreshAtPercent        = 20
	MaxRefreshAtPercent        = 90
	DefaultRefreshAtPercent    = 80
	DefaultMountPath           = "/var/run/secrets/podtoken.dev"
)

// LabelInjected marks the pods that the webhook changed; its value is "true".
const LabelInjected = Prefix + "injected"

// Annotations of others that the webhook reads or merges.
const (
	// AnnotationMirrorPod marks the API server's copies of static pods, which must never be changed.
	AnnotationMirrorPod = "kubernetes.io/config.mirror"
	// AnnotationSafeToEvict lists the volumes that do not keep the cluster autoscaler from removing a node.
	AnnotationSafeToEvict = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
)

// Status is the value of AnnotationStatus, as JSON.
type Status struct {
	// Version of the webhook that injected.
	Version string `json:"version"`
	// Tokens are the names of the pod's tokens, sorted.
	Tokens []string `json:"tokens"`
	// Hash identifies what was injected.
	Hash string `json:"hash"`
}
