package mutate

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Values of presets become variables, in which the kubelet would expand "$(NAME)", and texts in files: none has a '$' or a
// quotation mark. The errors of the functions below continue the text `<annotation>: "<value>" `.

// only tells whether the text has 1 to max characters, all of them letters, digits or one of others.
func only(text string, max int, others string) bool {
	bad := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(others, r)
	}
	return text != "" && len(text) <= max && !strings.ContainsFunc(text, bad)
}

func parseHTTPS(value string) (string, error) { return parseURL(value, "https") }

func parseHTTP(value string) (string, error) { return parseURL(value, "https", "http") }

func parseURL(value string, schemes ...string) (string, error) {
	u, err := url.Parse(value)
	allowed := err == nil && u.Hostname() != "" && u.User == nil && !strings.Contains(value, "#") &&
		only(value, maxURLBytes, "-._~:/?[]@!&*+,;=%")
	for _, scheme := range schemes {
		if allowed && strings.HasPrefix(value, scheme+"://") {
			return value, nil
		}
	}
	return "", fmt.Errorf("is not allowed: use a URL as %q, without user, fragment, blanks, quotation marks and '$', of at most %d bytes",
		schemes[0]+"://host.example.com/path", maxURLBytes)
}

func parseAWSRoleARN(value string) (string, error) {
	parts := strings.Split(value, ":")
	if len(parts) != 6 || parts[0] != "arn" || !strings.HasPrefix(parts[1], "aws") || !only(parts[1], 32, "-") || parts[2] != "iam" || parts[3] != "" ||
		len(parts[4]) != 12 || strings.Trim(parts[4], "0123456789") != "" || !strings.HasPrefix(parts[5], "role/") || !only(parts[5], 600, "/_+=,.@-") ||
		strings.HasSuffix(parts[5], "/") {
		return "", errors.New(`is not the ARN of a role: use one as "arn:aws:iam::123456789012:role/name"`)
	}
	return value, nil
}

func parseAWSRegion(value string) (string, error) {
	if !only(value, 32, "-") {
		return "", errors.New(`is not a region: use one as "eu-central-1"`)
	}
	return value, nil
}

func parseAWSSessionName(value string) (string, error) {
	if len(value) < 2 || !only(value, 64, "_+=,.@-") {
		return "", errors.New("is not the name of a session: use 2 to 64 letters, digits and _ + = , . @ -")
	}
	return value, nil
}

func parseAzureClientID(value string) (string, error) {
	groups := strings.Split(value, "-")
	lengths := []int{8, 4, 4, 4, 12}
	ok := len(groups) == len(lengths)
	for i := range groups {
		ok = ok && len(groups[i]) == lengths[i] && strings.Trim(groups[i], "0123456789abcdefABCDEF") == ""
	}
	if !ok {
		return "", errors.New(`is not a client ID: use one as "00000000-1111-2222-3333-444444444444"`)
	}
	return value, nil
}

func parseAzureTenantID(value string) (string, error) {
	if !only(value, 253, ".-") {
		return "", errors.New(`is not a tenant: use its ID as "00000000-1111-2222-3333-444444444444", or its domain`)
	}
	return value, nil
}

// parseGCPProvider returns the provider's name without the service before it, which some of Google's own pages show.
func parseGCPProvider(value string) (string, error) {
	name := strings.TrimPrefix(strings.TrimPrefix(value, "https:"), "//iam.googleapis.com/")
	parts := strings.Split(name, "/")
	words := []string{"projects", "", "locations", "", "workloadIdentityPools", "", "providers", ""}
	ok := len(parts) == len(words)
	for i := range parts {
		ok = ok && only(parts[i], 64, "-") && (words[i] == parts[i] || words[i] == "")
	}
	if !ok || strings.Trim(parts[1], "0123456789") != "" {
		return "", errors.New(`is not a provider's full name: use one as "projects/123456789012/locations/global/workloadIdentityPools/POOL/providers/PROVIDER", ` +
			`with the project's number`)
	}
	return name, nil
}

// parseGCPServiceAccount returns the URL at which the service account is impersonated.
func parseGCPServiceAccount(value string) (string, error) {
	if strings.HasPrefix(value, "https://") && strings.HasSuffix(value, ":generateAccessToken") {
		return parseHTTPS(value)
	}
	name, domain, ok := strings.Cut(value, "@")
	if !ok || !only(name, 64, "-.") || !only(domain, 253, "-.") {
		return "", errors.New(`is not a service account: use its address as "name@project.iam.gserviceaccount.com", or a URL that ends with ":generateAccessToken"`)
	}
	return "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/" + value + ":generateAccessToken", nil
}

func parseVaultName(value string) (string, error) {
	if !only(value, 128, "_.-") {
		return "", errors.New("is not the name of a role: use letters, digits, '_', '.' and '-'")
	}
	return value, nil
}

func parseVaultPath(value string) (string, error) {
	if !only(value, 255, "_.-/") || strings.Contains(value, "//") || strings.HasPrefix(value, "/") {
		return "", errors.New(`is not a path of Vault: use one as "team/app", of letters, digits, '_', '.', '-' and '/'`)
	}
	return value, nil
}

func parseVaultAuthPath(value string) (string, error) {
	_, err := parseVaultPath(value)
	if err != nil || !strings.HasPrefix(value, "auth/") || strings.HasSuffix(value, "/") {
		return "", errors.New(`is not the mount of an auth method: use one as "auth/jwt"`)
	}
	return value, nil
}
