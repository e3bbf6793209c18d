package alerts

import "time"

var controllerScenarios = map[string]map[string]scenario{
	"PodtokenControllerDown": {
		"it does not answer": {
			series: `up{job="podtoken-controller",instance="c"} 1x9 0x50`,
			fires:  []string{`{}`},
			after:  15 * time.Minute,
		},
		"one is enough": {
			series: `
				up{job="podtoken-controller",instance="c"} 0x60
				up{job="podtoken-controller",instance="d"} 1x60`,
		},
	},
	"PodtokenControllerWithoutLeader": {
		"both wait": {
			series: `
				podtoken_controller_leading{namespace="n",job="podtoken-controller",instance="c"} 0x60
				podtoken_controller_leading{namespace="n",job="podtoken-controller",instance="d"} 1x9 0x50`,
			fires: []string{`{job="podtoken-controller", namespace="n"}`},
			after: 15 * time.Minute,
		},
		"a handover": {
			series: `
				podtoken_controller_leading{namespace="n",job="podtoken-controller",instance="c"} 0x12 1x47
				podtoken_controller_leading{namespace="n",job="podtoken-controller",instance="d"} 1x9 stale`,
		},
	},
	"PodtokenGuardMissing": {
		"the leader does not find it": {
			series: `
				podtoken_controller_leading{namespace="n",job="podtoken-controller",instance="c"} 1x60
				podtoken_guard_present{namespace="n",job="podtoken-controller",instance="c"} 1x9 0x50`,
			fires: []string{`{instance="c", job="podtoken-controller", namespace="n"}`},
			after: 12 * time.Minute,
		},
		"one that waits has no caches yet": {
			series: `
				podtoken_controller_leading{namespace="n",job="podtoken-controller",instance="c"} 1x60
				podtoken_guard_present{namespace="n",job="podtoken-controller",instance="c"} 1x60
				podtoken_controller_leading{namespace="n",job="podtoken-controller",instance="d"} 0x60
				podtoken_guard_present{namespace="n",job="podtoken-controller",instance="d"} 0x60`,
		},
	},
	"PodtokenGrantsRefused": {
		"two pods": {
			series: `
				podtoken_grant_refused_pods{namespace="n",job="podtoken-controller",instance="c"} 2x60
				podtoken_grant_refused_pods{namespace="n",job="podtoken-controller",instance="d"} 0x60`,
			fires: []string{`{job="podtoken-controller", namespace="n"}`},
			after: 15 * time.Minute,
		},
		"replaced in ten minutes": {
			series: `podtoken_grant_refused_pods{namespace="n",job="podtoken-controller",instance="c"} 2x10 0x49`,
		},
	},
	"PodtokenGrantsWaiting": {
		"one pod": {
			series: `podtoken_grant_waiting_pods{namespace="n",job="podtoken-controller",instance="c"} 0x9 1x50`,
			fires:  []string{`{job="podtoken-controller", namespace="n"}`},
			after:  15 * time.Minute,
		},
		"new ones now and then": {
			series: `podtoken_grant_waiting_pods{namespace="n",job="podtoken-controller",instance="c"} 0x9 40x2 0x20 5x1 0x25`,
		},
	},
	"PodtokenServingCertificateFailing": {
		"the registration cannot be written": {
			series: `podtoken_serving_certificate_steps_total{namespace="n",job="podtoken-controller",instance="c",step="Bundle",result="failure"} 0+1x60`,
			fires:  []string{`{job="podtoken-controller", namespace="n", step="Bundle"}`},
			after:  16 * time.Minute,
		},
		"a conflict, and a rotation": {
			series: `
				podtoken_serving_certificate_steps_total{namespace="n",job="podtoken-controller",instance="c",step="Certificate",result="failure"} 0x9 1x50
				podtoken_serving_certificate_steps_total{namespace="n",job="podtoken-controller",instance="c",step="Certificate",result="success"} 0x10 1x49`,
		},
	},
	"PodtokenGrantErrors": {
		"one a minute": {
			series: `podtoken_grant_reconciles_total{namespace="n",job="podtoken-controller",instance="c",outcome="Error",reason="APIServer"} 0+1x60`,
			fires:  []string{`{job="podtoken-controller", namespace="n"}`},
			after:  16 * time.Minute,
		},
		"an API server that restarts": {
			series: `
				podtoken_grant_reconciles_total{namespace="n",job="podtoken-controller",instance="c",outcome="Error",reason="APIServer"} 0x9 40+40x2 120x47
				podtoken_grant_reconciles_total{namespace="n",job="podtoken-controller",instance="c",outcome="Applied",reason="Created"} 0+1x60`,
		},
	},
}
