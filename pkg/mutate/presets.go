package mutate

import (
	"encoding/json"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/podtoken/podtoken/pkg/api"
)

// preset is what an SDK needs besides the token: variables, and perhaps a file. It asks for the token by itself.
type preset struct {
	// key is the annotation that asks for it, with a dot at the end, and example a value of it.
	key, example string
	// others are the annotations that need it.
	others []string
	// audience is the token's, when the user names none. It gets the annotation's value, which may be wrong.
	audience func(value string) string
	// namesFile is set when one of the variables holds the file's path, so that another is not needed.
	namesFile bool
	// suffix is that of a file besides the token's; empty for none.
	suffix string
}

// presets in the order of their keys. What each does is in setPreset.
var presets = []preset{
	{
		key: api.AnnotationAWSRoleARNOf, example: "arn:aws:iam::123456789012:role/name",
		others:   []string{api.AnnotationAWSRegionOf, api.AnnotationAWSSessionNameOf},
		audience: constant(api.AWSAudience), namesFile: true,
	},
	{
		key: api.AnnotationAzureClientIDOf, example: "00000000-1111-2222-3333-444444444444",
		others:   []string{api.AnnotationAzureTenantIDOf, api.AnnotationAzureAuthorityHostOf},
		audience: constant(api.AzureAudience), namesFile: true,
	},
	{
		key: api.AnnotationGCPProviderOf, example: "projects/123456789012/locations/global/workloadIdentityPools/POOL/providers/PROVIDER",
		others:   []string{api.AnnotationGCPServiceAccountOf, api.AnnotationGCPTokenURLOf},
		audience: gcpAudience, namesFile: true, suffix: api.GCPFileSuffix,
	},
	{
		key: api.AnnotationVaultRoleOf, example: "app",
		others:   []string{api.AnnotationVaultAddrOf, api.AnnotationVaultAuthPathOf, api.AnnotationVaultNamespaceOf},
		audience: constant(api.VaultAudience), suffix: api.VaultFileSuffix,
	},
}

// asksByPreset tells whether the key, without a token's name, is that of a preset.
func asksByPreset(base string) bool {
	return slices.ContainsFunc(presets, func(p preset) bool { return p.key == base+"." })
}

// whatAsks tells what to add for a token that only a setting names.
func whatAsks(key, token string) string {
	for _, preset := range presets {
		if slices.Contains(preset.others, strings.TrimSuffix(key, token)) {
			return preset.key + token
		}
	}
	return api.AnnotationAudienceOf + token + " with the token's audiences"
}

// setPreset sets variables and files of the token's preset.
func (p *parser) setPreset(t *tokenRequest, preset *preset) {
	switch preset.key {
	case api.AnnotationAWSRoleARNOf:
		p.setAWS(t)
	case api.AnnotationAzureClientIDOf:
		p.setAzure(t)
	case api.AnnotationGCPProviderOf:
		p.setGCP(t)
	case api.AnnotationVaultRoleOf:
		p.setVault(t)
	}
}

func constant(audience string) func(string) string { return func(string) string { return audience } }

// presetOf returns the token's preset, nil for none.
func (p *parser) presetOf(t *tokenRequest) *preset {
	var found *preset
	for i := range presets {
		preset := &presets[i]
		if _, set := p.annotations[preset.key+t.name]; set {
			if found != nil {
				p.add(api.ReasonInvalidValue, "%s and %s are for one token, and whoever receives it could use it with the other: use two tokens",
					p.label(found.key+t.name), p.label(preset.key+t.name))
				continue
			}
			found = preset
			continue
		}
		for _, other := range preset.others {
			if _, set := p.annotations[other+t.name]; set {
				p.need("%s needs %s: add that, or remove this setting", p.label(other+t.name), preset.key+t.name)
			}
		}
	}
	if found != nil && found.suffix != "" && len(path.Base(t.path))+len(found.suffix) > maxPathBytes {
		p.add(api.ReasonInvalidValue, "%s: the file %s beside it would have too long a name: use at most %d bytes",
			p.label(api.AnnotationPathOf+t.name), quote(t.path+found.suffix), maxPathBytes-len(found.suffix))
	}
	return found
}

func (t *tokenRequest) setenv(name, value string) {
	if value != "" {
		t.variables = append(t.variables, variable{name: name, value: value})
	}
}

// setAWS sets what the AWS SDKs and the AWS CLI read. As for Amazon's own webhook, a region of the user's, under either name,
// is the region.
func (p *parser) setAWS(t *tokenRequest) {
	t.setenv("AWS_ROLE_ARN", setting(p, api.AnnotationAWSRoleARNOf+t.name, "", parseAWSRoleARN))
	t.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", t.file)
	t.rivals = []string{"AWS_ACCESS_KEY_ID"} // aws-sdk-go-v2/config@v1.33.18/resolve_credentials.go
	t.setenv("AWS_ROLE_SESSION_NAME", setting(p, api.AnnotationAWSSessionNameOf+t.name, "", parseAWSSessionName))
	if region := setting(p, api.AnnotationAWSRegionOf+t.name, "", parseAWSRegion); region != "" {
		t.variables = append(t.variables,
			variable{name: "AWS_REGION", value: region, unless: "AWS_DEFAULT_REGION"},
			variable{name: "AWS_DEFAULT_REGION", value: region, unless: "AWS_REGION"},
			variable{name: "AWS_STS_REGIONAL_ENDPOINTS", value: "regional", quiet: true})
	}
}

