package oci

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	inprocess "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// TestPull is the usual way, with an image and registry that others wrote.
func TestPull(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(inprocess.New(inprocess.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	ref, err := name.ParseReference(host + "/team/app:1")
	must(t, err)
	var index v1.ImageIndex = empty.Index
	for i, p := range []v1.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64", Variant: "v8"}, {OS: "windows", Architecture: "amd64"}} {
		img, err := random.Image(int64(1000*(i+1)), 6)
		must(t, err)
		cfg, err := img.ConfigFile()
		must(t, err)
		cfg = cfg.DeepCopy()
		cfg.OS, cfg.Architecture, cfg.Variant = p.OS, p.Architecture, p.Variant
		cfg.Config = v1.Config{Entrypoint: []string{"/app"}, User: "nobody", Env: []string{fmt.Sprint("N=", i)}}
		img, err = mutate.ConfigFile(img, cfg)
		must(t, err)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &p}})
	}
	must(t, remote.WriteIndex(ref, index))

	c, b := newClient(t), newBlobs(t)
	for i, want := range []Platform{amd64, {OS: "linux", Arch: "arm64"}} {
		img, err := c.Resolve(t.Context(), parse(t, ref.String()), want)
		must(t, err)
		if img.Platform != want || img.Config.User != "nobody" || img.Config.Env[0] != fmt.Sprint("N=", i) || len(img.Layers) != 6 {
			t.Fatalf("%+v", img)
		}
		var last int64
		img, err = c.Fetch(t.Context(), img, b, func(done, total int64) {
			if done < last || done > total || total != img.Size {
				t.Errorf("progress %d of %d after %d", done, total, last)
			}
			last = done
		})
		must(t, err)
		if last != img.Size {
			t.Errorf("progress ended at %d of %d", last, img.Size)
		}
		wantLayers(t, b, img, nil)
		_, err = c.Resolve(t.Context(), parse(t, host+"/team/app@"+img.Digest), want)
		must(t, err)
	}
	_, err = c.Resolve(t.Context(), parse(t, ref.String()), Platform{OS: "linux", Arch: "riscv64"})
	wantCode(t, err, "image.platform")
	if !strings.Contains(err.Error(), "linux/amd64, linux/arm64/v8, windows/amd64") {
		t.Errorf("the platforms are not listed: %v", err)
	}
	_, err = c.Resolve(t.Context(), parse(t, host+"/team/app:2"), amd64)
	wantCode(t, err, "image.not_found")
}

func TestImage(t *testing.T) {
	t.Parallel()
	content := makeImage(t, 1000, 0)
	s := newSite(t, content)
	img, err := newClient(t).Resolve(t.Context(), s.source(t, ":1"), amd64)
	must(t, err)
	want := Image{
		Ref: s.host() + "/app:1", Digest: content.digest(), ConfigDigest: digestOf(content.config), Platform: amd64,
		Config: Config{
			Entrypoint: []string{"/bin/app"}, Cmd: []string{"serve"}, Env: []string{"A=1"}, User: "7:8", WorkingDir: "/srv",
			StopSignal: "SIGINT", ExposedPorts: []string{"80/tcp"}, Labels: map[string]string{"x": "y", "X": "z"},
			Healthcheck: &Healthcheck{Test: []string{"CMD", "true"}, Interval: 5}, Created: "2026-01-01T00:00:00Z",
		},
		Layers: content.layers, Size: content.layers[0].Size + content.layers[1].Size,
	}
	if diff := cmp.Diff(want, img, cmp.FilterPath(func(p cmp.Path) bool {
		return p.Last().String() == ".source" || p.Last().String() == ".names"
	}, cmp.Ignore())); diff != "" {
		t.Error(diff)
	}
}

