// Package jwt reads the claims of Kubernetes ServiceAccount tokens.
//
// It does not verify signatures and is no base for trust: the sidecar reads only tokens that it got from the API
// server over TLS, or wrote itself, to learn when they end and whom they are for. Nothing that decides about access
// may be added. No error holds any part of a token.
package jwt

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Claims is what podtoken reads of a token.
type Claims struct {
	// KeyID is the header's kid: the signing key.
	KeyID string
	// ID is the jti, which the API server's audit log holds too. It is no secret.
	ID        string
	Audiences []string
	// IssuedAt and Expires are never zero.
	IssuedAt, Expires time.Time
	// WarnAfter is the lifetime that was meant, in tokens that the API server extended to a year; else zero.
	WarnAfter time.Time

	Namespace                             string
	ServiceAccountName, ServiceAccountUID string
	PodName, PodUID                       string
}

type header struct {
	KeyID string `json:"kid"`
}

type payload struct {
	ID         string      `json:"jti"`
	Audiences  stringList  `json:"aud"`
	IssuedAt   numericDate `json:"iat"`
	Expires    numericDate `json:"exp"`
	Kubernetes struct {
		Namespace      string      `json:"namespace"`
		ServiceAccount reference   `json:"serviceaccount"`
		Pod            reference   `json:"pod"`
		WarnAfter      numericDate `json:"warnafter"`
	} `json:"kubernetes.io"`
}

type reference struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// Parse reads the claims of a token in compact form. It refuses anything but three non-empty base64url segments: a
// token with a newline at its end, or cut off in its first two segments, is not complete.
func Parse(token string) (Claims, error) {
	segments := strings.Split(token, ".")
	if len(segments) != 3 {
		return Claims{}, fmt.Errorf("a token has 3 segments, this has %d", len(segments))
	}
	var head header
	var body payload
	for i, segment := range segments {
		// encoding/base64 skips line breaks, so the characters are checked first.
		if segment == "" || strings.ContainsAny(segment, "\r\n") {
			return Claims{}, fmt.Errorf("segment %d of the token is empty or has a line break", i+1)
		}
		decoded, err := base64.RawURLEncoding.DecodeString(segment)
		if err != nil {
			return Claims{}, fmt.Errorf("segment %d of the token is not base64url", i+1)
		}
		switch i {
		case 0:
			err = json.Unmarshal(decoded, &head)
		case 1:
			err = json.Unmarshal(decoded, &body)
		}
		if err != nil {
			// The decoder's own error may quote what it read.
			return Claims{}, fmt.Errorf("segment %d of the token is not the JSON that was expected", i+1)
		}
	}
	if body.IssuedAt.IsZero() || body.Expires.IsZero() {
		return Claims{}, errors.New("the token has no iat or no exp claim")
	}
	k := body.Kubernetes
	return Claims{
		KeyID:              head.KeyID,
		ID:                 body.ID,
		Audiences:          body.Audiences,
		IssuedAt:           body.IssuedAt.Time,
		Expires:            body.Expires.Time,
		WarnAfter:          k.WarnAfter.Time,
		Namespace:          k.Namespace,
		ServiceAccountName: k.ServiceAccount.Name,
		ServiceAccountUID:  k.ServiceAccount.UID,
		PodName:            k.Pod.Name,
		PodUID:             k.Pod.UID,
	}, nil
}

// Segments returns the header and all claims of a token as they are, for people to look at; never the signature. What Parse
// refuses it refuses, too.
func Segments(token string) (header, claims json.RawMessage, err error) {
	if _, err := Parse(token); err != nil {
		return nil, nil, err
	}
	segments := strings.Split(token, ".")
	var decoded [2]json.RawMessage
	for i := range decoded {
		if decoded[i], err = base64.RawURLEncoding.DecodeString(segments[i]); err != nil {
			return nil, nil, fmt.Errorf("segment %d of the token is not base64url", i+1)
		}
	}
	return decoded[0], decoded[1], nil
}

// HasAudiences reports whether the token is for exactly the given audiences, in any order: one more would be a validating
// service that was not requested.
func (c Claims) HasAudiences(wanted []string) bool {
	if len(c.Audiences) != len(wanted) {
		return false
	}
	for _, audience := range wanted {
		found := false
		for _, have := range c.Audiences {
			found = found || have == audience
		}
		if !found {
			return false
		}
	}
	return true
}

// extensionSlack is the difference between what a token and the answer around it say of its end that means nothing.
const extensionSlack = time.Minute

// Extended reports whether the API server made exp later than the lifetime it grants: it makes one year of exactly 3607 s, for
// clients that never read their file again. granted is the answer's expirationTimestamp; zero when it is unknown.
func (c Claims) Extended(granted time.Time) bool {
	for _, meant := range []time.Time{granted, c.WarnAfter} {
		if !meant.IsZero() && c.Expires.Sub(meant) > extensionSlack {
			return true
		}
	}
	return false
}

// stringList is an array of strings, or one string: RFC 7519 allows both for aud.
type stringList []string

func (l *stringList) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*l = nil
		if one != "" {
			*l = stringList{one}
		}
		return nil
	}
	var many []string
	err := json.Unmarshal(data, &many)
	*l = many
	return err
}

// numericDate is seconds since 1970, possibly with a fraction.
type numericDate struct{ time.Time }

// maxSeconds is the end of the year 9999, the last that time.Time can write as JSON.
const maxSeconds = 253402300799

func (d *numericDate) UnmarshalJSON(data []byte) error {
	seconds, err := strconv.ParseFloat(string(data), 64)
	if err != nil || !(seconds > 0 && seconds <= maxSeconds) {
		return errors.New("not a date")
	}
	d.Time = time.UnixMilli(int64(seconds * 1000)).UTC()
	return nil
}
