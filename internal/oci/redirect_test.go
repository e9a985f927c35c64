package oci

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
)

// TestRedirects of each kind that a registry may not send us on (A065).
func TestRedirects(t *testing.T) {
	t.Parallel()
	content := makeImage(t, 1000)
	l := content.layers[0]
	bait := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a request arrived at %s: %s", r.Host, r.URL)
	}))
	t.Cleanup(bait.Close)
	baitPort := bait.URL[strings.LastIndex(bait.URL, ":"):]
	for name, to := range map[string]string{
		"loop": "/v2/app/blobs/" + l.Digest, "file": "file:///etc/passwd", "unix": "unix:///run/x", "gopher": "gopher://x/",
		"loopback": bait.URL, "localhost": "http://localhost" + baitPort, "ip6": "http://[::1]" + baitPort, "mapped": "http://[::ffff:127.0.0.1]" + baitPort,
		"zero":     "http://0.0.0.0" + baitPort,
		"metadata": "http://169.254.169.254/latest", "private": "http://10.0.0.1/", "ula": "http://[fd00::1]/", "link": "http://[fe80::1]/",
		"nat64": "http://[64:ff9b::7f00:1]" + baitPort, "dot": "http://localhost." + baitPort,
		"user": "http://a:b@example.com/", "empty": "", "garbage": "http://[", "no host": "http:///x", "name": "http://bait.test" + baitPort,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, content)
			s.before = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, l.Digest) {
					return false
				}
				w.Header()["Location"] = []string{to}
				w.WriteHeader(http.StatusTemporaryRedirect)
				return true
			}
			c, src := inPublic(t, s)
			_, err := pull(t, c, src, newBlobs(t))
			wantCode(t, err, "peer.redirect")
			if n := len(s.asked(l.Digest)); name != "loop" && n != 1 || n > 6 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

// inPublic gives a site a name and an address in public. Other names are of this host.
func inPublic(t *testing.T, s *site) (*Client, Source) {
	t.Helper()
	_, port, err := net.SplitHostPort(s.host())
	must(t, err)
	c := newClient(t)
	c.o.Insecure = []string{"registry.example.com"}
	c.tune.dial = func(ctx context.Context, network, address string, check func(netip.Addr) error) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		switch {
		case strings.HasSuffix(host, "example.com"):
			conn, err := dial(ctx, network, net.JoinHostPort("127.0.0.1", port), nil)
			return publicConn{conn}, err
		case strings.HasSuffix(host, ".test"):
			return dial(ctx, network, net.JoinHostPort("127.0.0.1", port), check)
		}
		return dial(ctx, network, address, check)
	}
	return c, parse(t, "registry.example.com:"+port+"/app:1")
}

type publicConn struct{ net.Conn }

func (publicConn) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(93, 184, 216, 34), Port: 443}
}

func TestHops(t *testing.T) {
	t.Parallel()
	c := newClient(t)
	for _, test := range []struct {
		from, to string
		ok       bool
	}{
		{"https://registry.example.com", "https://cdn.example.net", true},
		{"https://registry.example.com", "http://cdn.example.net", false},
		{"https://registry.example.com", "http://registry.example.com", false},
		{"https://registry.example.com", "https://127.0.0.1", false},
		{"https://registry.example.com", "https://10.1.2.3", false},
		{"https://registry.example.com", "https://100.64.0.1", false},
		{"https://registry.example.com", "https://a.localhost", false},
		{"https://registry.example.com", "https://8.8.8.8", true},
		{"https://10.0.0.1", "https://10.0.0.2", true},
		{"https://10.0.0.1", "https://8.8.8.8", true},
		{"https://10.0.0.1", "https://127.0.0.1", false},
		{"https://10.0.0.1", "https://169.254.169.254", false},
		{"https://169.254.1.1", "https://127.0.0.1", false},
		{"http://127.0.0.1:5000", "http://127.0.0.1:6000", true},
		{"http://127.0.0.1:5000", "https://127.0.0.1:6000", true},
		{"http://127.0.0.1:5000", "http://10.0.0.1", true},
		{"http://127.0.0.1:5000", "http://169.254.169.254", false},
		{"http://127.0.0.1:5000", "http://[ff02::1]", false},
		{"http://127.0.0.1:5000", "http://255.255.255.255", false},
	} {
		from, err := url.Parse(test.from)
		must(t, err)
		to, err := url.Parse(test.to)
		must(t, err)
		if err := c.checkHop(from, from, to); (err == nil) != test.ok {
			t.Errorf("%s → %s: %v", test.from, test.to, err)
		}
	}
}

// TestRedirectWithoutCredentials: where the registry sends us, nobody learns who we are (A065).
func TestRedirectWithoutCredentials(t *testing.T) {
	t.Parallel()
	content := makeImage(t, 1000)
	l := content.layers[0]
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != "" || r.Header.Get("Referer") != "" {
			t.Errorf("credentials went to another host: %v", r.Header)
		}
		_, _ = w.Write(content.blobs[l.Digest])
	}))
	t.Cleanup(storage.Close)
	s := newSite(t, content)
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if u, p, _ := r.BasicAuth(); u != "me" || p != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if strings.HasSuffix(r.URL.Path, l.Digest) {
			http.Redirect(w, r, storage.URL+"/x", http.StatusTemporaryRedirect)
			return true
		}
		return false
	}
	c, b := newClient(t), newBlobs(t)
	c.o.Keychain = keychain{s.host(): authn.AuthConfig{Username: "me", Password: "secret"}}
	img, err := pull(t, c, s.source(t, ":1"), b)
	must(t, err)
	wantLayers(t, b, img, content)
}
