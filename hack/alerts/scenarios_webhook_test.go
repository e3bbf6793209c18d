package alerts

import "time"

var webhookScenarios = map[string]map[string]scenario{
	"PodtokenWebhookDown": {
		"both are gone after ten minutes": {
			series: `
				up{job="podtoken-webhook",instance="a"} 1x10 0x50
				up{job="podtoken-webhook",instance="b"} 1x10 0x50`,
			fires: []string{`{}`},
			after: 16 * time.Minute,
		},
		"not scraped": {
			series: `up{job="podtoken-controller",instance="c"} 1x60`,
			fires:  []string{`{}`},
		},
		"one is enough": {
			series: `
				up{job="podtoken-webhook",instance="a"} 1x60
				up{job="podtoken-webhook",instance="b"} 0x60`,
		},
		"a restart of both": {
			series: `up{job="podtoken-webhook",instance="a"} 1x10 0x3 1x46`,
		},
	},
	"PodtokenWebhookReplicaDown": {
		"one of two": {
			series: `
				up{job="podtoken-webhook",instance="a"} 1x60
				up{job="podtoken-webhook",instance="b"} 1x9 0x50`,
			fires: []string{`{instance="b", job="podtoken-webhook"}`},
			after: 25 * time.Minute,
		},
		"an update": {
			series: `
				up{job="podtoken-webhook",instance="a"} 1x60
				up{job="podtoken-webhook",instance="b"} 1x9 0x5 stale
				up{job="podtoken-webhook",instance="c"} _x12 1x47`,
		},
		"none is left, of which another alert tells": {
			series: `up{job="podtoken-webhook",instance="a"} 0x60`,
		},
	},
	"PodtokenWebhookUnreachable": {
		"a certificate that API servers do not trust": {
			series: `apiserver_admission_webhook_rejection_count{job="apiserver",instance="k",name="pods.podtoken.dev",type="admit",operation="CREATE",error_type="calling_webhook_error",rejection_code="500"} _x5 1+1x54`,
			fires:  []string{`{name="pods.podtoken.dev"}`},
			after:  16 * time.Minute,
		},
		"a moment of an update": {
			series: `apiserver_admission_webhook_rejection_count{job="apiserver",instance="k",name="pods.podtoken.dev",type="admit",operation="CREATE",error_type="calling_webhook_error",rejection_code="500"} 1x9 5x50`,
		},
		"denials, and another's webhook": {
			series: `
				apiserver_admission_webhook_rejection_count{job="apiserver",instance="k",name="pods.podtoken.dev",type="admit",operation="CREATE",error_type="no_error",rejection_code="403"} 0+5x60
				apiserver_admission_webhook_rejection_count{job="apiserver",instance="k",name="other.example.com",type="admit",operation="CREATE",error_type="calling_webhook_error",rejection_code="500"} 0+5x60`,
		},
	},
	"PodtokenWebhookErrors": {
		"one every five minutes": {
			series: `podtoken_admission_reviews_total{job="podtoken-webhook",namespace="n",pod="a",outcome="Error",reason="Internal"} 0+0x4 1+0x4 2+0x4 3+0x4 4+0x4 5+0x4 6+0x4 7+0x24`,
			fires:  []string{`{namespace="n", reason="Internal"}`},
		},
		"one": {
			series: `podtoken_admission_reviews_total{job="podtoken-webhook",namespace="n",pod="a",outcome="Error",reason="Deadline"} 0x10 1x49`,
		},
		"denials are the authors' business": {
			series: `podtoken_admission_reviews_total{job="podtoken-webhook",namespace="n",pod="a",outcome="Denied",reason="NotAllowed"} 0+100x60`,
		},
	},
	"PodtokenWebhookSlow": {
		"two in a hundred take more than a second": {
			series: `
				podtoken_admission_review_duration_seconds_bucket{job="podtoken-webhook",namespace="n",pod="a",le="0.001"} 0+98x60
				podtoken_admission_review_duration_seconds_bucket{job="podtoken-webhook",namespace="n",pod="a",le="1"} 0+98x60
				podtoken_admission_review_duration_seconds_bucket{job="podtoken-webhook",namespace="n",pod="a",le="5"} 0+100x60
				podtoken_admission_review_duration_seconds_bucket{job="podtoken-webhook",namespace="n",pod="a",le="+Inf"} 0+100x60`,
			fires: []string{`{namespace="n"}`},
			after: 11 * time.Minute,
		},
		"one slow one among few": {
			series: `
				podtoken_admission_review_duration_seconds_bucket{job="podtoken-webhook",namespace="n",pod="a",le="1"} 0x60
				podtoken_admission_review_duration_seconds_bucket{job="podtoken-webhook",namespace="n",pod="a",le="5"} 0x20 1x39
				podtoken_admission_review_duration_seconds_bucket{job="podtoken-webhook",namespace="n",pod="a",le="+Inf"} 0x20 1x39`,
		},
		"as it should be": {
			series: `
				podtoken_admission_review_duration_seconds_bucket{job="podtoken-webhook",namespace="n",pod="a",le="0.001"} 0+99x60
				podtoken_admission_review_duration_seconds_bucket{job="podtoken-webhook",namespace="n",pod="a",le="1"} 0+100x60
				podtoken_admission_review_duration_seconds_bucket{job="podtoken-webhook",namespace="n",pod="a",le="+Inf"} 0+100x60`,
		},
		"nothing to do": {
			series: `podtoken_admission_review_duration_seconds_bucket{job="podtoken-webhook",namespace="n",pod="a",le="+Inf"} 0x60`,
		},
	},
	"PodtokenCertificateEndsSoon": {
		// Ten hours, of which the last begins at minute 10.
		"less than a tenth is left": {
			series: `
				podtoken_certificate_start_timestamp_seconds{job="podtoken-webhook",namespace="n",instance="a"} -31800x60
				podtoken_certificate_expiry_timestamp_seconds{job="podtoken-webhook",namespace="n",instance="a"} 4200x60`,
			fires: []string{`{instance="a", job="podtoken-webhook", namespace="n"}`},
			after: 16 * time.Minute,
		},
		"a third is left": {
			series: `
				podtoken_certificate_start_timestamp_seconds{job="podtoken-webhook",namespace="n",instance="a"} -36000x60
				podtoken_certificate_expiry_timestamp_seconds{job="podtoken-webhook",namespace="n",instance="a"} 18000x60`,
		},
		"the shortest that the chart takes, renewed as late as it may be": {
			series: `
				podtoken_certificate_start_timestamp_seconds{job="podtoken-webhook",namespace="n",instance="a"} -3000x4 300x55
				podtoken_certificate_expiry_timestamp_seconds{job="podtoken-webhook",namespace="n",instance="a"} 600x4 3900x55`,
		},
		"it has ended, of which another alert tells": {
			series: `
				podtoken_certificate_start_timestamp_seconds{job="podtoken-webhook",namespace="n",instance="a"} -3600x60
				podtoken_certificate_expiry_timestamp_seconds{job="podtoken-webhook",namespace="n",instance="a"} 0x60`,
		},
	},
	"PodtokenCertificateExpired": {
		"it ends after half an hour": {
			series: `podtoken_certificate_expiry_timestamp_seconds{job="podtoken-webhook",namespace="n",instance="a"} 1800x60`,
			fires:  []string{`{instance="a", job="podtoken-webhook", namespace="n"}`},
			after:  32 * time.Minute,
		},
		"there is none": {
			series: `podtoken_certificate_expiry_timestamp_seconds{job="podtoken-webhook",namespace="n",instance="a"} 0x60`,
			fires:  []string{`{instance="a", job="podtoken-webhook", namespace="n"}`},
		},
		"it is renewed": {
			series: `podtoken_certificate_expiry_timestamp_seconds{job="podtoken-webhook",namespace="n",instance="a"} 1800x28 9000x31`,
		},
	},
	"PodtokenReloadFailed": {
		"a bad configuration": {
			series: `podtoken_config_last_reload_successful{job="podtoken-webhook",instance="a"} 1x9 0x50`,
			fires:  []string{`{file="configuration", instance="a", job="podtoken-webhook"}`},
			after:  15 * time.Minute,
		},
		"a bad policy, seen by both": {
			series: `
				podtoken_policy_last_reload_successful{job="podtoken-webhook",instance="a"} 0x60
				podtoken_policy_last_reload_successful{job="podtoken-controller",instance="c"} 0x60`,
			fires: []string{
				`{file="policy", instance="a", job="podtoken-webhook"}`,
				`{file="policy", instance="c", job="podtoken-controller"}`,
			},
		},
		"the rest": {
			series: `
				podtoken_certificate_last_reload_successful{job="podtoken-webhook",instance="a"} 0x60
				podtoken_identity_last_reload_successful{job="podtoken-controller",instance="c"} 0x60
				podtoken_client_ca_last_reload_successful{job="podtoken-webhook",instance="a"} 0x60`,
			fires: []string{
				`{file="certificate", instance="a", job="podtoken-webhook"}`,
				`{file="client CA", instance="a", job="podtoken-webhook"}`,
				`{file="identity", instance="c", job="podtoken-controller"}`,
			},
		},
		"corrected at once": {
			series: `
				podtoken_config_last_reload_successful{job="podtoken-webhook",instance="a"} 1x9 0x3 1x46
				podtoken_policy_last_reload_successful{job="podtoken-webhook",instance="a"} 1x60
				podtoken_identity_last_reload_successful{job="podtoken-webhook",instance="a"} 1x60
				podtoken_certificate_last_reload_successful{job="podtoken-webhook",instance="a"} 0x2 1x57
				podtoken_client_ca_last_reload_successful{job="podtoken-webhook",instance="a"} 1x5 0x2 1x52`,
		},
	},
	"PodtokenConnectionLimitReached": {
		"strangers come again and again": {
			series: `
				podtoken_connections_closed_total{job="podtoken-webhook",namespace="n",instance="a",listener="webhook",reason="AddressLimit"} 0x9 0+50x50
				podtoken_connections_closed_total{job="podtoken-webhook",namespace="n",instance="b",listener="webhook",reason="AddressLimit"} 0x60
				podtoken_connections_closed_total{job="podtoken-webhook",namespace="n",instance="a",listener="webhook",reason="ConnectionLimit"} 0x60`,
			fires: []string{`{job="podtoken-webhook", listener="webhook", namespace="n", reason="AddressLimit"}`},
			after: 21 * time.Minute,
		},
		"at the metrics of the controller, a few every four minutes": {
			series: `podtoken_connections_closed_total{job="podtoken-controller",namespace="n",instance="c",listener="http",reason="ConnectionLimit"} 0 0 0 0 3 3 3 3 6 6 6 6 9 9 9 9 12 12 12 12 15 15 15 15 18x36`,
			fires:  []string{`{job="podtoken-controller", listener="http", namespace="n", reason="ConnectionLimit"}`},
		},
		"one burst": {
			series: `podtoken_connections_closed_total{job="podtoken-webhook",namespace="n",instance="a",listener="webhook",reason="AddressLimit"} 0x9 0+400x2 800x48`,
		},
		"handshakes that fail": {
			series: `podtoken_connections_closed_total{job="podtoken-webhook",namespace="n",instance="a",listener="webhook",reason="HandshakeFailed"} 0+9x60`,
		},
	},
}
