package oci

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// startServer starts a program, waits for the line that says that it serves, and ends it with
// the test. It returns what the pattern matched in it.
func startServer(t *testing.T, ready *regexp.Regexp, program string, args ...string) []string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("no %s", program)
	}
	child := exec.CommandContext(context.Background(), path, args...)
	out, err := child.StderrPipe()
	must(t, err, child.Start())
	found := make(chan []string, 1)
	done := make(chan struct{})
	var last []string // of what it said, to be read once it has ended
	go func() {
		defer close(done)
		defer close(found)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if m := ready.FindStringSubmatch(lines.Text()); m != nil {
				found <- m
				_, _ = io.Copy(io.Discard, out)
				return
			}
			last = append(last, lines.Text())[max(0, len(last)-5):]
		}
	}()
	t.Cleanup(func() {
		_ = child.Process.Signal(syscall.SIGTERM)
		stop := time.AfterFunc(20*time.Second, func() { _ = child.Process.Kill() })
		defer stop.Stop()
		<-done
		_ = child.Wait() // SIGTERM is no failure
	})
	select {
	case m := <-found:
		if m == nil {
			t.Fatalf("%s does not start; it said last:\n%s", program, strings.Join(last, "\n"))
		}
		return m
	case <-time.After(time.Minute):
		t.Fatalf("%s does not say that it is ready", program)
	}
	return nil
}

// startRegistry starts Debian's docker-registry.
func startRegistry(t *testing.T, more string) string {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	must(t, os.WriteFile(config, fmt.Appendf(nil, "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: 127.0.0.1:0\n%s", dir, more), 0o600))
	return startServer(t, regexp.MustCompile(`listening on (127\.0\.0\.1:[1-9][0-9]*)`), "docker-registry", "serve", config)[1]
}

func linuxImage(t *testing.T, size int64, layers int64) v1.Image {
	t.Helper()
	img, err := random.Image(size, layers)
	must(t, err)
	cfg, err := img.ConfigFile()
	must(t, err)
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	cfg.Config = v1.Config{Cmd: []string{"/bin/true"}, User: "7", Env: []string{"PATH=/bin"}, ExposedPorts: map[string]struct{}{"80/tcp": {}}}
	img, err = mutate.ConfigFile(img, cfg)
	must(t, err)
	return img
}

// TestRealRegistry pulls from the registry that others run.
func TestRealRegistry(t *testing.T) {
	t.Parallel()
	host := startRegistry(t, "")
	ref, err := name.ParseReference(host + "/team/app:1")
	must(t, err)
	pushed := linuxImage(t, 2<<20, 5)
	digest, err := pushed.Digest()
	must(t, err, remote.Write(ref, pushed))

	c, b := newClient(t), newBlobs(t)
	img, err := c.Resolve(t.Context(), parse(t, ref.String()), amd64)
	must(t, err)
	if img.Digest != digest.String() {
		t.Errorf("digest %s, want %s", img.Digest, digest)
	}
	// One layer is there in part, as after a kill: the registry has to be asked for its rest.
	l := img.Layers[2]
	layers, err := pushed.Layers()
	must(t, err)
	r, err := layers[2].Compressed()
	must(t, err)
	begin := make([]byte, 1<<20)
	must(t, second(io.ReadFull(r, begin)), r.Close(), os.WriteFile(b.path(l.Digest)+partialSuffix, begin, 0o600))
	_, err = c.Fetch(t.Context(), img, b, nil)
	must(t, err)
	wantLayers(t, b, img, nil)
	_, err = c.Resolve(t.Context(), parse(t, host+"/team/app:2"), amd64)
	wantCode(t, err, "image.not_found")
	_, err = c.Resolve(t.Context(), parse(t, host+"/nobody/app:2"), amd64)
	wantCode(t, err, "image.not_found")
}

// TestRealLogin pulls from a registry with a password file.
func TestRealLogin(t *testing.T) {
	t.Parallel()
	passwords := filepath.Join(t.TempDir(), "htpasswd")
	must(t, os.WriteFile(passwords, []byte("me:$2a$10$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga\n"), 0o600))
	host := startRegistry(t, "auth:\n  htpasswd:\n    realm: x\n    path: "+passwords+"\n")
	ref, err := name.ParseReference(host + "/app:1")
	must(t, err)
	login := authn.AuthConfig{Username: "me", Password: "allmine"}
	must(t, remote.Write(ref, linuxImage(t, 1000, 2), remote.WithAuth(authn.FromConfig(login))))
	c, b := newClient(t), newBlobs(t)
	_, err = pull(t, c, parse(t, ref.String()), b)
	wantCode(t, err, "peer.denied")
	c.o.Keychain = keychain{host: login}
	img, err := pull(t, c, parse(t, ref.String()), b)
	must(t, err)
	wantLayers(t, b, img, nil)
}

// startEngine starts a Docker engine of our own and returns its socket.
func startEngine(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("dockerd needs root")
	}
	dir, err := os.MkdirTemp("", "mvm") // a socket's path is short
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket, config := filepath.Join(dir, "s"), filepath.Join(dir, "config.json")
	must(t, os.WriteFile(config, []byte("{}"), 0o600)) // not the host's
	startServer(t, regexp.MustCompile(`API listen on `), "dockerd", "--host", "unix://"+socket, "--data-root", filepath.Join(dir, "data"),
		"--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"), "--config-file", config,
		"--storage-driver", "vfs", "--bridge", "none", "--iptables=false", "--ip-forward=false")
	return socket
}

// TestRealEngine takes an image out of a Docker engine, and out of what it saves.
func TestRealEngine(t *testing.T) {
	t.Parallel()
	socket := startEngine(t)
	api := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	call := func(method, path string, body io.Reader) []byte {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://engine"+path, body)
		must(t, err)
		req.Header.Set("Content-Type", "application/x-tar")
		resp, err := api.Do(req)
		must(t, err)
		data, err := io.ReadAll(resp.Body)
		must(t, err, resp.Body.Close())
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, data)
		}
		return data
	}
	ref, err := name.ParseReference("team/app:1")
	must(t, err)
	pushed := linuxImage(t, 1<<20, 3)
	id, err := pushed.ConfigName()
	must(t, err)
	var file bytes.Buffer
	must(t, tarball.Write(ref, pushed, &file))
	call(http.MethodPost, "/images/load", &file)

	c, b := newClient(t), newBlobs(t)
	c.o.Getenv = func(k string) string { return map[string]string{"DOCKER_HOST": "unix://" + socket}[k] }
	img, err := pull(t, c, parse(t, "docker-daemon:team/app:1"), b)
	must(t, err)
	wantLayers(t, b, img, nil)
	if img.ConfigDigest != id.String() || img.Config.User != "7" || len(img.Layers) != 3 {
		t.Errorf("%+v", img)
	}
	saved := writeFile(t, call(http.MethodGet, "/images/team/app:1/get", nil))
	other := newBlobs(t)
	again, err := pull(t, c, parse(t, "docker-archive:"+saved+":team/app:1"), other)
	must(t, err)
	wantLayers(t, other, again, nil)
	if diff := cmp.Diff(img.Layers, again.Layers); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(img.Config, again.Config); diff != "" {
		t.Error(diff)
	}
	_, err = c.Resolve(t.Context(), parse(t, "docker-daemon:team/app:2"), amd64)
	wantCode(t, err, "image.not_found")
}