// azureKeeps is how long the Azure SDKs for Go and Python go on with a token that they have read; the one for JavaScript takes half of
// it. They reckon with the kubelet's tokens of an hour (azidentity@v1.15.0/workload_identity.go).
const azureKeeps = 10 * time.Minute

// setAzure sets what the Azure SDKs' WorkloadIdentityCredential reads.
func (p *parser) setAzure(t *tokenRequest) {
	tenantKey, hostKey := api.AnnotationAzureTenantIDOf+t.name, api.AnnotationAzureAuthorityHostOf+t.name
	t.setenv("AZURE_CLIENT_ID", setting(p, api.AnnotationAzureClientIDOf+t.name, "", parseAzureClientID))
	if _, set := p.annotations[tenantKey]; !set {
		p.need("%s needs %s: add the tenant", p.label(api.AnnotationAzureClientIDOf+t.name), tenantKey)
	}
	t.setenv("AZURE_TENANT_ID", setting(p, tenantKey, "", parseAzureTenantID))
	t.setenv("AZURE_FEDERATED_TOKEN_FILE", t.file)
	// DefaultAzureCredential tries EnvironmentCredential first (azidentity@v1.15.0/default_azure_credential.go).
	t.rivals = []string{"AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PATH"}
	t.kept = azureKeeps
	_, set := p.annotations[hostKey]
	t.variables = append(t.variables, variable{
		name: "AZURE_AUTHORITY_HOST", value: setting(p, hostKey, api.DefaultAzureAuthorityHost, parseHTTPS), quiet: !set,
	})
}

func gcpAudience(value string) string {
	provider, err := parseGCPProvider(value)
	if err != nil {
		return "" // the value is refused
	}
	return api.GCPAudiencePrefix + provider
}

// setGCP adds the file that Google's libraries call application default credentials.
func (p *parser) setGCP(t *tokenRequest) {
	provider := setting(p, api.AnnotationGCPProviderOf+t.name, "", parseGCPProvider)
	type format struct {
		Type string `json:"type"`
	}
	type source struct {
		File   string `json:"file"`
		Format format `json:"format"`
	}
	document, err := json.MarshalIndent(struct { //nolint:gosec // names and addresses; the token is in another file
		Type             string `json:"type"`
		Audience         string `json:"audience"`
		SubjectTokenType string `json:"subject_token_type"`
		TokenURL         string `json:"token_url"`
		ImpersonationURL string `json:"service_account_impersonation_url,omitempty"`
		CredentialSource source `json:"credential_source"`
	}{
		Type:             "external_account",
		Audience:         "//iam.googleapis.com/" + provider,
		SubjectTokenType: "urn:ietf:params:oauth:token-type:jwt",
		TokenURL:         setting(p, api.AnnotationGCPTokenURLOf+t.name, api.DefaultGCPTokenURL, parseHTTPS),
		ImpersonationURL: setting(p, api.AnnotationGCPServiceAccountOf+t.name, "", parseGCPServiceAccount),
		CredentialSource: source{t.file, format{"text"}},
	}, "", "  ")
	if err != nil {
		panic(err) // Texts always encode.
	}
	t.extra = append(t.extra, extraFile{t.path + api.GCPFileSuffix, steps(string(document))})
	t.setenv("GOOGLE_APPLICATION_CREDENTIALS", t.file+api.GCPFileSuffix)
}

// setVault adds a configuration with which an agent of Vault or OpenBao logs in. By default the agent would remove the token's
// file after reading it, and not be able to.
func (p *parser) setVault(t *tokenRequest) {
	role := setting(p, api.AnnotationVaultRoleOf+t.name, "", parseVaultName)
	address := setting(p, api.AnnotationVaultAddrOf+t.name, "", parseHTTP)
	namespace := setting(p, api.AnnotationVaultNamespaceOf+t.name, "", parseVaultPath)
	mount := setting(p, api.AnnotationVaultAuthPathOf+t.name, api.DefaultVaultAuthPath, parseVaultAuthPath)
	var b strings.Builder
	attribute := func(indent, name, value string) {
		if value != "" {
			b.WriteString(indent + name + " = " + string(mustJSON(value)) + "\n")
		}
	}
	if address != "" {
		b.WriteString("vault {\n")
		attribute("  ", "address", address)
		b.WriteString("}\n\n")
	}
	b.WriteString("auto_auth {\n  method \"jwt\" {\n")
	attribute("    ", "mount_path", mount)
	attribute("    ", "namespace", namespace)
	b.WriteString("\n    config = {\n")
	attribute("      ", "path", t.file)
	attribute("      ", "role", role)
	b.WriteString("      remove_jwt_after_reading = false\n    }\n  }\n}")
	t.extra = append(t.extra, extraFile{t.path + api.VaultFileSuffix, steps(b.String())})
	t.setenv("VAULT_ADDR", address)
	t.setenv("VAULT_NAMESPACE", namespace)
	t.setenv("VAULT_ROLE", role)
}
