package servingcert

import (
	"bytes"
	"testing"
	"time"
)

const dnsName = "podtoken-webhook.podtoken-system.svc"

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// installed is an installation after its first steps, long ago.
func installed(t *testing.T) View {
	t.Helper()
	v := View{DNSName: dnsName, Now: start, Bundles: [][]byte{nil}}
	v = steps(t, v, StepFirst, StepBundle)
	v.Now = start.Add(time.Hour)
	return v
}

// step does one step that is expected.
func (v View) step(t *testing.T, want Step) View {
	t.Helper()
	decision := Decide(v)
	if decision.Step != want {
		t.Fatalf("step %s (%s), want %s", decision.Step, decision.Why, want)
	}
	if want == StepBundle {
		v.Bundles = [][]byte{decision.Bundle}
		return v
	}
	var err error
	if v.State, err = v.next(want); err != nil {
		t.Fatal(err)
	}
	return v
}

func steps(t *testing.T, v View, all ...Step) View {
	t.Helper()
	for _, want := range all {
		v = v.step(t, want)
	}
	return v
}

// rests says that there is nothing to do for some time, and lets that time pass.
func (v View) rests(t *testing.T, want time.Duration) View {
	t.Helper()
	if decision := Decide(v); decision.Step != StepNone || decision.Wait != want {
		t.Fatalf("step %s (%s) and wait for %v, want nothing to do for %v", decision.Step, decision.Why, decision.Wait, want)
	}
	v.Now = v.Now.Add(want)
	return v
}

// What happens next, for everything that can be found. Each case ends where there is nothing to do.
func TestDecide(t *testing.T) {
	rotation := []Step{StepAuthority, StepBundle, StepTrusted}
	tests := map[string]struct {
		change func(*View)
		steps  []Step
		wait   time.Duration
	}{
		"nothing is wrong":                        {func(*View) {}, nil, time.Hour},
		"the certificate is due":                  {func(v *View) { v.Now = start.Add(61 * 24 * time.Hour) }, []Step{StepCertificate}, fileDelay},
		"the certificate is due in half an hour":  {func(v *View) { v.Now = start.Add(60*24*time.Hour - 30*time.Minute) }, nil, 30 * time.Minute},
		"the certificate is gone":                 {func(v *View) { v.State.Certificate = nil }, []Step{StepCertificate}, fileDelay},
		"the certificate's key is gone":           {func(v *View) { v.State.CertificateKey = nil }, []Step{StepCertificate}, fileDelay},
		"the certificate is for somebody else":    {func(v *View) { v.DNSName = "other.podtoken-system.svc" }, []Step{StepCertificate}, fileDelay},
		"the CA is due":                           {func(v *View) { v.Now = start.Add(9*365*24*time.Hour + time.Hour) }, rotation, trustDelay},
		"the CA's key is gone":                    {func(v *View) { v.State.AuthorityKey = nil }, rotation, trustDelay},
		"the CA's key is another's":               {func(v *View) { v.State.AuthorityKey = v.State.CertificateKey }, rotation, trustDelay},
		"the CA's certificate is none of a CA":    {func(v *View) { v.State.Authority, v.State.AuthorityKey = v.State.Certificate, v.State.CertificateKey }, rotation, trustDelay},
		"the Secret is gone":                      {func(v *View) { v.State = State{} }, rotation, trustDelay},
		"the Secret has rubbish":                  {func(v *View) { v.State.Authority, v.State.Certificate = []byte("a"), []byte("b") }, rotation, trustDelay},
		"the Secret is gone, and nobody trusts":   {func(v *View) { v.State, v.Bundles = State{}, [][]byte{nil} }, []Step{StepFirst, StepBundle}, fileDelay},
		"the registration is not there yet":       {func(v *View) { v.State, v.Bundles = State{}, nil }, []Step{StepFirst}, fileDelay},
		"all that was trusted has ended":          {func(v *View) { v.Now = start.Add(11 * 365 * 24 * time.Hour) }, []Step{StepFirst, StepBundle}, fileDelay},
		"the caBundle was wiped":                  {func(v *View) { v.Bundles = [][]byte{nil} }, []Step{StepBundle}, time.Hour},
		"the caBundle has a stranger":             {func(v *View) { v.Bundles[0] = append(v.Bundles[0], stranger...) }, []Step{StepBundle}, time.Hour},
		"the caBundle was wiped, certificate due": {func(v *View) { v.Now, v.Bundles = start.Add(61*24*time.Hour), [][]byte{nil} }, []Step{StepDoubt, StepBundle, StepTrusted}, trustDelay},
		"the time of the last step is lost":       {func(v *View) { v.State.Since = time.Time{} }, []Step{StepTrusted}, fileDelay},
		"the clock was wrong at the last step":    {func(v *View) { v.State.Since = v.Now.Add(time.Hour) }, []Step{StepTrusted}, fileDelay},
		"the clock is years behind":               {func(v *View) { v.Now = start.Add(-365 * 24 * time.Hour) }, rotation, trustDelay},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			v := installed(t)
			test.change(&v)
			steps(t, v, test.steps...).rests(t, test.wait)
		})
	}
}

var stranger, _, _ = newAuthority(start)

// TestRotationOfTheCA goes through all of it, and through what is served and trusted in between.
func TestRotationOfTheCA(t *testing.T) {
	v := installed(t)
	before := v
	v.State.AuthorityKey = nil // as an administrator would ask for it
	v = steps(t, v, StepAuthority)
	if !bytes.Equal(v.State.Certificate, before.State.Certificate) {
		t.Error("the certificate changed before anybody trusts the new CA")
	}
	v = steps(t, v, StepBundle)
	if n := len(union(v.Now, v.Bundles[0])); n != 2 {
		t.Fatalf("%d CAs are trusted, want the new one and the old one", n)
	}
	v = steps(t, v, StepTrusted).rests(t, trustDelay)
	v = steps(t, v, StepCertificate).rests(t, fileDelay)
	if n := len(union(v.Now, v.Bundles[0])); n != 2 || bytes.Equal(v.State.Certificate, before.State.Certificate) {
		t.Errorf("%d CAs are trusted while pods serve either certificate", n)
	}
	v = steps(t, v, StepForget, StepBundle)
	if !bytes.Equal(v.Bundles[0], v.State.Authority) || bytes.Equal(v.State.Authority, before.State.Authority) || v.State.Previous != nil {
		t.Error("the old CA is not gone")
	}
	v.rests(t, time.Hour)
}

// TestNoKeyIsTold: not in a reason, which is logged.
func TestNoKeyIsTold(t *testing.T) {
	v := installed(t)
	v.State.AuthorityKey = append([]byte("x"), v.State.AuthorityKey...)
	v.State.CertificateKey = bytes.ReplaceAll(v.State.CertificateKey, []byte("A"), []byte("B"))
	if why := Decide(v).Why; len(why) > 150 || bytes.Contains([]byte(why), v.State.CertificateKey[40:60]) {
		t.Errorf("why: %q", why)
	}
}