// TestOnce: the tag is asked for once, and all else by digest (A069).
func TestOnce(t *testing.T) {
	t.Parallel()
	content := makeImage(t, 1000)
	other := makeImage(t, 2000)
	digest, manifest := content.digest(), content.manifest
	s := newSite(t, content)
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/manifests/1") {
			return false
		}
		defer func() { // the tag moves as soon as it was read
			s.mu.Lock()
			s.content.manifest = other.manifest
			s.mu.Unlock()
		}()
		w.Header().Set("Content-Type", typeOCIManifest)
		_, _ = w.Write(manifest)
		return true
	}
	b := newBlobs(t)
	img, err := pull(t, newClient(t), s.source(t, ":1"), b)
	must(t, err)
	wantLayers(t, b, img, content)
	if got := s.asked("/manifests/1"); len(got) != 1 || img.Digest != digest {
		t.Errorf("the tag was asked for as %q, digest %s", got, img.Digest)
	}
	// What is there is not fetched again.
	before := len(s.asked(""))
	_, err = newClient(t).Fetch(t.Context(), img, b, nil)
	must(t, err)
	if n := len(s.asked("")); n != before {
		t.Errorf("%d requests for what is there", n-before)
	}
}

// TestTwoFetches: two at once bring each layer once.
func TestTwoFetches(t *testing.T) {
	t.Parallel()
	content := makeImage(t, 300_000, 400_000, 500_000)
	s := newSite(t, content)
	dir := filepath.Join(t.TempDir(), "blobs")
	var wg sync.WaitGroup
	for range 4 {
		c := newClient(t)
		b, err := OpenBlobs(dir)
		must(t, err)
		wg.Go(func() {
			img, err := pull(t, c, s.source(t, ":1"), b)
			if err != nil {
				t.Error(err)
				return
			}
			for _, l := range img.Layers {
				if !b.has(l.Digest, l.Size) {
					t.Errorf("layer %s is missing", l.Digest)
				}
			}
		})
	}
	wg.Wait()
	for _, l := range content.layers {
		if got := s.asked(l.Digest); len(got) != 1 {
			t.Errorf("%q", got)
		}
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	content := makeImage(t, 3_000_000)
	s := newSite(t, content)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, content.layers[0].Digest) || r.Header.Get("Range") != "" {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(content.layers[0].Size))
		_, _ = w.Write(content.blobs[content.layers[0].Digest][:1_000_000])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	}
	c, b := newClient(t), newBlobs(t)
	img, err := c.Resolve(t.Context(), s.source(t, ":1"), amd64)
	must(t, err)
	_, err = c.Fetch(ctx, img, b, func(done, _ int64) {
		if done == 1_000_000 {
			cancel(stop)
		}
	})
	if !errors.Is(err, stop) {
		t.Fatalf("cancelled: %v", err)
	}
	wantNothing(t, b, content)
	if n := b.begun(img.Layers[0].Digest, img.Layers[0].Size); n != 1_000_000 {
		t.Errorf("%d bytes were kept", n)
	}
	s.mu.Lock()
	s.sent = 0
	s.mu.Unlock()
	_, err = c.Fetch(t.Context(), img, b, nil)
	must(t, err)
	wantLayers(t, b, img, content)
	if want := img.Size - 1_000_000; s.bytes() != want {
		t.Errorf("%d bytes were sent to go on, want %d", s.bytes(), want)
	}
}

// TestParallel: up to four layers come at once, and not more.
func TestParallel(t *testing.T) {
	t.Parallel()
	content := makeImage(t, 1000, 1100, 1200, 1300, 1400, 1500, 1600, 1700, 1800)
	s := newSite(t, content)
	var mu sync.Mutex
	now, most := 0, 0
	four := make(chan struct{})
	s.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") || strings.HasSuffix(r.URL.Path, digestOf(content.config)) {
			return false
		}
		mu.Lock()
		now++
		most = max(most, now)
		if now == 4 && most == 4 {
			select {
			case <-four:
			default:
				close(four)
			}
		}
		mu.Unlock()
		defer func() {
			mu.Lock()
			now--
			mu.Unlock()
		}()
		select {
		case <-four: // they wait for each other
		case <-r.Context().Done():
		}
		return false
	}
	b := newBlobs(t)
	img, err := pull(t, newClient(t), s.source(t, ":1"), b)
	must(t, err)
	wantLayers(t, b, img, content)
	if most != 4 {
		t.Errorf("%d at once", most)
	}
}

