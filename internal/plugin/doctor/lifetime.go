package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/podtoken/podtoken/internal/plugin"
	"github.com/podtoken/podtoken/pkg/api"
)

// acceptFlags asks /flagz for flags in a form for programs (k8s.io/apiserver@v0.37.2/pkg/server/flagz/api/v1beta1/types.go).
const acceptFlags = "application/json;v=v1beta1;g=config.k8s.io;as=Flagz"

// maxFlagsBytes bounds what is read of the flags; an API server has some 15 KiB.
const maxFlagsBytes = 1 << 20

var (
	errFlagsForbidden = errors.New("you may not read the API server's flags (get /flagz)")
	errNoFlags        = errors.New("the API server does not show its flags; Kubernetes does from version 1.36 on, unless the feature ComponentFlagz is off")
)

// tokenLifetime compares the longest lifetime that a Pod may request with what the API server grants. It reads the API server's
// flags. A dry run of a TokenRequest would show it, too, but is answered with a signed token that can be used.
func (d *doctor) tokenLifetime(ctx context.Context) {
	const check = "token lifetime"
	flags, err := d.flags(ctx)
	value := flags["service-account-max-token-expiration"]
	if err == nil && value == "" {
		err = errNoFlags
	}
	if errors.Is(err, errFlagsForbidden) || errors.Is(err, errNoFlags) {
		d.Add(plugin.Note, check, "the longest one that the API server grants is unknown: %v", err)
		return
	}
	var longest time.Duration
	if err == nil {
		longest, err = time.ParseDuration(value)
	}
	if err != nil {
		d.Add(plugin.Note, check, "the longest one that the API server grants cannot be read: %s", plugin.Describe(err))
		return
	}
	requested := time.Duration(0) // unknown
	if d.found.Config != nil {
		requested = d.found.Config.Tokens.MaxExpiration.Duration
	}
	const extended = api.ForbiddenExpirationSeconds * time.Second
	switch {
	case longest == 0:
		d.Add(plugin.OK, check, "the API server has no maximum")
	case requested != 0 && requested <= longest:
		d.Add(plugin.OK, check, "the API server grants up to %s, a Pod may request up to %s (tokens.maxExpiration)", longest, requested)
	case longest == extended && flags["service-account-extend-token-expiration"] != "false":
		d.Add(plugin.Warning, check, "the API server shortens a longer one to %s (--service-account-max-token-expiration), and makes the token valid for a year if all its audiences "+
			"are the API server's: sidecars do not use such tokens; change the flag by a second, or set tokens.maxExpiration to 1h", longest)
	case requested == 0:
		d.Add(plugin.OK, check, "the API server grants up to %s", longest)
	default:
		d.Add(plugin.Note, check, "the API server shortens a longer one to %s (--service-account-max-token-expiration), a Pod may request up to %s (tokens.maxExpiration): "+
			"sidecars refresh such tokens earlier", longest, requested)
	}
}

// flags returns those of the API server that answers.
func (d *doctor) flags(ctx context.Context) (map[string]string, error) {
	answer, err := d.get(ctx, "/flagz", acceptFlags)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, errFlagsForbidden
	case http.StatusNotFound, http.StatusNotAcceptable: // Alpha versions have other forms.
		return nil, errNoFlags
	default:
		return nil, fmt.Errorf("HTTP %d from /flagz", answer.StatusCode)
	}
	var content struct {
		Kind  string            `json:"kind"`
		Flags map[string]string `json:"flags"`
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxFlagsBytes)).Decode(&content); err != nil || content.Kind != "Flagz" {
		return nil, errNoFlags
	}
	return content.Flags, nil
}
