package mutate

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/podtoken/podtoken/pkg/api"
)

func TestParse(t *testing.T) {
	token := func(name, path, env string, audiences ...string) tokenRequest {
		return tokenRequest{name: name, audiences: audiences, expirationSeconds: 3600, path: path, file: "/var/run/secrets/podtoken.dev/" + path, env: env}
	}
	plain := func(tokens ...tokenRequest) *request {
		return &request{tokens: tokens, mountPath: "/var/run/secrets/podtoken.dev", refreshAtPercent: 80, wait: "true"}
	}
	tests := map[string]struct {
		annotations map[string]string
		want        func() *request
	}{
		"the short form is the token named token": {
			map[string]string{"audience": "vault"},
			func() *request { return plain(token("token", "token", "TOKEN_TOKEN_FILE", "vault")) },
		},
		"annotations of others are not looked at": {
			map[string]string{"audience": "vault", "other": "x"},
			func() *request { return plain(token("token", "token", "TOKEN_TOKEN_FILE", "vault")) },
		},
		"both forms for different tokens, sorted by name": {
			map[string]string{"audience": "a", "audience.vault": "v", "audience.b-c": "b"},
			func() *request {
				return plain(token("b-c", "b-c", "B_C_TOKEN_FILE", "b"), token("token", "token", "TOKEN_TOKEN_FILE", "a"), token("vault", "vault", "VAULT_TOKEN_FILE", "v"))
			},
		},
		"settings of the token of the short form": {
			map[string]string{"audience": "a", "path.token": "x/y", "env.token": "none", "expiration.token": "601", "file-mode.token": "0640"},
			func() *request {
				return plain(tokenRequest{name: "token", audiences: []string{"a"}, expirationSeconds: 601, path: "x/y", file: "/var/run/secrets/podtoken.dev/x/y", mode: "0640"})
			},
		},
		"everything set": {
			map[string]string{
				"audience.vault": "vault\nb;c , d", "expiration": "2h", "path.vault": "dir/vault", "env.vault": "V", "file-mode": "440",
				"mount-path": "/etc/tokens", "containers": "app, init", "skip-containers": "x", "refresh-at": "20%", "wait": "false",
				"notify": "http://127.0.0.1:1/", "notify-signal": "SIGUSR1:a b", "metrics-port": "65535", "readiness": "true", "delivery": "sidecar", "inject": "true",
				"sidecar-resources": ` {"limits": {"memory": "32Mi"}} `,
			},
			func() *request {
				return &request{
					tokens: []tokenRequest{{
						name: "vault", audiences: []string{"vault", "b", "c", "d"}, expirationSeconds: 7200, path: "dir/vault", file: "/etc/tokens/dir/vault", env: "V", mode: "0440",
					}},
					mountPath: "/etc/tokens", containers: []string{"app", "init"}, skipContainers: []string{"x"}, refreshAtPercent: 20, wait: "false",
					notify: "http://127.0.0.1:1/", notifySignal: "SIGUSR1:a b", metricsPort: 65535, readiness: true,
					resources: &corev1.ResourceRequirements{Limits: corev1.ResourceList{"memory": resource.MustParse("32Mi")}},
				}
			},
		},
		"a token's own setting wins over that for all": {
			map[string]string{"audience.a": "a", "audience.b": "b", "expiration": "10m", "expiration.b": "24h", "file-mode": "0400", "file-mode.b": "0444"},
			func() *request {
				a, b := token("a", "a", "A_TOKEN_FILE", "a"), token("b", "b", "B_TOKEN_FILE", "b")
				a.expirationSeconds, a.mode, b.expirationSeconds, b.mode = 600, "0400", 86400, "0444"
				return plain(a, b)
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			annotations := map[string]string{"example.com/audience": "x", "podtoken.dev/status": "x"}
			for key, value := range test.annotations {
				if key == "other" {
					key = "example.com/" + key
				} else {
					key = "podtoken.dev/" + key
				}
				annotations[key] = value
			}
			got, problems := parse(annotations, parsedConfig(t, defaultConfig))
			if len(problems) > 0 {
				t.Fatalf("problems: %v", problems)
			}
			if diff := cmp.Diff(test.want(), got, cmp.AllowUnexported(request{}, tokenRequest{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestParseValues has the values that are taken, with what is made of them, and those that are not. The messages of the
// latter are in testdata/deny-*.txtar.
func TestParseValues(t *testing.T) {
	long := strings.Repeat("a", 256)
	tests := map[string]struct {
		parse   func(string) (any, error)
		good    map[string]any
		refused []string
	}{
		"audience": {
			parse: func(s string) (any, error) { return parseAudiences(s) },
			good: map[string]any{
				"a":                         []string{"a"},
				"a,b;c d\te\nf\r\ng":        []string{"a", "b", "c", "d", "e", "f", "g"},
				",;a;, ":                    []string{"a"},
				"https://x/y?z=1#f":         []string{"https://x/y?z=1#f"},
				"zürich":                    []string{"zürich"},
				`"quoted"`:                  []string{`"quoted"`},
				strings.Repeat("a", 512):    []string{strings.Repeat("a", 512)},
				"1 2 3 4 5 6 7 8":           []string{"1", "2", "3", "4", "5", "6", "7", "8"},
				"a A":                       []string{"a", "A"},
				"api://AzureADTokenExchang": []string{"api://AzureADTokenExchang"},
			},
			refused: []string{"", " ", ",", "a a", "1 2 3 4 5 6 7 8 9", "a\x00", "a\x7f", "a\u00a0b", "a\u200bb", "\xff", strings.Repeat("a", 513)},
		},
		"expiration": {
			parse: func(s string) (any, error) { return parseExpiration(s, 24*3600e9) },
			good: map[string]any{
				"600": int64(600), "10m": int64(600), "0h10m": int64(600), "600s": int64(600), "1.5h": int64(5400), "86400": int64(86400), "24h": int64(86400),
				"3606": int64(3606), "3608s": int64(3608), "600000ms": int64(600), "0600": int64(600),
			},
			refused: []string{
				"", " 1h", "1h ", "1d", "10", "-1", "0", "599", "9m59s", "600.5s", "600001ms", "-1h", "86401", "24h1s", "3607", "1h0m7s", "3607s", "0xfff", "1e3", "1_000",
				"+600", "9223372036854775807", "9223372036854775808", "99999999999999999999h", "∞",
			},
		},
		"path": {
			parse:   func(s string) (any, error) { return parsePath(s) },
			good:    map[string]any{"a": "a", "a/b/c": "a/b/c", "A-b_c.d": "A-b_c.d", ".hidden": ".hidden", "-": "-", long[:255]: long[:255]},
			refused: []string{"", ".", "..", "/", "/a", "a/", "a//b", "./a", "a/.", "a/..", "../a", "a/../b", "..a", "a b", "a:b", "a$b", "ä", "a\\b", "a\x00", ".podtoken", ".podtoken-status.json", "a/.podtoken-tmp-1", long},
		},
		"env": {
			parse:   func(s string) (any, error) { return parseEnv(s) },
			good:    map[string]any{"none": "", "A": "A", "_a1": "_a1", "NONE": "NONE"},
			refused: []string{"", "1A", "A-B", "A.B", "A=B", "Ä", "A B", "$(A)"},
		},
		"file-mode": {
			parse:   func(s string) (any, error) { return parseFileMode(s) },
			good:    map[string]any{"400": "0400", "0400": "0400", "0440": "0440", "444": "0444", "0600": "0600", "0644": "0644", "0755": "0755"},
			refused: []string{"", "4", "44", "00400", "0o400", "0200", "0000", "0044", "0666", "0420", "0402", "1400", "2440", "4400", "0888", "+400", "-400", "u=r", " 400", "0x10", "0_40"},
		},
		"mount-path": {
			parse: func(s string) (any, error) { return parseMountPath(s) },
			good: map[string]any{"/a": "/a", "/var/run/secrets/x": "/var/run/secrets/x", "/a..b": "/a..b", "/" + long[:254]: "/" + long[:254],
				// Beside what every container gets, or of the image alone.
				"/etc/podtoken": "/etc/podtoken", "/etc/hosts.d": "/etc/hosts.d", "/dev/podtoken": "/dev/podtoken", "/dev/shm/tokens": "/dev/shm/tokens", "/dev/pts-tokens": "/dev/pts-tokens",
				"/process": "/process", "/system/tokens": "/system/tokens", "/usr": "/usr", "/lib": "/lib", "/var/run": "/var/run", "/tmp": "/tmp",
			},
			refused: []string{
				"/proc", "/proc/tokens", "/proc/self/fd", "/sys", "/sys/fs/cgroup", "/sys/tokens", "/etc", "/etc/hosts", "/etc/hosts/tokens", "/etc/hostname", "/etc/resolv.conf",
				"/dev", "/dev/pts", "/dev/pts/x", "/dev/null", "/dev/termination-log",
				"", "/", "a", "./a", "/a/", "/a//b", "/a/./b", "/a/../b", "/..", "/a:b", "/$(HOME)", "/a b", "/a\n", "/\xff", "C:\\tokens", "/" + long,
			},
		},
		"containers": {
			parse:   func(s string) (any, error) { return parseNames(s) },
			good:    map[string]any{"app": []string{"app"}, "app, a;b\nc": []string{"app", "a", "b", "c"}},
			refused: []string{"", ",", "app,app", "podtoken", "app podtoken"},
		},
		"refresh-at": {
			parse:   func(s string) (any, error) { return parseRefreshAt(s) },
			good:    map[string]any{"20%": 20, "90%": 90},
			refused: []string{"", "%", "80", "19%", "91%", "0.8", "80.5%", "080%", "+80%", "80 %", " 80%", "-80%", "80%%"},
		},
		"wait": {
			parse:   func(s string) (any, error) { return parseWait(s) },
			good:    map[string]any{"true": "true", "false": "false", "strict": "strict"},
			refused: []string{"", "True", "1", "yes", "on", " true", "true\n", "Strict", "probe"},
		},
		"delivery": {
			parse:   func(s string) (any, error) { return parseDelivery(s) },
			good:    map[string]any{"sidecar": false, "projected": true},
			refused: []string{"", "Sidecar", "volume"},
		},
		"notify": {
			parse: func(s string) (any, error) { return parseNotify(s) },
			good: map[string]any{
				"http://localhost:8080/-/reload":    "http://localhost:8080/-/reload",
				"http://127.0.0.1:1":                "http://127.0.0.1:1",
				"http://127.1.2.3:65535/a?b=c":      "http://127.1.2.3:65535/a?b=c",
				"http://[::1]:8080/":                "http://[::1]:8080/",
				"http://localhost:8080/%24(HOME)":   "http://localhost:8080/%24(HOME)",
				"http://[::ffff:127.0.0.1]:8080/x ": nil,
			},
			refused: []string{
				"", "localhost:8080", "//localhost:8080/", "https://localhost:8080/", "HTTP//localhost:1/", "http://localhost/", "http://localhost:/", "http://localhost:0/",
				"http://localhost:65536/", "http://localhost:http/", "http://example.com:80/", "http://10.0.0.1:80/", "http://127.0.0.1.example.com:80/", "http://localhost.:80/",
				"http://user@localhost:80/", "http://a:b@localhost:80/", "http://localhost:80/#f", "http://localhost:80/#", "http://localhost:80/a b", "http://localhost:80/$(HOME)",
				"http://localhost:80/ä", "http://LOCALHOST:80/\n", "http://0.0.0.0:80/", "http://127.1:80/", "http://2130706433:80/", "unix:///socket",
				"http://[::1%25eth0]:80/", "http://[::1%eth0]:80/", "http://[::1%25]:80/", "http://[::1%]:80/", "http://[::1%251]:80/", "http://[fe80::1%25lo]:80/",
				"http://[::ffff:127.0.0.1%25lo]:80/", "http://[0:0:0:0:0:0:0:1%25lo]:80/", "http://127.0.0.1%25lo:80/", "http://localhost%25lo:80/", "http://[localhost]:80/", "http://localhost:80/" + long + long + long + long,
			},
		},
		"notify-signal": {
			parse:   func(s string) (any, error) { return parseNotifySignal(s) },
			good:    map[string]any{"SIGHUP:nginx": "SIGHUP:nginx", "SIGWINCH:a:b c": "SIGWINCH:a:b c", "SIGTERM:123456789012345": "SIGTERM:123456789012345"},
			refused: []string{"", "SIGHUP", "SIGHUP:", "HUP:nginx", "sighup:nginx", "SIGKILL:nginx", "SIGSTOP:nginx", "1:nginx", "SIGHUP:1234567890123456", "SIGHUP:ä", "SIGHUP:a\n", "SIGHUP:$(A)", " SIGHUP:a"},
		},
		"metrics-port": {
			parse:   func(s string) (any, error) { return parseMetricsPort(s) },
			good:    map[string]any{"1024": int32(1024), "65535": int32(65535)},
			refused: []string{"", "0", "80", "1023", "65536", "-1024", "+1024", "01024", "9102.0", "http", " 9102", "99999999999999999999"},
		},
		"format": {
			parse:   func(s string) (any, error) { return parseFormat(s) },
			good:    map[string]any{"raw": "raw", "json": "json", "header": "header", "kubeconfig": "kubeconfig", "exec-credential": "exec-credential"},
			refused: []string{"", "JSON", "template", "raw "},
		},
		"kubeconfig-server": {
			parse: func(s string) (any, error) { return parseHTTPS(s) },
			good: map[string]any{
				"https://a": "https://a", "https://10.0.0.1:6443/path": "https://10.0.0.1:6443/path", "https://[::1]:6443": "https://[::1]:6443", "https://a/?b=c&d=%20": "https://a/?b=c&d=%20",
			},
			refused: []string{
				"", "a", "http://a", "HTTPS://a", "https://", "https:///a", "https://:443", "https://a:b@c", "https://a@c", "https://a#b", "https://a/$(B)", "https://a/\"", "https://a b", "https://a\n",
				"https://ä", "https://a:x", "https://{a}", "https://a/" + long + long + long + long,
			},
		},
		"vault-addr": {
			parse:   func(s string) (any, error) { return parseHTTP(s) },
			good:    map[string]any{"http://vault.vault:8200": "http://vault.vault:8200", "https://a": "https://a"},
			refused: []string{"", "vault:8200", "unix:///a", "ftp://a"},
		},
		"aws-role-arn": {
			parse: func(s string) (any, error) { return parseAWSRoleARN(s) },
			good: map[string]any{
				"arn:aws:iam::123456789012:role/a":             "arn:aws:iam::123456789012:role/a",
				"arn:aws-us-gov:iam::123456789012:role/a/b+=@": "arn:aws-us-gov:iam::123456789012:role/a/b+=@",
			},
			refused: []string{
				"", "role/a", "arn:aws:iam::12345678901:role/a", "arn:aws:iam::12345678901x:role/a", "arn:aws:iam::123456789012:user/a", "arn:aws:iam::123456789012:role/", "arn:aws:iam:eu:123456789012:role/a",
				"arn:aws:sts::123456789012:role/a", "arn:gcp:iam::123456789012:role/a", "arn:aws:iam::123456789012:role/$(A)", "arn:aws:iam::123456789012:role/a/", "arn:aws:iam::123456789012:role/a:b",
			},
		},
		"aws-region": {
			parse:   func(s string) (any, error) { return parseAWSRegion(s) },
			good:    map[string]any{"eu-central-1": "eu-central-1"},
			refused: []string{"", "eu central", "eu_1", long},
		},
		"aws-session-name": {
			parse:   func(s string) (any, error) { return parseAWSSessionName(s) },
			good:    map[string]any{"ab": "ab", "a_b+=,.@-": "a_b+=,.@-"},
			refused: []string{"", "a", "a b", "a/b", "$$", long[:65]},
		},
		"azure-client-id": {
			parse:   func(s string) (any, error) { return parseAzureClientID(s) },
			good:    map[string]any{"00000000-aaaa-BBBB-3333-444444444444": "00000000-aaaa-BBBB-3333-444444444444"},
			refused: []string{"", "app", "00000000-1111-2222-3333-44444444444g", "00000000111122223333444444444444", "00000000-1111-2222-3333-444444444444-"},
		},
		"azure-tenant-id": {
			parse:   func(s string) (any, error) { return parseAzureTenantID(s) },
			good:    map[string]any{"00000000-1111-2222-3333-444444444444": "00000000-1111-2222-3333-444444444444", "contoso.onmicrosoft.com": "contoso.onmicrosoft.com"},
			refused: []string{"", "a b", "a/b", "a_b"},
		},
		"gcp-provider": {
			parse: func(s string) (any, error) { return parseGCPProvider(s) },
			good: map[string]any{
				"projects/1/locations/global/workloadIdentityPools/p/providers/q":                            "projects/1/locations/global/workloadIdentityPools/p/providers/q",
				"//iam.googleapis.com/projects/1/locations/eu/workloadIdentityPools/p/providers/q":           "projects/1/locations/eu/workloadIdentityPools/p/providers/q",
				"https://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q": "projects/1/locations/global/workloadIdentityPools/p/providers/q",
			},
			refused: []string{
				"", "q", "projects/a/locations/global/workloadIdentityPools/p/providers/q", "projects/1/locations/global/workloadIdentityPools/p", "projects/1/locations/global/workloadIdentityPools/p/providers/",
				"projects/1/locations/global/workloadIdentityPools/p/providers/q/r", "http://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
				"projects/1/locations/global/workloadIdentityPools/p/providers/$(A)",
			},
		},
		"gcp-service-account": {
			parse: func(s string) (any, error) { return parseGCPServiceAccount(s) },
			good: map[string]any{
				"a@p.iam.gserviceaccount.com":                        "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a@p.iam.gserviceaccount.com:generateAccessToken",
				"https://iam.example.com/v1/a@b:generateAccessToken": "https://iam.example.com/v1/a@b:generateAccessToken",
			},
			refused: []string{"", "a", "a@", "@b", "a@b@c", "a b@c", "https://iam.example.com/v1/a", "http://iam.example.com/v1/a:generateAccessToken"},
		},
		"vault-role": {
			parse:   func(s string) (any, error) { return parseVaultName(s) },
			good:    map[string]any{"a_B-1.c": "a_B-1.c"},
			refused: []string{"", "a b", "a/b", "a\"b", long},
		},
		"vault-namespace": {
			parse:   func(s string) (any, error) { return parseVaultPath(s) },
			good:    map[string]any{"a": "a", "a/b/": "a/b/"},
			refused: []string{"", "/a", "a//b", "a b", "${a}"},
		},
		"vault-auth-path": {
			parse:   func(s string) (any, error) { return parseVaultAuthPath(s) },
			good:    map[string]any{"auth/jwt": "auth/jwt", "auth/a/b": "auth/a/b"},
			refused: []string{"", "jwt", "auth/", "auth/a/", "/auth/a", "auth//a"},
		},
		"sidecar-resources": {
			parse: func(s string) (any, error) {
				r, err := parseResources(s)
				if err != nil {
					return nil, err
				}
				return string(mustJSON(r)), nil
			},
			good: map[string]any{
				`{}`:                        `{}`,
				` {"requests":null}` + "\n": `{}`,
				`{"requests":{"cpu":"5m","memory":"16Mi"},"limits":{"memory":"16384Ki"}}`: `{"limits":{"memory":"16Mi"},"requests":{"cpu":"5m","memory":"16Mi"}}`,
				`{"requests":{"cpu":0.5,"ephemeral-storage":1024}}`:                       `{"requests":{"cpu":"500m","ephemeral-storage":"1024"}}`,
				`{"limits":{"cpu":"0"}}`: `{"limits":{"cpu":"0"}}`,
			},
			refused: []string{
				``, `null`, `[]`, `"x"`, `1`, `{`, `{} {}`, `{}x`, `{"requests":1}`, `{"request":{}}`, `{"claims":[]}`, `{"requests":{"cpu":"x"}}`, `{"requests":{"cpu":"-1m"}}`,
				`{"requests":{"pods":"1"}}`, `{"limits":{"":"1"}}`, `{"limits":{"cpu":"1u"}}`, `{"requests":{"memory":"2"},"limits":{"memory":"1"}}`,
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for value, want := range test.good {
				got, err := test.parse(value)
				if want == nil {
					if err == nil {
						t.Errorf("%q is taken as %v", value, got)
					}
					continue
				}
				if err != nil {
					t.Errorf("%q %v", value, err)
				} else if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%q (-want +got):\n%s", value, diff)
				}
			}
			for _, value := range test.refused {
				if got, err := test.parse(value); err == nil {
					t.Errorf("%q is taken as %v", value, got)
				}
			}
		})
	}
}

func TestHint(t *testing.T) {
	for key, want := range map[string]string{
		"audiences":         "did you mean podtoken.dev/audience?",
		"audiance.vault":    "did you mean podtoken.dev/audience.vault?",
		"Audience":          "did you mean podtoken.dev/audience?",
		"aud":               "did you mean podtoken.dev/audience?",
		"au":                "remove it; known are ",
		"expirations.vault": "did you mean podtoken.dev/expiration.vault?",
		"expiry":            "remove it; known are ",
		"path":              "did you mean podtoken.dev/path.<token>?",
		"env":               "did you mean podtoken.dev/env.<token>?",
		"filemode":          "did you mean podtoken.dev/file-mode?",
		"file-modes.a":      "did you mean podtoken.dev/file-mode.a?",
		"mount-path.vault":  "did you mean podtoken.dev/mount-path (it holds for the whole pod)?",
		"mountpath":         "did you mean podtoken.dev/mount-path?",
		"skip-container":    "did you mean podtoken.dev/skip-containers?",
		"container":         "did you mean podtoken.dev/containers?",
		"readyness":         "did you mean podtoken.dev/readiness?",
		"refresh":           "did you mean podtoken.dev/refresh-at?",
		"exp.vault":         "did you mean podtoken.dev/expiration.vault?",
		"colour":            "remove it; known are ",
		"refresh_at":        "did you mean podtoken.dev/refresh-at?",
		"notify-signals":    "did you mean podtoken.dev/notify-signal?",
		"":                  "remove it; known are ",
	} {
		base, token, _ := strings.Cut(key, ".")
		if got := hint("podtoken.dev/"+base, token); got != want && !(strings.HasSuffix(want, "are ") && strings.HasPrefix(got, want)) {
			t.Errorf("%q: %s, want %s", key, got, want)
		}
	}
}

// TestSettings holds the table of known keys against the documented one.
func TestSettings(t *testing.T) {
	want := map[string]scope{
		"podtoken.dev/audience": bothScopes, "podtoken.dev/expiration": bothScopes, "podtoken.dev/file-mode": bothScopes,
		"podtoken.dev/path": tokenScope, "podtoken.dev/env": tokenScope, "podtoken.dev/format": tokenScope, "podtoken.dev/template": tokenScope,
		"podtoken.dev/kubeconfig-server": tokenScope, "podtoken.dev/kubeconfig-ca": tokenScope,
		"podtoken.dev/aws-role-arn": tokenScope, "podtoken.dev/aws-region": tokenScope, "podtoken.dev/aws-session-name": tokenScope,
		"podtoken.dev/azure-client-id": tokenScope, "podtoken.dev/azure-tenant-id": tokenScope, "podtoken.dev/azure-authority-host": tokenScope,
		"podtoken.dev/gcp-provider": tokenScope, "podtoken.dev/gcp-service-account": tokenScope, "podtoken.dev/gcp-token-url": tokenScope,
		"podtoken.dev/vault-role": tokenScope, "podtoken.dev/vault-addr": tokenScope, "podtoken.dev/vault-auth-path": tokenScope, "podtoken.dev/vault-namespace": tokenScope,
		"podtoken.dev/profile":    podScope,
		"podtoken.dev/mount-path": podScope, "podtoken.dev/containers": podScope, "podtoken.dev/skip-containers": podScope,
		"podtoken.dev/refresh-at": podScope, "podtoken.dev/wait": podScope, "podtoken.dev/notify": podScope, "podtoken.dev/notify-signal": podScope,
		"podtoken.dev/metrics-port": podScope, "podtoken.dev/readiness": podScope, "podtoken.dev/delivery": podScope, "podtoken.dev/sidecar-resources": podScope, "podtoken.dev/inject": podScope,
	}
	if diff := cmp.Diff(want, settings); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestMessagesAreBounded: nothing has validated the pod before us, so keys, values and names may be of any size and kind.
func TestMessagesAreBounded(t *testing.T) {
	huge := strings.Repeat("\x00ä\n", 50_000)
	annotations := map[string]string{"podtoken.dev/" + huge: "x", "podtoken.dev/audience." + huge: huge, "podtoken.dev/containers": huge}
	for key := range settings {
		annotations[key] = huge
	}
	result := Mutate(Input{
		Pod:       &Pod{Metadata: Metadata{Annotations: annotations}, Spec: Spec{Containers: []Container{{Name: huge}}}},
		Operation: "CREATE", Config: parsedConfig(t, defaultConfig),
	})
	if result.Outcome != api.OutcomeDenied || len(result.Message) > 8_000 || strings.ContainsAny(result.Message, "\x00\n") {
		t.Errorf("%s, a message of %d bytes: %.300q", result.Outcome, len(result.Message), result.Message)
	}
}
