package oci

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"golang.org/x/net/publicsuffix"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// maxToken bounds the answer of a token server.
const maxToken = 1 << 20

func (r *registry) key() string { return r.scheme + "://" + r.host + "/" + r.ref.repo }

// authorization is how we prove who we are at a registry so far.
func (c *Client) authorization(r *registry) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tokens[r.key()]
}

// authorize answers a registry's challenge
// (https://distribution.github.io/distribution/spec/auth/token/). Credentials are looked up only
// now, so that a registry that asks for none never makes a credential helper run.
func (r *registry) authorize(ctx context.Context, challenges []string) error {
	creds, err := r.credentials(ctx)
	if err != nil {
		return err
	}
	var proof string
	for _, text := range challenges {
		scheme, params := parseChallenge(text)
		switch {
		case scheme == "bearer" && creds.RegistryToken != "":
			proof = "Bearer " + creds.RegistryToken
		case scheme == "bearer":
			token, err := r.token(ctx, params, creds)
			if err != nil {
				return err
			}
			proof = "Bearer " + token
		case scheme == "basic" && basicAuth(creds) != "":
			proof = basicAuth(creds)
		}
		if proof != "" {
			break
		}
	}
	if proof == "" {
		return r.deniedError()
	}
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	r.c.tokens[r.key()] = proof
	return nil
}

// credentials are what the user has stored for this registry, and for no other.
func (r *registry) credentials(ctx context.Context) (authn.AuthConfig, error) {
	a, err := authn.Resolve(ctx, r.c.o.Keychain, resource{r.ref})
	if err == nil {
		var cfg *authn.AuthConfig
		if cfg, err = authn.Authorization(ctx, a); err == nil && cfg != nil {
			return *cfg, nil
		}
	}
	if err == nil {
		return authn.AuthConfig{}, nil
	}
	return authn.AuthConfig{}, machine.Errorf("peer.credentials", "run `docker login "+loginHost(r.ref.host)+"` again, or correct ~/.docker/config.json",
		"finding the credentials for %s: %s", plain(r.ref.host), plain(err.Error()))
}

// resource is a repository as keychains know it.
type resource struct{ ref reference }

func (r resource) String() string { return r.RegistryStr() + "/" + r.ref.repo }

// RegistryStr implements authn.Resource.
func (r resource) RegistryStr() string {
	if r.ref.host == hub {
		return "index." + hub
	}
	return r.ref.host
}

func basicAuth(c authn.AuthConfig) string {
	switch {
	case c.Username != "" || c.Password != "":
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password))
	case c.Auth != "":
		return "Basic " + c.Auth
	}
	return ""
}

// token asks the server that a registry names for a token. What it is good for is our word, not the
// registry's: reading this one repository.
func (r *registry) token(ctx context.Context, params map[string]string, creds authn.AuthConfig) (string, error) {
	home := r.url("", "")
	realm, err := url.Parse(params["realm"])
	if err != nil || realm.Host == "" {
		return "", machine.Errorf("peer.invalid", remedyRegistry, "%s asks for a token from %s, which is no address", plain(r.host), quote(params["realm"]))
	}
	if err := r.c.checkHop(home, home, realm); err != nil {
		return "", err
	}
	known := creds.IdentityToken != "" || basicAuth(creds) != ""
	if known && !trustedRealm(home, realm) {
		return "", machine.Errorf("peer.realm", "use another registry; without stored credentials (`docker logout "+loginHost(r.ref.host)+"`) it would be asked as anybody",
			"%s wants its password to be sent to %s, another site", plain(r.host), quote(realm.Host))
	}
	form := realm.Query()
	form.Set("service", params["service"])
	form.Set("scope", "repository:"+r.ref.repo+":pull")
	header, method := http.Header{}, http.MethodGet
	body := ""
	if creds.IdentityToken != "" {
		form.Set("grant_type", "refresh_token")
		form.Set("refresh_token", creds.IdentityToken)
		form.Set("client_id", "mvmctl")
		method, body = http.MethodPost, form.Encode()
		header.Set("Content-Type", "application/x-www-form-urlencoded")
	} else {
		realm.RawQuery = form.Encode()
		if known {
			header.Set("Authorization", basicAuth(creds))
		}
	}
	var token string
	err = r.c.try(ctx, func() (err error) {
		token, err = r.askToken(ctx, realm, method, header.Clone(), body)
		return err
	})
	return token, err
}

