package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// noticed is how long it may take until every file has a token of a new key or ServiceAccount: the kubelet replaces its file of
// ten minutes after eight of them, up to a minute and a half late; the sidecar looks once a minute, and spreads what follows.
const noticed = (480 + 90 + 60 + 15) * time.Second

// watchSigners is longer than that.
const watchSigners = noticed + 45*time.Second

// The API server signs with a new key. While it still accepts the old one, the first token of the new key that the sidecar
// sees, a refresh or its own credential, gives it away; afterwards everything is refused until the kubelet has replaced that
// credential.
func faultKeyRotated(t *testing.T, keepOld bool) faultRow {
	suffix, fault := "hard", "signing key replaced, the old one refused at once"
	if keepOld {
		suffix, fault = "soft", "signing key replaced, the old one accepted"
	}
	w := ownWorld(t, suffix)
	n := w.newNamespace(t, allowedPrefix, nil)
	n.duel(watchSigners, "80%", nil)
	more := []string{"second", "third"}
	for _, pod := range more {
		n.create(pod, annotations("audience.a", "a", "audience.b", "b", "audience.c", "c", "expiration.c", "24h"), podSpec())
		n.ready(pod)
	}
	key := func(token string) string { return headerOf(t, token).KeyID }
	old := key(n.token(oursPod, "app", oursDir+hour))
	must(t, w.cluster.RotateSigningKey(t.Context(), keepOld), "rotating the key")
	rotated := time.Now()
	if !keepOld {
		// The controller's own credential is refused like every other. It must not take longer than the sidecars.
		n.account("newcomer")
		n.create("newcomer", annotations("audience", audienceDefault), gated("newcomer"))
	}
	ours, kubelets := n.outcome()
	isNew := func(token seenToken) bool { return token.KeyID != old }
	row := faultRow{fault, "new key: " + times(kubelets, kubeletsDir, rotated, isNew), "new key: " + times(ours, oursDir, rotated, isNew)}
	for _, name := range []string{hour, short} {
		if d, came := ours[oursDir+name].firstAfter(rotated, isNew); !came || d > noticed {
			t.Errorf("our token %q has the new key after %s (%v), want at most %s", name, d, came, noticed)
		}
	}
	for _, pod := range more {
		for _, name := range []string{"a", "b", "c"} {
			if key(n.token(pod, "app", oursDir+name)) == old {
				t.Errorf("token %q of pod %q still has the old key after %s", name, pod, time.Since(rotated))
			}
		}
	}
	if !keepOld {
		took := n.granted("newcomer", audienceDefault).CreationTimestamp.Sub(rotated)
		t.Logf("the controller granted a new ServiceAccount its tokens %s after the rotation", took.Round(time.Second))
		if took > noticed {
			t.Errorf("that is later than %s", noticed)
		}
	}
	return row
}

// The ServiceAccount is deleted and made again: every token of the old one is worthless, also the sidecar's credential.
func faultServiceAccountRecreated(t *testing.T) faultRow {
	n := newNamespace(t, nil)
	n.duel(watchSigners, "80%", nil)
	before, err := client.CoreV1().ServiceAccounts(n.name).Get(t.Context(), serviceAccount, metav1.GetOptions{})
	must(t, err, "reading the ServiceAccount")
	must(t, client.CoreV1().ServiceAccounts(n.name).Delete(t.Context(), serviceAccount, metav1.DeleteOptions{}), "deleting the ServiceAccount")
	after := n.account(serviceAccount)
	recreated := time.Now()
	// Now, because it goes when the pod has ended.
	eventually(t, time.Minute, "the grant is that of the new ServiceAccount", func(context.Context) (bool, error) {
		role := n.role(serviceAccount)
		return role != nil && role.OwnerReferences[0].UID == after.UID, nil
	})
	ours, kubelets := n.outcome()
	isNew := func(token seenToken) bool { return token.ServiceAccountUID == string(after.UID) }
	for _, name := range []string{hour, short} {
		r := ours[oursDir+name]
		if r.Tokens[0].ServiceAccountUID != string(before.UID) {
			t.Errorf("the first token is of ServiceAccount %q, want %q", r.Tokens[0].ServiceAccountUID, before.UID)
		}
		if d, came := r.firstAfter(recreated, isNew); !came || d > noticed {
			t.Errorf("our token %q is of the new ServiceAccount after %s (%v), want at most %s", name, d, came, noticed)
		}
	}
	return faultRow{"ServiceAccount deleted and created again", "new uid: " + times(kubelets, kubeletsDir, recreated, isNew), "new uid: " + times(ours, oursDir, recreated, isNew)}
}

// times says when each of the two tokens was as wanted.
func times(all map[string]fileReport, dir string, since time.Time, wanted func(seenToken) bool) string {
	text := ""
	for _, one := range []struct{ name, life string }{{short, "10 min token"}, {hour, "1 h token"}} {
		if text != "" {
			text += ", "
		}
		if d, came := all[dir+one.name].firstAfter(since, wanted); came {
			text += fmt.Sprintf("%s after %s", one.life, d.Round(time.Second))
		} else {
			text += fmt.Sprintf("**%s not within %s**", one.life, watchSigners.Round(time.Minute))
		}
	}
	return text
}

// headerOf reads the header of a token.
func headerOf(t *testing.T, token string) (header struct {
	KeyID string `json:"kid"`
}) {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[0])
	must(t, err, "decoding the header")
	must(t, json.Unmarshal(text, &header), "decoding the header")
	return header
}
