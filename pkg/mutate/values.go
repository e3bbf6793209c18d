package mutate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/podtoken/podtoken/pkg/api"
)

// Limits of single values that the contract in pkg/api leaves to this package.
const (
	maxAudienceBytes    = 512
	maxPathBytes        = 255
	maxURLBytes         = 1024
	maxProcessNameBytes = 15 // the kernel cuts /proc/PID/comm there
	minMetricsPort      = 1024
	maxPort             = 65535
	maxUserID           = 1<<31 - 1
	maxTokensPerPod     = 256
	maxNames            = 500
	maxQuotedBytes      = 100
)

// The errors of the functions below continue the text `<annotation>: "<value>" `.

// splitList splits at commas, semicolons, blanks and newlines. Empty elements do not count.
func splitList(value string) []string {
	return strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(",; \t\r\n", r) })
}

func parseAudiences(value string) ([]string, error) {
	audiences := splitList(value)
	if len(audiences) == 0 || len(audiences) > api.MaxAudiences {
		return nil, fmt.Errorf("names %d audiences: a token has 1 to %d, separated by commas, semicolons, blanks or newlines", len(audiences), api.MaxAudiences)
	}
	for i, audience := range audiences {
		if text := audienceProblem(audience); text != "" {
			return nil, fmt.Errorf("names the audience %s, which %s", quote(audience), text)
		}
		if slices.Contains(audiences[:i], audience) {
			return nil, fmt.Errorf("names the audience %s twice: remove one", quote(audience))
		}
	}
	return audiences, nil
}

// audienceProblem tells why the text cannot be an audience; empty when it can.
func audienceProblem(audience string) string {
	unprintable := func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) }
	switch {
	case audience == "":
		return "is empty"
	case len(audience) > maxAudienceBytes:
		return fmt.Sprintf("has %d bytes: at most %d are allowed", len(audience), maxAudienceBytes)
	case !utf8.ValidString(audience) || strings.ContainsFunc(audience, unprintable):
		return "has blanks, control characters or invalid UTF-8: remove them"
	}
	return ""
}

// audienceMistake returns what in an audience is probably a mistake: it is legal, and no validating service expects it. Empty for nothing.
func audienceMistake(audience string) string {
	for _, template := range []string{"{{", "}}", "${", "$("} {
		if strings.Contains(audience, template) {
			return fmt.Sprintf("in which %q looks like a template that was not rendered", template)
		}
	}
	const marks = "\"'`[]{}()<>"
	switch first, last := audience[:1], audience[len(audience)-1:]; {
	case strings.Contains(marks, first):
		return fmt.Sprintf("which begins with %q", first)
	case strings.Contains(marks, last) && !strings.Contains(audience, "://["): // an IPv6 address
		return fmt.Sprintf("which ends with %q", last)
	}
	return ""
}

// parseExpiration returns seconds out of a Go duration or plain seconds.
func parseExpiration(value string, limit time.Duration) (int64, error) {
	seconds, err := strconv.ParseInt(value, 10, 64)
	if err != nil || value[0] == '+' || value[0] == '-' {
		duration, err := time.ParseDuration(value)
		if err != nil || errors.Is(err, strconv.ErrRange) {
			return 0, fmt.Errorf(`is not a duration: use one as "90m" or "24h", or plain seconds as "5400"`)
		}
		if duration%time.Second != 0 {
			return 0, errors.New("has a fraction of a second: use whole seconds")
		}
		seconds = int64(duration / time.Second)
	}
	limitSeconds := int64(limit / time.Second)
	switch {
	case seconds < api.MinExpirationSeconds:
		return 0, fmt.Errorf("is too short: use %s to %s", shortDuration(api.MinExpirationSeconds), shortDuration(limitSeconds))
	case seconds > limitSeconds:
		return 0, limitError(fmt.Sprintf("is longer than this installation allows (tokens.maxExpiration): use %s to %s",
			shortDuration(api.MinExpirationSeconds), shortDuration(limitSeconds)))
	case seconds == api.ForbiddenExpirationSeconds:
		return 0, fmt.Errorf("is not allowed: out of exactly %d seconds kube-apiserver makes a token of one year, use 1h", api.ForbiddenExpirationSeconds)
	}
	return seconds, nil
}

