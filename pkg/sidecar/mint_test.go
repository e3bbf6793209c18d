package sidecar

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestSecretsCannotBePrinted(t *testing.T) {
	secret := Secret("eyJ.secret.x")
	encoded, err := json.Marshal(Token{Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		fmt.Sprint(secret), fmt.Sprintf("%s %v %+v %#v %q %x", secret, secret, Token{Secret: secret}, Token{Secret: secret}, secret, secret),
		string(encoded), secret.String(), secret.LogValue().String(),
	} {
		if strings.Contains(text, "secret") {
			t.Errorf("printed: %s", text)
		}
	}
}
