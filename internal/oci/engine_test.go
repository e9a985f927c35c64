package oci

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// fakeEngine answers as an engine does.
func fakeEngine(t *testing.T, c *content, save []byte) (*Client, *content) {
	t.Helper()
	dir, err := os.MkdirTemp("", "mvm") // a socket's path is short
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	must(t, err)
	id := digestOf(c.config)
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:gosec // a test
		switch r.URL.Path {
		case "/images/docker.io/library/app:1/json", "/images/" + id + "/json":
			var ids []string
			for _, l := range c.layers {
				ids = append(ids, l.DiffID)
			}
			_, _ = w.Write(asJSON(t, map[string]any{
				"Id": id, "Os": "linux", "Architecture": "amd64", "Created": "x",
				"Config": map[string]any{"User": "7:8", "Env": []string{"A=1"}}, "RootFS": map[string]any{"Type": "layers", "Layers": ids},
			}))
		case "/images/" + id + "/get":
			_, _ = w.Write(save)
		default:
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"message":"no such image"}`)
		}
	})}}
	server.Start()
	t.Cleanup(server.Close)
	client := newClient(t)
	client.o.Getenv = func(k string) string { return map[string]string{"DOCKER_HOST": "unix://" + socket}[k] }
	return client, c
}

func TestEngine(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func() (*content, []entry){
		"old":    func() (*content, []entry) { c := unpacked(t, 1000, 9_000_000); return c, oldSave(t, c) },
		"new":    func() (*content, []entry) { c := unpacked(t, 1000, 9_000_000); return c, newSave(t, c, false) },
		"packed": func() (*content, []entry) { c := makeImage(t, 1000, 9_000_000); return c, newSave(t, c, false) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			content, entries := make()
			client, _ := fakeEngine(t, content, tarOf(t, entries...))
			for _, source := range []string{"docker-daemon:app:1", "docker-daemon:" + digestOf(content.config)} {
				b := newBlobs(t)
				img, err := client.Resolve(t.Context(), parse(t, source), amd64)
				must(t, err)
				if img.Size != UnknownSize || img.Config.User != "7:8" || img.ConfigDigest != digestOf(content.config) {
					t.Errorf("%+v", img)
				}
				img, err = client.Fetch(t.Context(), img, b, nil)
				must(t, err)
				wantLayers(t, b, img, content)
			}
			_, err := client.Resolve(t.Context(), parse(t, "docker-daemon:other"), amd64)
			wantCode(t, err, "image.not_found")
			_, err = client.Resolve(t.Context(), parse(t, "docker-daemon:app:1"), Platform{OS: "linux", Arch: "arm64"})
			wantCode(t, err, "image.platform")
		})
	}
	t.Run("another image", func(t *testing.T) {
		t.Parallel()
		other := unpacked(t, 3)
		client, _ := fakeEngine(t, unpacked(t, 5), tarOf(t, oldSave(t, other)...))
		_, err := pull(t, client, parse(t, "docker-daemon:app:1"), newBlobs(t))
		wantCode(t, err, "integrity.digest")
	})
	t.Run("cut", func(t *testing.T) {
		t.Parallel()
		c := unpacked(t, 5000)
		client, _ := fakeEngine(t, c, tarOf(t, oldSave(t, c)...)[:4000])
		b := newBlobs(t)
		_, err := pull(t, client, parse(t, "docker-daemon:app:1"), b)
		wantCode(t, err, "archive.truncated")
		wantLayers(t, b, Image{}, nil)
	})
	for host, code := range map[string]string{"tcp://127.0.0.1:2375": "peer.unavailable", "unix:///nowhere/sock": "peer.unavailable", "unix://rel": "peer.unavailable", "\x1b": "peer.unavailable"} {
		c := newClient(t)
		c.o.Getenv = func(k string) string { return map[string]string{"DOCKER_HOST": host}[k] }
		_, err := c.Resolve(t.Context(), parse(t, "docker-daemon:app:1"), amd64)
		wantCode(t, err, code)
	}
}