// shortDuration writes seconds as "10m", "24h", "1h30m".
func shortDuration(seconds int64) string {
	text := (time.Duration(seconds) * time.Second).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// parsePath checks a file's path below the mount directory.
func parsePath(value string) (string, error) {
	if len(value) > maxPathBytes {
		return "", fmt.Errorf("has %d bytes: at most %d are allowed", len(value), maxPathBytes)
	}
	for segment := range strings.SplitSeq(value, "/") {
		switch {
		case segment == "" || segment == "." || strings.HasPrefix(segment, ".."):
			// The kubelet reserves names that begin with two dots in projected volumes, for its own links.
			return "", errors.New(`is not a path below the mount directory: use one as "vault" or "vault/token", without empty segments, "." and ".."`)
		case strings.HasPrefix(segment, api.ReservedPrefix):
			return "", fmt.Errorf("has a segment that begins with %q, which is podtoken's own: use another name", api.ReservedPrefix)
		case strings.ContainsFunc(segment, func(r rune) bool { return !isNameRune(r) && r != '.' }):
			return "", errors.New("has a character that is not allowed: use letters, digits, '.', '_', '-', and '/' between segments")
		}
	}
	return value, nil
}

// isNameRune reports whether r is one of A-Z a-z 0-9 _ -.
func isNameRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-'
}

// parseEnv returns the name of a variable, empty for EnvNone.
func parseEnv(value string) (string, error) {
	if value == api.EnvNone {
		return "", nil
	}
	bad := func(r rune) bool { return !isNameRune(r) || r == '-' }
	if value == "" || value[0] >= '0' && value[0] <= '9' || strings.ContainsFunc(value, bad) {
		return "", fmt.Errorf("is not the name of a variable: use letters, digits and '_', not beginning with a digit, or %q for no variable", api.EnvNone)
	}
	return value, nil
}

// parseFileMode returns four octal digits.
func parseFileMode(value string) (string, error) {
	mode, err := strconv.ParseUint(value, 8, 16)
	switch {
	case err != nil || len(value) != 3 && len(value) != 4 || value[0] == '+':
		return "", errors.New(`is not a file mode: use three or four octal digits as "0400"`)
	case mode > 0o777:
		return "", errors.New(`has a setuid, setgid or sticky bit: use one as "0400", "0440" or "0444"`)
	case mode&0o400 == 0:
		return "", errors.New(`is not readable by the file's owner: use one as "0400", "0440" or "0444"`)
	case mode&0o022 != 0:
		return "", errors.New(`is writable by the group or by others: use one as "0400", "0440" or "0444"`)
	}
	return fmt.Sprintf("%04o", mode), nil
}

// parseMountPath checks an absolute directory. The kubelet refuses ':' and expands "$(NAME)" in our variables.
func parseMountPath(value string) (string, error) {
	bad := func(r rune) bool { return r == ':' || r == '$' || r <= ' ' || !unicode.IsPrint(r) }
	if !path.IsAbs(value) || path.Clean(value) != value || value == "/" || len(value) > maxPathBytes ||
		!utf8.ValidString(value) || strings.ContainsFunc(value, bad) {
		return "", fmt.Errorf("is not a usable directory: use an absolute path as %q of at most %d bytes, other than \"/\", without '.', '..', "+
			"'//', a '/' at the end, ':', '$' and blanks", api.DefaultMountPath, maxPathBytes)
	}
	for _, mounted := range mountedInAll {
		switch {
		case below(mounted, value):
			return "", fmt.Errorf("would hide %s, which every container gets from the kubelet or the container runtime: use a directory of its own such as %q",
				mounted, api.DefaultMountPath)
		case below(value, mounted):
			return "", fmt.Errorf("is at or below %s, which every container gets from the kubelet or the container runtime: use a directory of its own such as %q",
				mounted, api.DefaultMountPath)
		}
	}
	return value, nil
}

