package main

import (
	"context"
	"os"
	"time"

	vault "github.com/hashicorp/vault/api"
	bao "github.com/openbao/openbao/api/v2"
)

// logIn is what both clients send to auth/jwt/login: the role, and the token as the file has it now.
func logIn() (map[string]any, error) {
	token, err := os.ReadFile(os.Getenv("VAULT_TOKEN_FILE"))
	return map[string]any{"role": os.Getenv("VAULT_ROLE"), "jwt": string(token)}, err
}

// vaultLogin is an api.AuthMethod; the modules that have one for jwt are not published apart from the server.
type vaultLogin struct{}

func (vaultLogin) Login(ctx context.Context, client *vault.Client) (*vault.Secret, error) {
	data, err := logIn()
	if err != nil {
		return nil, err
	}
	return client.Logical().WriteWithContext(ctx, "auth/jwt/login", data)
}

// newVault takes its settings as Vault's command does: VAULT_ADDR.
func newVault(context.Context) (client, error) {
	api, err := vault.NewClient(nil)
	if err != nil {
		return nil, err
	}
	return leased(func(ctx context.Context) (int, error) {
		secret, err := api.Auth().Login(ctx, vaultLogin{}) // which keeps Vault's token for later requests
		if err != nil {
			return 0, err
		}
		return secret.Auth.LeaseDuration, nil
	}, func(ctx context.Context) (map[string]string, error) {
		secret, err := api.Auth().Token().LookupSelfWithContext(ctx)
		if err != nil {
			return nil, err
		}
		return secret.TokenMetadata()
	}), nil
}

// baoLogin is the same for the types of OpenBao.
type baoLogin struct{}

func (baoLogin) Login(ctx context.Context, client *bao.Client) (*bao.Secret, error) {
	data, err := logIn()
	if err != nil {
		return nil, err
	}
	return client.Logical().WriteWithContext(ctx, "auth/jwt/login", data)
}

// newOpenBao does what newVault does. Its client reads VAULT_ADDR where there is no BAO_ADDR.
func newOpenBao(context.Context) (client, error) {
	api, err := bao.NewClient(nil)
	if err != nil {
		return nil, err
	}
	return leased(func(ctx context.Context) (int, error) {
		secret, err := api.Auth().Login(ctx, baoLogin{})
		if err != nil {
			return 0, err
		}
		return secret.Auth.LeaseDuration, nil
	}, func(ctx context.Context) (map[string]string, error) {
		secret, err := api.Auth().Token().LookupSelfWithContext(ctx)
		if err != nil {
			return nil, err
		}
		return secret.TokenMetadata()
	}), nil
}

// leased logs in whenever the last login has come to its end, and asks for what Vault keeps about it.
func leased(login func(context.Context) (seconds int, err error), lookup func(context.Context) (map[string]string, error)) client {
	var ends time.Time
	return func(ctx context.Context) (string, error) {
		if time.Now().After(ends) {
			seconds, err := login(ctx)
			if err != nil {
				return "", err
			}
			ends = time.Now().Add(time.Duration(seconds) * time.Second)
		}
		metadata, err := lookup(ctx)
		return metadata["jti"], err
	}
}
