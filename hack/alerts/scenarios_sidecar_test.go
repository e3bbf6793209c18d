package alerts

import "time"

// of is a series of the token "vault" of a pod.
const of = `{job="podtoken-sidecar",namespace="shop",pod="cart-1",token="vault"}`

var sidecarScenarios = map[string]map[string]scenario{
	"PodtokenTokenExpired": {
		"it ends after half an hour": {
			series: "podtoken_sidecar_token_expiry_timestamp_seconds" + of + " 1800x60",
			fires:  []string{`{job="podtoken-sidecar", namespace="shop", pod="cart-1", token="vault"}`},
			after:  32 * time.Minute,
		},
		"there never was one": {
			series: "podtoken_sidecar_token_expiry_timestamp_seconds" + of + " _x10 0x49",
			fires:  []string{`{job="podtoken-sidecar", namespace="shop", pod="cart-1", token="vault"}`},
			after:  12 * time.Minute,
		},
		"a new pod gets its first": {
			series: "podtoken_sidecar_token_expiry_timestamp_seconds" + of + " 0x1 3700x58",
		},
	},
	"PodtokenTokenEndsSoon": {
		"five minutes of an hour are left": {
			series: "podtoken_sidecar_token_expiry_timestamp_seconds" + of + " 3600x60\n" +
				"podtoken_sidecar_token_granted_lifetime_seconds" + of + " 3600x60",
			fires: []string{`{job="podtoken-sidecar", namespace="shop", pod="cart-1", token="vault"}`},
			after: 56 * time.Minute,
		},
		"replaced at 90 %, as late as a pod may ask for": {
			series: "podtoken_sidecar_token_expiry_timestamp_seconds" + of + " 3600x54 6840x5\n" +
				"podtoken_sidecar_token_granted_lifetime_seconds" + of + " 3600x60",
		},
		"there is none, of which another alert tells": {
			series: "podtoken_sidecar_token_expiry_timestamp_seconds" + of + " 0x60\n" +
				"podtoken_sidecar_token_granted_lifetime_seconds" + of + " 0x60",
		},
	},
	"PodtokenRefreshFailing": {
		"every ten minutes, and no success for long": {
			series: `podtoken_sidecar_token_failures_total{job="podtoken-sidecar",namespace="shop",pod="cart-1",token="vault",class="Server"} 0x9 1x9 2x9 3x9 4x20
				podtoken_sidecar_token_last_success_timestamp_seconds` + of + ` -3600x60`,
			fires: []string{`{class="Server", namespace="shop", pod="cart-1", token="vault"}`},
		},
		"a pod that never got a token": {
			series: `podtoken_sidecar_token_failures_total{job="podtoken-sidecar",namespace="shop",pod="cart-1",token="vault",class="Forbidden"} 0+4x60
				podtoken_sidecar_token_last_success_timestamp_seconds` + of + ` 0x60`,
			fires: []string{`{class="Forbidden", namespace="shop", pod="cart-1", token="vault"}`},
		},
		"one failure": {
			series: `podtoken_sidecar_token_failures_total{job="podtoken-sidecar",namespace="shop",pod="cart-1",token="vault",class="Server"} 0x20 1x39
				podtoken_sidecar_token_last_success_timestamp_seconds` + of + ` -3600x60`,
		},
		"failures, then a success": {
			series: `podtoken_sidecar_token_failures_total{job="podtoken-sidecar",namespace="shop",pod="cart-1",token="vault",class="Throttled"} 0x20 1 2 3 3x36
				podtoken_sidecar_token_last_success_timestamp_seconds` + of + ` -3600x23 1440x36`,
		},
	},
	"PodtokenNotificationsPending": {
		"the application does not listen": {
			series: `podtoken_sidecar_notifications_pending_tokens{job="podtoken-sidecar",namespace="shop",pod="cart-1",kind="http"} 0x9 1x50`,
			fires:  []string{`{job="podtoken-sidecar", kind="http", namespace="shop", pod="cart-1"}`},
			after:  20 * time.Minute,
		},
		"it starts slowly": {
			series: `podtoken_sidecar_notifications_pending_tokens{job="podtoken-sidecar",namespace="shop",pod="cart-1",kind="signal"} 2x4 0x55`,
		},
	},
}