// mountedInAll are the paths that the kubelet and the container runtime mount in every container, or make there. A volume at,
// below or above one of them breaks the container, whatever its image is: it does not start, or has no name resolution, no
// devices, no terminal. Directories that only the image fills (/usr, /lib, /app) are not here, nor /dev/shm and /dev/mqueue: what its
// programs need is known to its author alone.
var mountedInAll = []string{
	"/proc", "/sys",
	"/dev/null", "/dev/pts", corev1.TerminationMessagePathDefault,
	"/etc/hosts", "/etc/hostname", "/etc/resolv.conf",
}

// parseNames returns a list of container names, without duplicates. That the pod has them is checked elsewhere.
func parseNames(value string) ([]string, error) {
	names := splitList(value)
	if len(names) == 0 || len(names) > maxNames {
		return nil, fmt.Errorf("names %d containers: name 1 to %d, or remove this annotation", len(names), maxNames)
	}
	for i, name := range names {
		if name == api.ContainerName {
			return nil, fmt.Errorf("names %q, which is podtoken's own container: remove it", name)
		}
		if slices.Contains(names[:i], name) {
			return nil, fmt.Errorf("names the container %s twice: remove one", quote(name))
		}
	}
	return names, nil
}

// parseRefreshAt returns the number of a percentage.
func parseRefreshAt(value string) (int, error) {
	digits, ok := strings.CutSuffix(value, "%")
	percent, err := strconv.Atoi(digits)
	if !ok || err != nil || strconv.Itoa(percent) != digits || percent < api.MinRefreshAtPercent || percent > api.MaxRefreshAtPercent {
		return 0, fmt.Errorf(`is not allowed: use a whole percentage of the lifetime, "%d%%" to "%d%%"`, api.MinRefreshAtPercent, api.MaxRefreshAtPercent)
	}
	return percent, nil
}

func parseBool(value string) (bool, error) {
	if value != "true" && value != "false" {
		return false, errors.New(`is not allowed: use "true" or "false"`)
	}
	return value == "true", nil
}

func parseWait(value string) (string, error) {
	switch value {
	case api.WaitTrue, api.WaitFalse, api.WaitStrict:
		return value, nil
	}
	return "", fmt.Errorf("is not allowed: use %q, %q or %q", api.WaitTrue, api.WaitFalse, api.WaitStrict)
}

// parseDelivery reports whether it is DeliveryProjected.
func parseDelivery(value string) (bool, error) {
	if value != api.DeliverySidecar && value != api.DeliveryProjected {
		return false, fmt.Errorf("is not allowed: use %q or %q", api.DeliverySidecar, api.DeliveryProjected)
	}
	return value == api.DeliveryProjected, nil
}

// parseNotify checks a loopback URL. It becomes an argument, where the kubelet would expand "$(NAME)".
func parseNotify(value string) (string, error) {
	usage := errors.New(`is not allowed: use a URL as "http://localhost:8080/reload", with a port, of the pod's own loopback (localhost, 127.0.0.0/8 or [::1]), ` +
		`without user, zone, fragment, blanks and '$'`)
	bad := func(r rune) bool { return r <= ' ' || r > '~' || r == '$' }
	u, err := url.Parse(value)
	if err != nil || len(value) > maxURLBytes || strings.ContainsFunc(value, bad) || u.Scheme != "http" || u.User != nil || strings.Contains(value, "#") {
		return "", usage
	}
	if port, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || port == 0 {
		return "", usage
	}
	// A zone names a network interface: only an address of a link has one, and the loopback's has none.
	if address, err := netip.ParseAddr(u.Hostname()); u.Hostname() != "localhost" && (err != nil || !address.IsLoopback() || address.Zone() != "") {
		return "", usage
	}
	return value, nil
}

// parseNotifySignal checks SIGNAL:process-name. It becomes an argument, where the kubelet would expand "$(NAME)".
func parseNotifySignal(value string) (string, error) {
	signal, process, _ := strings.Cut(value, ":")
	bad := func(r rune) bool { return r < ' ' || r > '~' || r == '$' }
	if !slices.Contains(api.NotifySignals(), signal) || process == "" || len(process) > maxProcessNameBytes || strings.ContainsFunc(process, bad) {
		return "", fmt.Errorf(`is not allowed: use SIGNAL:process-name as "SIGHUP:nginx", with one of %s and the name as in /proc/PID/comm (at most %d ASCII characters, no '$')`,
			strings.Join(api.NotifySignals(), ", "), maxProcessNameBytes)
	}
	return value, nil
}

