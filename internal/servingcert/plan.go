package servingcert

import (
	"bytes"
	"errors"
	"fmt"
	"time"
)

// Step is one write: a closed set, used as metric label and in the log.
type Step string

const (
	// StepNone: there is nothing to do for now.
	StepNone Step = "None"
	// StepFirst makes a CA and a certificate at once. Only while API servers trust nobody, so that nothing can fail by it.
	StepFirst Step = "First"
	// StepAuthority makes a CA that is to sign after the present one.
	StepAuthority Step = "Authority"
	// StepDoubt forgets since when the CA is trusted, because it is not.
	StepDoubt Step = "Doubt"
	// StepBundle writes whom API servers shall trust.
	StepBundle Step = "Bundle"
	// StepTrusted notes that the registration has the CA.
	StepTrusted Step = "Trusted"
	// StepCertificate signs a new serving certificate.
	StepCertificate Step = "Certificate"
	// StepForget drops the CAs before the present one.
	StepForget Step = "Forget"
)

const (
	// trustDelay is how long after a change of the registration every API server goes by it. Their watches take a second.
	trustDelay = time.Minute
	// fileDelay is how long after a change of the Secret every webhook pod serves what it holds. The kubelet's sync takes two
	// minutes at most, the webhook looks every two seconds, and a pod on a node that is lost is not called any more.
	fileDelay = 10 * time.Minute
	// lookAgain is the longest time between two looks, whatever the clocks do meanwhile.
	lookAgain = time.Hour
)

// View is all that a decision depends on.
type View struct {
	State State
	// Bundles are the caBundles in the registration: one for each webhook in it, none if there is no registration.
	Bundles [][]byte
	// DNSName is the one by which API servers call the webhook.
	DNSName string
	Now     time.Time
}

// Decision is what to do next.
type Decision struct {
	Step Step
	// Why is for the log.
	Why string
	// Bundle is what StepBundle writes.
	Bundle []byte
	// Wait is how long StepNone holds.
	Wait time.Duration
}

// Decide returns the next step. The doc comment of the package has the rule that it keeps.
func Decide(v View) Decision {
	s, now := v.State, v.Now
	trusted := union(now, v.Bundles...)
	ca, err := parseAuthority(s.Authority, s.AuthorityKey, now)
	if err != nil {
		step := StepAuthority
		if len(trusted) == 0 {
			step = StepFirst
		}
		return Decision{Step: step, Why: fmt.Sprintf("the CA has to be replaced: %v", err)}
	}

	certificate, err := parseCertificate(s.Certificate, s.CertificateKey, v.DNSName, now)
	ours := err == nil && certificate.CheckSignatureFrom(ca.certificate) == nil
	if err == nil && !ours {
		err = errors.New("it is from another CA")
	}
	if !ours && !s.Since.IsZero() && !trustedByAll(v.Bundles, ca, now) {
		return Decision{Step: StepDoubt, Why: "the registration does not have the CA any more"}
	}
	age := now.Sub(s.Since)
	dated := !s.Since.IsZero() && age >= 0 // A time that is yet to come is from a clock that was wrong.
	settled := ours && dated && age >= fileDelay
	want := union(now, s.Authority, s.Previous)
	if !settled { // Trust only grows meanwhile, also when somebody takes a part of the Secret away.
		want = union(now, encode(want), encode(trusted))
	}
	for _, bundle := range v.Bundles {
		if !bytes.Equal(bundle, encode(want)) {
			return Decision{Step: StepBundle, Bundle: encode(want), Why: "the registration has another caBundle"}
		}
	}

	switch {
	case !dated:
		return Decision{Step: StepTrusted, Why: "the registration has the CA"}
	case !ours && age < trustDelay:
		return Decision{Step: StepNone, Wait: trustDelay - age}
	case !ours:
		return Decision{Step: StepCertificate, Why: fmt.Sprintf("the certificate has to be replaced: %v", err)}
	case !settled:
		return Decision{Step: StepNone, Wait: fileDelay - age}
	case len(s.Previous) > 0:
		return Decision{Step: StepForget, Why: "no pod serves a certificate of a previous CA any more"}
	default:
		untilRenewal := min(certificate.NotAfter.Add(-certificateRenewal).Sub(now), ca.certificate.NotAfter.Add(-authorityRenewal).Sub(now))
		return Decision{Step: StepNone, Wait: min(untilRenewal, lookAgain)}
	}
}

func trustedByAll(bundles [][]byte, ca *authority, now time.Time) bool {
	for _, bundle := range bundles {
		if !contains(union(now, bundle), ca.certificate) {
			return false
		}
	}
	return true
}

// next returns the Secret's state after a step, which is not StepNone or StepBundle.
func (v View) next(step Step) (State, error) {
	s := v.State
	var err error
	switch step {
	case StepFirst, StepAuthority:
		// Whoever is trusted now may be the one of whom a pod has a certificate.
		s.Previous = encode(union(v.Now, append([][]byte{s.Authority, s.Previous}, v.Bundles...)...))
		s.Since = time.Time{}
		if s.Authority, s.AuthorityKey, err = newAuthority(v.Now); err != nil || step == StepAuthority {
			return s, err
		}
		s.Previous = nil
	case StepDoubt:
		s.Since = time.Time{}
		return s, nil
	case StepTrusted:
		s.Since = v.Now
		return s, nil
	case StepForget:
		s.Previous = nil
		return s, nil
	}
	ca, err := parseAuthority(s.Authority, s.AuthorityKey, v.Now)
	if err != nil {
		return s, fmt.Errorf("reading the CA: %w", err)
	}
	s.Since = v.Now
	s.Certificate, s.CertificateKey, err = ca.sign(v.DNSName, v.Now)
	return s, err
}
