package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/mvmctl/mvmctl/internal/machine"
)

var amd64 = Platform{OS: "linux", Arch: "amd64"}

// content is an image as its publisher has it.
type content struct {
	blobs    map[string][]byte // by digest: layers, configuration, manifest
	layers   []Layer
	config   []byte
	manifest []byte
}

func (c *content) put(data []byte) string {
	if c.blobs == nil {
		c.blobs = map[string][]byte{}
	}
	d := digestOf(data)
	c.blobs[d] = data
	return d
}

func (c *content) digest() string { return digestOf(c.manifest) }

// makeImage makes an image with layers of about so many bytes each.
func makeImage(t testing.TB, sizes ...int) *content {
	t.Helper()
	c := &content{}
	for i, size := range sizes {
		tarred := makeTar(t, map[string]string{fmt.Sprintf("file%d", i): randomText(uint64(i), size)})
		var packed bytes.Buffer
		z, _ := gzip.NewWriterLevel(&packed, gzip.NoCompression)
		must(t, second(z.Write(tarred)), z.Close())
		c.layers = append(c.layers, Layer{
			Digest: c.put(packed.Bytes()), DiffID: digestOf(tarred), Size: int64(packed.Len()), MediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
		})
	}
	c.seal(t, amd64)
	return c
}

// seal writes configuration and manifest for the layers that are there.
func (c *content) seal(t testing.TB, p Platform) {
	t.Helper()
	diffIDs := []string{}
	layers := []any{}
	for _, l := range c.layers {
		diffIDs = append(diffIDs, l.DiffID)
		layers = append(layers, map[string]any{"mediaType": l.MediaType, "digest": l.Digest, "size": l.Size})
	}
	c.config = asJSON(t, map[string]any{
		"os": p.OS, "architecture": p.Arch, "variant": p.Variant, "created": "2026-01-01T00:00:00Z",
		"config": map[string]any{
			"Entrypoint": []string{"/bin/app"}, "Cmd": []string{"serve"}, "Env": []string{"A=1"}, "User": "7:8", "WorkingDir": "/srv",
			"StopSignal": "SIGINT", "ExposedPorts": map[string]any{"80/tcp": map[string]any{}}, "Labels": map[string]string{"x": "y", "X": "z"},
			"Healthcheck": map[string]any{"Test": []string{"CMD", "true"}, "Interval": 5},
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	c.put(c.config)
	c.manifest = asJSON(t, map[string]any{
		"schemaVersion": 2, "mediaType": typeOCIManifest, "layers": layers,
		"config": map[string]any{"mediaType": typeOCIConfig, "digest": digestOf(c.config), "size": len(c.config)},
	})
	c.put(c.manifest)
}

func makeTar(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range sortedKeys(files) {
		must(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), Typeflag: tar.TypeReg}), second(io.WriteString(w, files[name])))
	}
	must(t, w.Close())
	return b.Bytes()
}

func randomText(seed uint64, n int) string {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // content of a test
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

func asJSON(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	must(t, err)
	return data
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// site is a registry of our own that can be made to misbehave.
type site struct {
	*httptest.Server
	content *content
	// before may answer a request itself, and then returns true.
	before func(w http.ResponseWriter, r *http.Request) bool

	mu       sync.Mutex
	requests []string
	sent     int64
}

func newSite(t testing.TB, c *content) *site {
	t.Helper()
	s := &site{content: c}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r.Method+" "+r.URL.Path)
	before := s.before
	s.mu.Unlock()
	w = &counting{w, s}
	if before != nil && before(w, r) {
		return
	}
	name := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	data, ok := s.content.blobs[name]
	if strings.Contains(r.URL.Path, "/manifests/") {
		w.Header().Set("Content-Type", typeOCIManifest)
		if !strings.HasPrefix(name, digestPrefix) {
			data, ok = s.content.manifest, true
		}
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

type counting struct {
	http.ResponseWriter
	s *site
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.s.mu.Lock()
	c.s.sent += int64(n)
	c.s.mu.Unlock()
	return n, err
}

func (c *counting) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (s *site) bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent
}

func (s *site) host() string {
	return strings.TrimPrefix(strings.TrimPrefix(s.URL, "http://"), "https://")
}

func (s *site) source(t testing.TB, rest string) Source {
	t.Helper()
	return parse(t, s.host()+"/app"+rest)
}

// asked returns the requests whose path contains part.
func (s *site) asked(part string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, r := range s.requests {
		if strings.Contains(r, part) {
			out = append(out, r)
		}
	}
	return out
}

func parse(t testing.TB, s string) Source {
	t.Helper()
	src, err := ParseSource(s)
	must(t, err)
	return src
}

// newClient makes a client that knows no credentials, waits for nobody and takes no proxy.
func newClient(t testing.TB) *Client {
	t.Helper()
	c := New(Options{Keychain: keychain{}, Getenv: func(string) string { return "" }})
	c.proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	c.tune.wait = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	t.Cleanup(c.Close)
	return c
}

// keychain are credentials by registry.
type keychain map[string]authn.AuthConfig

func (k keychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if c, ok := k[r.RegistryStr()]; ok {
		return authn.FromConfig(c), nil
	}
	return authn.Anonymous, nil
}

func newBlobs(t testing.TB) *Blobs {
	t.Helper()
	b, err := OpenBlobs(filepath.Join(t.TempDir(), "blobs"))
	must(t, err)
	return b
}

// pull resolves and fetches.
func pull(t testing.TB, c *Client, s Source, b *Blobs) (Image, error) {
	t.Helper()
	img, err := c.Resolve(t.Context(), s, amd64)
	if err != nil {
		return img, err
	}
	return c.Fetch(t.Context(), img, b, nil)
}

// wantCode checks an error as users see it.
func wantCode(t testing.TB, err error, code string) {
	t.Helper()
	if got := machine.CodeOf(err); got != code {
		t.Fatalf("code %q, want %q: %v", got, code, err)
	}
	if code == "" {
		must(t, err)
		return
	}
	for _, r := range err.Error() {
		if r < ' ' || r == 0x7f {
			t.Fatalf("a control character in the message %q", err.Error())
		}
	}
	if len(err.Error()) > 2000 {
		t.Fatalf("a message of %d bytes", len(err.Error()))
	}
}

// wantLayers checks that all layers are there and nothing else but what a lock leaves.
func wantLayers(t testing.TB, b *Blobs, img Image, c *content) {
	t.Helper()
	for _, l := range img.Layers {
		r, err := b.Open(t.Context(), l)
		must(t, err)
		data, err := io.ReadAll(r)
		must(t, err, r.Close())
		if c != nil && !bytes.Equal(data, c.blobs[l.Digest]) {
			t.Errorf("layer %s is not what was published", l.Digest)
		}
		info, err := os.Stat(b.path(l.Digest))
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("layer %s has mode %v", l.Digest, info.Mode())
		}
	}
	b.Close()
	entries, err := os.ReadDir(b.dir)
	must(t, err)
	for _, e := range entries {
		if !isHex(e.Name()) && e.Name() != "lock" {
			t.Errorf("%s was left behind", e.Name())
		}
	}
}

// wantNothing checks that no blob got its name.
func wantNothing(t testing.TB, b *Blobs, c *content) {
	t.Helper()
	for d := range c.blobs {
		if b.size(d) != UnknownSize {
			t.Errorf("%s is there", d)
		}
	}
}
