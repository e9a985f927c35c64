package oci

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
)

// TestForeignChallenge: a host that we were sent to is never told who we are, whatever it asks
// (A066).
func TestForeignChallenge(t *testing.T) {
	t.Parallel()
	content := makeImage(t, 1000)
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("credentials went to another host")
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(storage.Close)
	s := newSite(t, content)
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, storage.URL+"/x", http.StatusTemporaryRedirect)
		return true
	}
	c := newClient(t)
	asked := false
	c.o.Keychain = keychainFunc(func(authn.Resource) { asked = true })
	_, err := pull(t, c, s.source(t, ":1"), newBlobs(t))
	wantCode(t, err, "peer.unavailable")
	if asked {
		t.Error("credentials were looked up for another host's challenge")
	}
}

type keychainFunc func(authn.Resource)

func (f keychainFunc) Resolve(r authn.Resource) (authn.Authenticator, error) {
	f(r)
	return authn.FromConfig(authn.AuthConfig{Username: "me", Password: "secret"}), nil
}

// TestRealms: the server that a registry sends our password to has to be its own (A066).
func TestRealms(t *testing.T) {
	t.Parallel()
	content := makeImage(t, 1000)
	t.Run("another site", func(t *testing.T) {
		t.Parallel()
		s, tokens, seen := guarded(t, content, "", "")
		c := newClient(t)
		c.o.Keychain = keychain{s.host(): authn.AuthConfig{Username: "me", Password: "secret"}}
		_, err := pull(t, c, s.source(t, ":1"), newBlobs(t))
		wantCode(t, err, "peer.realm")
		c.o.Keychain = keychain{s.host(): authn.AuthConfig{IdentityToken: "secret"}}
		_, err = pull(t, c, s.source(t, ":1"), newBlobs(t))
		wantCode(t, err, "peer.realm")
		if len(*seen) != 0 {
			t.Errorf("%s was asked", tokens.URL)
		}
		// A password for another registry is no password here.
		c.o.Keychain = keychain{"docker.io": authn.AuthConfig{Username: "me", Password: "secret"}}
		_, err = pull(t, c, s.source(t, ":1"), newBlobs(t))
		must(t, err)
	})
	t.Run("inside", func(t *testing.T) {
		t.Parallel()
		s, _, seen := guarded(t, content, "", "")
		c, src := inPublic(t, s)
		_, err := pull(t, c, src, newBlobs(t))
		wantCode(t, err, "peer.redirect")
		if len(*seen) != 0 {
			t.Error("it was asked")
		}
	})
	t.Run("another scheme", func(t *testing.T) {
		t.Parallel()
		s := newSite(t, content)
		s.before = func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("WWW-Authenticate", `Bearer realm="gopher://127.0.0.1/token"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		_, err := pull(t, newClient(t), s.source(t, ":1"), newBlobs(t))
		wantCode(t, err, "peer.redirect")
	})
	for _, test := range []struct {
		home, realm string
		ok          bool
	}{
		{"https://registry-1.docker.io", "https://auth.docker.io/token", true},
		{"https://registry-1.docker.io", "http://auth.docker.io/token", false},
		{"https://registry-1.docker.io", "https://auth.docker.io.evil.com/token", false},
		{"https://registry.gitlab.com", "https://gitlab.com/jwt/auth", true},
		{"https://ghcr.io", "https://ghcr.io/token", true},
		{"https://ghcr.io", "https://evil.io/token", false},
		{"https://shop.co.uk", "https://evil.co.uk/token", false},
		{"https://me.github.io", "https://evil.github.io/token", false},
		{"http://localhost:5000", "http://localhost:5000/token", true},
		{"http://localhost:5000", "http://localhost:5001/token", false},
		{"https://10.0.0.1", "https://10.0.0.2", false},
		{"https://[fd00::1]", "https://[fd00::2]", false},
	} {
		home, err := url.Parse(test.home)
		must(t, err)
		realm, err := url.Parse(test.realm)
		must(t, err)
		if got := trustedRealm(home, realm); got != test.ok {
			t.Errorf("%s, %s: %v", test.home, test.realm, got)
		}
	}
}

func TestBadTokens(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"empty": `{}`, "html": `<html>`, "twice": `{"token":"a","token":"b"}`, "header": `{"token":"a\r\nX: y"}`, "list": `["a"]`, "cut": `{"token":"a"`,
	} {
		content := makeImage(t, 10)
		s := newSite(t, content)
		s.before = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/token" {
				_, _ = io.WriteString(w, answer)
				return true
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		t.Run(name, func(t *testing.T) {
			_, err := newClient(t).Resolve(t.Context(), s.source(t, ""), amd64)
			wantCode(t, err, "peer.invalid")
		})
	}
}

func TestChallenges(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]map[string]string{
		`Bearer realm="https://a/b",service="s,t",scope="x"`: {"realm": "https://a/b", "service": "s,t", "scope": "x"},
		`bearer realm=https://a , Service=s`:                 {"realm": "https://a", "service": "s"},
		`Bearer realm="a\"b`:                                 {"realm": `a"b`},
		`Bearer`:                                             {}, `Bearer x`: {}, `Bearer =`: {"": ""}, `Bearer realm="a",realm="b"`: {"realm": "a"},
	} {
		scheme, got := parseChallenge(text)
		if diff := cmp.Diff(want, got); scheme != "bearer" || diff != "" {
			t.Errorf("%s: %s %s", text, scheme, diff)
		}
	}
}