// TestProxy: behind a proxy all goes through it, and a registry may send us inside as little as
// without one.
func TestProxy(t *testing.T) {
	t.Parallel()
	content := makeImage(t, 1000)
	s := newSite(t, content)
	via, err := url.Parse(s.URL)
	must(t, err)
	to := "http://cdn.example.net/v2/app/blobs/x/" + content.layers[0].Digest
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.Host, ".example.com") && !strings.HasSuffix(r.Host, ".example.net") {
			t.Errorf("a request for %s", r.Host)
		}
		if strings.HasSuffix(r.Host, ".example.com") && strings.HasSuffix(r.URL.Path, content.layers[0].Digest) {
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
			return true
		}
		return false
	}
	c := newClient(t)
	c.proxy = func(*http.Request) (*url.URL, error) { return via, nil }
	c.o.Insecure = []string{"registry.example.com"}
	b := newBlobs(t)
	img, err := pull(t, c, parse(t, "registry.example.com/app:1"), b)
	must(t, err)
	wantLayers(t, b, img, content)
	to = "http://10.0.0.1/x"
	_, err = pull(t, c, parse(t, "registry.example.com/app:1"), newBlobs(t))
	wantCode(t, err, "peer.redirect")
}

// TestFullDisk says so.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	f, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no /dev/full")
	}
	t.Cleanup(func() { _ = f.Close() })
	p := &partial{f: f, hash: sha256.New()}
	_, err = p.Write([]byte("x"))
	wantCode(t, err, "limit.disk")
}

// TestSpace: what cannot fit is refused before anything is fetched (A079).
func TestSpace(t *testing.T) {
	t.Parallel()
	content := makeImage(t, 3<<20, 3<<20)
	s := newSite(t, content)
	b := newBlobs(t)
	b.free = func(string) (int64, error) { return 5 << 20, nil }
	_, err := pull(t, newClient(t), s.source(t, ":1"), b)
	wantCode(t, err, "limit.disk")
	if !strings.Contains(err.Error(), "6 MiB") || !strings.Contains(err.Error(), "5 MiB") {
		t.Errorf("without figures: %v", err)
	}
	for _, l := range content.layers {
		if got := s.asked(l.Digest); len(got) != 0 {
			t.Errorf("fetched all the same: %q", got)
		}
	}
	// Of what is there already only the rest needs space.
	l := content.layers[0]
	must(t, os.WriteFile(b.path(l.Digest)+partialSuffix, content.blobs[l.Digest][:2<<20], 0o600))
	img, err := pull(t, newClient(t), s.source(t, ":1"), b)
	must(t, err)
	wantLayers(t, b, img, content)
}

// TestDamagedBlob: a cached layer that rotted is found when it is read, and fetched again.
func TestDamagedBlob(t *testing.T) {
	t.Parallel()
	content := makeImage(t, 5000)
	s := newSite(t, content)
	c, b := newClient(t), newBlobs(t)
	img, err := pull(t, c, s.source(t, ":1"), b)
	must(t, err)
	l := img.Layers[0]
	data := append([]byte{}, content.blobs[l.Digest]...)
	data[2000] ^= 1
	must(t, os.WriteFile(b.path(l.Digest), data, 0o600))
	r, err := b.Open(t.Context(), l)
	must(t, err)
	_, err = io.ReadAll(r)
	wantCode(t, err, "integrity.digest")
	must(t, r.Close())
	img, err = pull(t, c, s.source(t, ":1"), b)
	must(t, err)
	wantLayers(t, b, img, content)
}