// askToken follows no redirects: there is none in the specification, and it would carry a
// password.
func (r *registry) askToken(ctx context.Context, realm *url.URL, method string, header http.Header, body string) (string, error) {
	resp, err := r.c.send(ctx, r.url("", ""), realm, method, header, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusForbidden:
		resp.close()
		return "", r.forbiddenError("")
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusNotFound:
		resp.close()
		return "", r.deniedError()
	default:
		resp.close()
		return "", r.forbiddenError("")
	}
	defer resp.close()
	data, err := resp.readAll("answer with a token", maxToken)
	if err != nil {
		return "", err
	}
	var token, access string
	o, err := parseDocument(data, "token", "access_token")
	if err == nil {
		err = firstError(o.get("token", &token), o.get("access_token", &access))
	}
	if token == "" {
		token = access
	}
	if err != nil || token == "" || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "", machine.Errorf("peer.invalid", remedyRegistry, "%s answers with no token", plain(realm.Host))
	}
	return token, nil
}

// trustedRealm reports whether credentials for a registry may go to its token server: the same
// host or another of the same owner, as DNS knows it (auth.docker.io of registry-1.docker.io).
func trustedRealm(home, realm *url.URL) bool {
	if sameHost(home, realm) {
		return true
	}
	if realm.Scheme != "https" {
		return false
	}
	a, b := strings.ToLower(home.Hostname()), strings.ToLower(realm.Hostname())
	if a == b {
		return true
	}
	own, err := publicsuffix.EffectiveTLDPlusOne(a)
	if err != nil || isOwnHost(a) || strings.Trim(a, "0123456789.") == "" || strings.Contains(a, ":") {
		return false
	}
	other, err := publicsuffix.EffectiveTLDPlusOne(b)
	return err == nil && own == other
}

// parseChallenge reads one WWW-Authenticate (RFC 9110, section 11.6.1): a scheme and its parameters.
func parseChallenge(text string) (scheme string, params map[string]string) {
	scheme, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
	params = map[string]string{}
	for rest = strings.TrimLeft(rest, " ,\t"); rest != ""; rest = strings.TrimLeft(rest, " ,\t") {
		key, after, ok := strings.Cut(rest, "=")
		if !ok {
			break
		}
		var value string
		value, rest = challengeValue(after)
		if key = strings.ToLower(strings.TrimSpace(key)); params[key] == "" {
			params[key] = value
		}
	}
	return strings.ToLower(scheme), params
}

// challengeValue splits a quoted or bare value from what follows it.
func challengeValue(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexAny(s, ", ")
		if end < 0 {
			end = len(s)
		}
		return s[:end], s[end:]
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:]
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), ""
}

func loginHost(host string) string {
	if host == hub {
		return ""
	}
	return host
}

// forbiddenError is for a registry that knows who we are, or does not care, and says no.
func (r *registry) forbiddenError(said string) error {
	login := strings.TrimSpace("docker login " + loginHost(r.ref.host))
	return machine.Errorf("peer.denied", "check the name; if it is right, you are not allowed to have it, or not from here: ask whoever runs the registry, or log in as somebody who is: "+login,
		"%s does not allow %s (403)%s", plain(r.ref.host), plain(r.ref.repo), said)
}

func (r *registry) deniedError() error {
	login := strings.TrimSpace("docker login " + loginHost(r.ref.host))
	return machine.Errorf("peer.denied", "check the name; if it is right, log in: "+login,
		"%s has no image %s, or does not show it to you", plain(r.ref.host), plain(r.ref.repo))
}
