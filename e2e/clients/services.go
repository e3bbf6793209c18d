package main

import (
	"encoding/xml"
	"fmt"
	"net/http"
	"time"
)

// What the services know of the pods: an administrator would have configured it there.
const (
	awsAudience = "sts.amazonaws.com"
	awsRole     = "arn:aws:iam::123456789012:role/billing"

	azureAudience = "api://AzureADTokenExchange"
	azureClient   = "00000000-1111-2222-3333-444444444444"
	azureTenant   = "55555555-6666-7777-8888-999999999999"

	googleProvider = "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/clusters/providers/cluster-1"
	googleAudience = "https:" + googleProvider
	googleAccount  = "billing@project.iam.gserviceaccount.com"
)

// aws is the Security Token Service: docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html.
func (s *server) aws(mux *http.ServeMux) {
	type problem struct {
		XMLName xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ ErrorResponse"`
		Type    string   `xml:"Error>Type"`
		Code    string   `xml:"Error>Code"`
		Message string   `xml:"Error>Message"`
	}
	type assumed struct {
		XMLName      xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ AssumeRoleWithWebIdentityResponse"`
		AccessKeyID  string   `xml:"AssumeRoleWithWebIdentityResult>Credentials>AccessKeyId"`
		SecretKey    string   `xml:"AssumeRoleWithWebIdentityResult>Credentials>SecretAccessKey"`
		SessionToken string   `xml:"AssumeRoleWithWebIdentityResult>Credentials>SessionToken"`
		Expiration   string   `xml:"AssumeRoleWithWebIdentityResult>Credentials>Expiration"`
	}
	type identity struct {
		XMLName xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ GetCallerIdentityResponse"`
		ARN     string   `xml:"GetCallerIdentityResult>Arn"`
		UserID  string   `xml:"GetCallerIdentityResult>UserId"`
		Account string   `xml:"GetCallerIdentityResult>Account"`
	}
	write := func(w http.ResponseWriter, status int, body any) {
		w.Header().Set("Content-Type", "text/xml")
		w.WriteHeader(status)
		_ = xml.NewEncoder(w).Encode(body) // if the client has gone, nobody needs it
	}
	refuse := func(w http.ResponseWriter, code, message string) {
		write(w, http.StatusBadRequest, problem{Type: "Sender", Code: code, Message: message})
	}
	mux.HandleFunc("POST /aws", func(w http.ResponseWriter, r *http.Request) {
		switch r.FormValue("Action") {
		case "AssumeRoleWithWebIdentity":
			if role := r.FormValue("RoleArn"); role != awsRole || r.FormValue("RoleSessionName") == "" {
				refuse(w, "AccessDenied", fmt.Sprintf("no role %q, or no name of a session", role))
				return
			}
			id, err := s.accept(r, r.FormValue("WebIdentityToken"), awsAudience)
			if err != nil {
				refuse(w, "InvalidIdentityToken", err.Error())
				return
			}
			write(w, http.StatusOK, assumed{ //nolint:gosec // the keys are those of Amazon's documentation
				AccessKeyID: "ASIAIOSFODNN7EXAMPLE", SecretKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
				SessionToken: s.give(id), Expiration: time.Now().Add(lifetime).UTC().Format(time.RFC3339),
			})
		case "GetCallerIdentity":
			// The real one verifies the request's signature by the secret key too, which has nothing to do with our token.
			id, ok := s.whose(r.Header.Get("X-Amz-Security-Token"))
			if !ok {
				refuse(w, "InvalidClientTokenId", "the session token is not known")
				return
			}
			write(w, http.StatusOK, identity{ARN: "arn:aws:sts::123456789012:assumed-role/billing/session", UserID: id, Account: "123456789012"})
		default:
			refuse(w, "InvalidAction", "no such action")
		}
	})
}

// azure is Entra ID for one tenant: learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow, third case.
func (s *server) azure(mux *http.ServeMux) {
	mux.HandleFunc("GET /"+azureTenant+"/v2.0/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		tenant := "https://" + r.Host + "/" + azureTenant
		answer(w, http.StatusOK, map[string]string{
			"issuer": tenant + "/v2.0", "token_endpoint": tenant + "/oauth2/v2.0/token", "authorization_endpoint": tenant + "/oauth2/v2.0/authorize",
		})
	})
	mux.HandleFunc("POST /"+azureTenant+"/oauth2/v2.0/token", func(w http.ResponseWriter, r *http.Request) {
		refuse := func(code, description string) {
			answer(w, http.StatusBadRequest, map[string]string{"error": code, "error_description": description})
		}
		if r.FormValue("grant_type") != "client_credentials" || r.FormValue("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
			refuse("unsupported_grant_type", "not a client with an assertion")
			return
		}
		if client := r.FormValue("client_id"); client != azureClient {
			refuse("unauthorized_client", fmt.Sprintf("AADSTS700016: no application %q", client))
			return
		}
		id, err := s.accept(r, r.FormValue("client_assertion"), azureAudience)
		if err != nil {
			refuse("invalid_client", "AADSTS700213: "+err.Error())
			return
		}
		answer(w, http.StatusOK, map[string]any{"token_type": "Bearer", "expires_in": int(lifetime.Seconds()), "access_token": s.give(id)})
	})
}

// google is the Security Token Service and the IAM Service Account Credentials API:
// cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token and
// cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateAccessToken.
func (s *server) google(mux *http.ServeMux) {
	mux.HandleFunc("POST /google/v1/token", func(w http.ResponseWriter, r *http.Request) {
		refuse := func(code, description string) {
			answer(w, http.StatusBadRequest, map[string]string{"error": code, "error_description": description})
		}
		if r.FormValue("grant_type") != "urn:ietf:params:oauth:grant-type:token-exchange" || r.FormValue("subject_token_type") != "urn:ietf:params:oauth:token-type:jwt" {
			refuse("unsupported_grant_type", "not an exchange of a JWT")
			return
		}
		if provider := r.FormValue("audience"); provider != googleProvider {
			refuse("invalid_target", fmt.Sprintf("no provider %q", provider))
			return
		}
		id, err := s.accept(r, r.FormValue("subject_token"), googleAudience)
		if err != nil {
			refuse("invalid_grant", err.Error())
			return
		}
		answer(w, http.StatusOK, map[string]any{ //nolint:gosec // it is made this moment
			"access_token": s.give(id), "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
			"token_type": "Bearer", "expires_in": int(lifetime.Seconds()),
		})
	})
	mux.HandleFunc("POST /google/v1/projects/-/serviceAccounts/"+googleAccount+":generateAccessToken", func(w http.ResponseWriter, r *http.Request) {
		id, ok := s.whose(bearer(r))
		if !ok {
			answer(w, http.StatusUnauthorized, map[string]any{"error": map[string]any{"code": http.StatusUnauthorized, "status": "UNAUTHENTICATED"}})
			return
		}
		answer(w, http.StatusOK, map[string]string{"accessToken": s.give(id), "expireTime": time.Now().Add(lifetime).UTC().Format(time.RFC3339)})
	})
}