// TestDamagedPartial: what a power cut left of a partial file costs one more download, no more.
func TestDamagedPartial(t *testing.T) {
	t.Parallel()
	content := makeImage(t, 50_000)
	s := newSite(t, content)
	l := content.layers[0]
	for _, left := range []string{strings.Repeat("\x00", 20_000), strings.Repeat("\x00", int(l.Size)), strings.Repeat("\x00", int(l.Size)+1)} {
		b := newBlobs(t)
		must(t, os.WriteFile(b.path(l.Digest)+partialSuffix, []byte(left), 0o600))
		img, err := pull(t, newClient(t), s.source(t, ":1"), b)
		must(t, err)
		wantLayers(t, b, img, content)
	}
}

// guarded is a registry that wants a token, and the server that gives it.
func guarded(t *testing.T, content *content, user, password string) (s *site, tokens *httptest.Server, seen *[]string) {
	t.Helper()
	s = newSite(t, content)
	var mu sync.Mutex
	seen = &[]string{}
	valid := ""
	n := 0
	tokens = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		*seen = append(*seen, r.URL.Query().Get("scope"))
		u, p, _ := r.BasicAuth()
		if u != user || p != password {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		n++
		valid = fmt.Sprint("token", n)
		_, _ = fmt.Fprintf(w, `{"token":%q,"expires_in":60}`, valid)
	}))
	t.Cleanup(tokens.Close)
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if valid != "" && r.Header.Get("Authorization") == "Bearer "+valid {
			if strings.Contains(r.URL.Path, "/manifests/") {
				valid = "" // it expires between manifest and layers
			}
			return false
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+tokens.URL+`/token",service="s",scope="repository:app:pull,push,delete"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	return s, tokens, seen
}

func TestToken(t *testing.T) {
	t.Parallel()
	content := makeImage(t, 1000)
	s, _, seen := guarded(t, content, "", "")
	b := newBlobs(t)
	img, err := pull(t, newClient(t), s.source(t, ":1"), b)
	must(t, err)
	wantLayers(t, b, img, content)
	for _, scope := range *seen {
		if scope != "repository:app:pull" {
			t.Errorf("asked for %q", scope)
		}
	}
	if len(*seen) != 2 {
		t.Errorf("%d tokens were asked for", len(*seen))
	}
}

func TestLogin(t *testing.T) {
	t.Parallel()
	content := makeImage(t, 1000)
	s := newSite(t, content)
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if u, p, _ := r.BasicAuth(); u == "me" && p == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	c := newClient(t)
	_, err := pull(t, c, s.source(t, ":1"), newBlobs(t))
	wantCode(t, err, "peer.denied")
	c.o.Keychain = keychain{s.host(): authn.AuthConfig{Username: "me", Password: "wrong"}}
	_, err = pull(t, c, s.source(t, ":1"), newBlobs(t))
	wantCode(t, err, "peer.denied")
	if n := len(s.asked("")); n > 3 {
		t.Errorf("asked %d times with a wrong password", n)
	}
	c.o.Keychain = keychain{s.host(): authn.AuthConfig{Username: "me", Password: "secret"}}
	_, err = pull(t, c, s.source(t, ":1"), newBlobs(t))
	must(t, err)
}

// TestStoredLogin finds what `docker login` wrote.
func TestStoredLogin(t *testing.T) {
	content := makeImage(t, 1000)
	s := newSite(t, content)
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if u, p, _ := r.BasicAuth(); u == "me" && p == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("DOCKER_CONFIG", filepath.Join(home, ".docker"))
	must(t, os.MkdirAll(filepath.Join(home, ".docker"), 0o700),
		os.WriteFile(filepath.Join(home, ".docker", "config.json"), fmt.Appendf(nil, `{"auths":{%q:{"auth":"bWU6c2VjcmV0"}}}`, s.host()), 0o600))
	c := newClient(t)
	c.o.Keychain = authn.DefaultKeychain
	_, err := pull(t, c, s.source(t, ":1"), newBlobs(t))
	must(t, err)
}
