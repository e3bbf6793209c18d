package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What the README promises of the controller: a cluster with 10,000 injected pods of 1,000 ServiceAccounts costs less than
// 100 MiB, is served within seconds of a first start, and from then on costs the API server nothing but watches, and the proof of its guards each minute.
const (
	scalePods            = 10_000
	scaleServiceAccounts = 1_000
	scaleMaxRSS          = 100 << 20
	scaleQuiet           = 5 * time.Second
)

func TestScale(t *testing.T) {
	f := newFakeAPI(t)
	f.add(t, "validatingadmissionpolicies", guardYAML)
	f.add(t, "validatingadmissionpolicybindings", guardBindingYAML)
	f.addMany(t, "serviceaccounts", serviceAccountYAML("", ""), scaleServiceAccounts, func(i int, o fakeObject) {
		o.metadata()["namespace"], o.metadata()["name"] = fmt.Sprintf("ns-%d", i%100), fmt.Sprintf("account-%d", i)
	})
	f.addMany(t, "pods", podYAML("", "", "", "vault", 3600), scalePods, func(i int, o fakeObject) {
		account := i % scaleServiceAccounts
		o.metadata()["namespace"], o.metadata()["name"] = fmt.Sprintf("ns-%d", account%100), fmt.Sprintf("pod-%d", i)
		o["spec"].(map[string]any)["serviceAccountName"] = fmt.Sprintf("account-%d", account)
	})
	begin := time.Now()
	p := start(t, f)
	eventually(t, "all grants", 10*time.Minute, func() bool { return f.count("rolebindings") == scaleServiceAccounts })
	t.Logf("%d grants for %d pods in %v after the start of the process", scaleServiceAccounts, scalePods, time.Since(begin).Round(time.Millisecond))
	if got := f.count("roles"); got != scaleServiceAccounts {
		t.Errorf("%d Roles, want %d", got, scaleServiceAccounts)
	}
	if got, want := p.metric("podtoken_grants"), strconv.Itoa(scaleServiceAccounts); got != want {
		t.Errorf("podtoken_grants = %s, want %s", got, want)
	}
	time.Sleep(time.Second) // Let the watches tell of the last writes.
	t.Logf("requests until then: %v", f.counts())

	time.Sleep(scaleQuiet)
	quiet := f.counts()
	t.Logf("requests in the next %v: %v", scaleQuiet, quiet)
	for request := range quiet {
		switch request {
		case "put leases", "get leases", "probe serviceaccounts", "probe roles", "get endpointslices": // the latter once a minute
		default:
			t.Errorf("%d requests %q although nothing happens", quiet[request], request)
		}
	}
	rss, peak := memory(t, p.Process.Pid, "VmRSS"), memory(t, p.Process.Pid, "VmHWM")
	t.Logf("memory: %.1f MiB now, %.1f MiB at most", float64(rss)/(1<<20), float64(peak)/(1<<20))
	if peak > scaleMaxRSS {
		t.Errorf("peak memory = %d bytes, want less than %d", peak, scaleMaxRSS)
	}

	f.wantQuickGrant(t) // one more among them
}

// memory returns a line of the kernel's account of the process, in bytes.
func memory(t *testing.T, pid int, field string) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			kilobytes, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kilobytes << 10
		}
	}
	t.Fatalf("no %s in the status of process %d", field, pid)
	return 0
}
