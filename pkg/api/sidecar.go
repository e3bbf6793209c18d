package api

// Names inside an injected pod.
const (
	// ContainerName is the injected native sidecar.
	ContainerName = "podtoken"
	// VolumeTokens is the volume that holds the token files.
	VolumeTokens = "podtoken"
	// VolumeAPI is the projected volume with the sidecar's own API credential, CA and namespace.
	VolumeAPI = "podtoken-api"

	// SidecarBinary is the path of the binary in the sidecar's image.
	SidecarBinary = "/podtoken-sidecar"
	// SidecarTokenDir is where the sidecar itself mounts VolumeTokens, whatever AnnotationMountPath says.
	SidecarTokenDir = DefaultMountPath
	// APIMountPath is where the sidecar mounts VolumeAPI: the place where every in-cluster client looks.
	APIMountPath = "/var/run/secrets/kubernetes.io/serviceaccount"
	// APITokenExpirationSeconds is the shortest lifetime that the API server grants, so that the kubelet renews the
	// sidecar's own credential every eight minutes.
	APITokenExpirationSeconds = 600
)

// Files below the token directory that are podtoken's own. No path of a token may have a segment with ReservedPrefix.
const (
	ReservedPrefix = ".podtoken"
	StatusFile     = ReservedPrefix + "-status.json"
	TempPrefix     = ReservedPrefix + "-tmp-"
	// TokenPrefix, with a token's name, is the file of a token that applications read in another format: the token itself,
	// out of which the other files are made.
	TokenPrefix = ReservedPrefix + "-token-"
)

// Subcommands and flags of the sidecar.
const (
	CommandRun       = "run"
	CommandWait      = "wait"
	CommandCheck     = "check"
	CommandRefresh   = "refresh"
	FlagToken        = "token"
	FlagNotify       = "notify"
	FlagNotifySignal = "notify-signal"
	FlagMetricsPort  = "metrics-port"
	// FlagOutput is of CommandCheck. OutputJSON is for programs.
	FlagOutput = "output"
	OutputJSON = "json"
	// FlagTimeout is of CommandWait and CommandRefresh, a Go duration.
	FlagTimeout = "timeout"
)

// Paths on the sidecar's port. The readiness probe of AnnotationReadiness asks for PathReady.
const (
	PathMetrics = "/metrics"
	PathHealth  = "/healthz"
	PathReady   = "/readyz"
)

// Environment of the sidecar, filled in by the downward API.
const (
	EnvPodName        = "PODTOKEN_POD_NAME"
	EnvPodNamespace   = "PODTOKEN_POD_NAMESPACE"
	EnvPodUID         = "PODTOKEN_POD_UID"
	EnvServiceAccount = "PODTOKEN_SERVICE_ACCOUNT"
)

// TokenSpec is what the webhook tells the sidecar about one token: the JSON value of FlagToken. It stands in the pod's
// immutable spec, where `kubectl describe pod` shows it and the grant controller reads the audiences.
type TokenSpec struct {
	// Name of the token, a DNS label of at most MaxTokenNameLength characters.
	Name string `json:"name"`
	// Audiences of the one token, 1 to MaxAudiences, no duplicates, in the user's order.
	Audiences []string `json:"audiences"`
	// ExpirationSeconds to ask for; the API server may grant less.
	ExpirationSeconds int64 `json:"expirationSeconds"`
	// Path of the file, relative to the token directory.
	Path string `json:"path"`
	// Mode of the file and of Files: four octal digits, as "0400".
	Mode string `json:"mode"`
	// RefreshAtPercent of the granted lifetime the token is replaced.
	RefreshAtPercent int `json:"refreshAtPercent"`
	// Files are made out of the token whenever it is replaced, before its own file is.
	Files []FileSpec `json:"files,omitempty"`
}

// FileSpec is a file that is made out of a token. It is no place for a secret: everybody who may read the pod reads it.
type FileSpec struct {
	// Path of the file, relative to the token directory.
	Path string `json:"path"`
	// Steps write its text. They are a parsed template (see pkg/tokenfile).
	Steps []Step `json:"steps"`
}

// Step is a part of a template: a text; a value that is written; or what Do says.
type Step struct {
	Text string `json:"text,omitempty"`
	// Do is one of the constants below; empty when a text or a value is written.
	Do    string `json:"do,omitempty"`
	Value *Expr  `json:"value,omitempty"`
	// Vars get the value, or the elements of a range.
	Vars []string `json:"vars,omitempty"`
	Then []Step   `json:"then,omitempty"`
	Else []Step   `json:"else,omitempty"`
	// At tells the template's author where it is; the sidecar does not know.
	At string `json:"-"`
}

// What a Step can do.
const (
	// DoSet declares the one variable in Vars, and DoAssign gives it another value.
	DoSet    = "set"
	DoAssign = "assign"
	// DoIf, DoWith and DoRange are those of text/template.
	DoIf    = "if"
	DoWith  = "with"
	DoRange = "range"
)

// Expr is a value in a template: that of a call, a literal, or of the name with which Get begins.
type Expr struct {
	Call string `json:"call,omitempty"`
	Args []Expr `json:"args,omitempty"`
	// Literal is a text, a whole number or a truth value.
	Literal any `json:"literal,omitempty"`
	// Get is "." or ".member.member", of the present value, "$" or "$variable.member", or, of a call, ".member".
	Get string `json:"get,omitempty"`
	// At is as that of a Step.
	At string `json:"-"`
}