func parseMetricsPort(value string) (int32, error) {
	port, err := strconv.ParseUint(value, 10, 16)
	if err != nil || port < minMetricsPort || strconv.FormatUint(port, 10) != value {
		return 0, fmt.Errorf("is not allowed: use a port from %d to %d", minMetricsPort, maxPort)
	}
	return int32(port), nil
}

// parseResources reads the JSON of a container's resources; an empty object asks for none.
func parseResources(value string) (*corev1.ResourceRequirements, error) {
	const example = `{"requests":{"cpu":"5m","memory":"16Mi"},"limits":{"memory":"32Mi"}}`
	var parsed struct {
		Requests corev1.ResourceList `json:"requests"`
		Limits   corev1.ResourceList `json:"limits"`
	}
	decoder := json.NewDecoder(strings.NewReader(value))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&parsed); err != nil || decoder.More() || !bytes.HasPrefix(bytes.TrimSpace([]byte(value)), []byte("{")) {
		return nil, fmt.Errorf("is not the JSON of a container's resources: use requests and limits as %s", example)
	}
	resources := corev1.ResourceRequirements{Requests: parsed.Requests, Limits: parsed.Limits}
	if problems := resourceProblems(resources); len(problems) > 0 {
		return nil, fmt.Errorf("is not allowed: %s", strings.Join(problems, ", "))
	}
	return &resources, nil
}

// resourceProblems tells what is wrong with the resources, in a fixed order.
func resourceProblems(resources corev1.ResourceRequirements) []string {
	var problems []string
	check := func(field string, list corev1.ResourceList) {
		for _, name := range slices.Sorted(maps.Keys(list)) {
			q := list[name]
			switch rounded := q.DeepCopy(); {
			case name != corev1.ResourceCPU && name != corev1.ResourceMemory && name != corev1.ResourceEphemeralStorage:
				problems = append(problems, fmt.Sprintf("%s has %s (use cpu, memory or ephemeral-storage)", field, quote(string(name))))
			case q.Sign() < 0:
				problems = append(problems, fmt.Sprintf("%s.%s is negative", field, name))
			case !rounded.RoundUp(resource.Milli):
				// The API server would round it up, and a second admission call would meet another value than we set.
				problems = append(problems, fmt.Sprintf("%s.%s is finer than a thousandth", field, name))
			}
		}
	}
	check("requests", resources.Requests)
	check("limits", resources.Limits)
	for _, name := range slices.Sorted(maps.Keys(resources.Requests)) {
		request := resources.Requests[name]
		if limit, ok := resources.Limits[name]; ok && request.Cmp(limit) > 0 {
			problems = append(problems, fmt.Sprintf("requests.%s is more than limits.%s", name, name))
		}
	}
	return problems
}

// isTokenName reports whether it is a DNS label of at most MaxTokenNameLength characters.
func isTokenName(name string) bool {
	bad := func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' }
	return name != "" && len(name) <= api.MaxTokenNameLength && !strings.ContainsFunc(name, bad) && name[0] != '-' && name[len(name)-1] != '-'
}

// plain is an annotation's key as it is when it can be one, else quoted: nothing has validated the pod yet.
func plain(key string) string {
	bad := func(r rune) bool { return !isNameRune(r) && r != '.' && r != '/' }
	if len(key) > maxQuotedBytes || strings.ContainsFunc(key, bad) {
		return quote(key)
	}
	return key
}

// quote is %q of a text that is cut to a length that a message can bear.
func quote(s string) string {
	if short := cut(s); short != s {
		return strconv.Quote(strings.TrimSuffix(short, "...")) + "..."
	}
	return strconv.Quote(s)
}

func cut(s string) string { return cutTo(s, maxQuotedBytes) }

func cutTo(s string, length int) string {
	if len(s) <= length {
		return s
	}
	end := length
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "..."
}
