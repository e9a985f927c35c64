package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// badAnswer answers in place of a registry, unless it returns false. When the one layer is asked
// for, layer has it.
type badAnswer func(w http.ResponseWriter, r *http.Request, layer []byte) bool

// badRegistry is a registry with one image of one layer, in which bad answers first.
func badRegistry(t *testing.T, bad badAnswer) (ref string) {
	t.Helper()
	l := noiseLayer(t, 1, 400_000)
	digest, err := l.Digest()
	if err != nil {
		t.Fatal(err)
	}
	body, err := l.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	good := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var on atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var layer []byte
		if strings.HasSuffix(r.URL.Path, digest.String()) {
			layer = data
		}
		if !on.Load() || !bad(w, r, layer) {
			good.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(srv.CloseClientConnections)
	t.Cleanup(srv.Close)
	ref = strings.TrimPrefix(srv.URL, "http://") + "/team/app:1"
	push(t, ref, v1.Config{Cmd: []string{"/bin/app"}}, l)
	on.Store(true)
	return ref
}

// errorOf reads the error that a command with --json ended with.
func errorOf(t *testing.T, r result) (code, remedy string) {
	t.Helper()
	var e struct {
		Error struct{ Code, Remedy string }
	}
	lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &e); err != nil {
		t.Fatalf("no error in JSON: %v, %v", r, err)
	}
	return e.Error.Code, e.Error.Remedy
}

// A registry that stalls, cuts, redirects, lies or never says enough costs an error with a code,
// a remedy and the exit code 125, and leaves no image; with the same registry on its feet again
// the same command works.
func TestBadRegistries(t *testing.T) {
	const secret = "the password of the first host"
	var leaked atomic.Bool
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Store(true)
		}
		w.WriteHeader(http.StatusTeapot)
	}))
	t.Cleanup(elsewhere.Close)
	for name, tt := range map[string]struct {
		code string
		bad  func(w http.ResponseWriter, r *http.Request, layer []byte)
		all  bool // also for manifests
	}{
		"stalls":           {"peer.timeout", func(_ http.ResponseWriter, r *http.Request, _ []byte) { <-r.Context().Done() }, false},
		"drips its header": {"peer.timeout", dripHeader, false},
		"cuts": {"peer.truncated", func(w http.ResponseWriter, r *http.Request, layer []byte) {
			w.Header().Set("Content-Length", fmt.Sprint(len(layer)))
			_, _ = w.Write(layer[:1])
			panic(http.ErrAbortHandler)
		}, false},
		"lies about the content": {"integrity.digest", func(w http.ResponseWriter, r *http.Request, layer []byte) { _, _ = w.Write(make([]byte, len(layer))) }, false},
		"lies about the size": {"integrity.size", func(w http.ResponseWriter, r *http.Request, layer []byte) {
			_, _ = w.Write(append(slices.Clone(layer), 'x'))
		}, false},
		"never ends": {"integrity.size", func(w http.ResponseWriter, r *http.Request, layer []byte) {
			for _, err := w.Write(layer); err == nil && r.Context().Err() == nil; {
				_, err = w.Write(make([]byte, 1<<16))
			}
		}, false},
		"has no such layer": {"peer.lied", func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(http.StatusNotFound) }, false},
		"lies about the media type": {"image.kind", func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			_, _ = io.WriteString(w, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"sha256:`+strings.Repeat("0", 64)+`","size":2},"layers":[{"mediaType":"application/vnd.cncf.helm.chart.content.v1.tar+gzip","digest":"sha256:`+strings.Repeat("1", 64)+`","size":2}]}`)
		}, true},
		"answers a page": {"manifest.invalid", func(w http.ResponseWriter, _ *http.Request, _ []byte) { _, _ = io.WriteString(w, "<html>") }, true},
		"asks who for ever": {"peer.denied", func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		}, true},
		"sends us to another host": {"peer.invalid", func(w http.ResponseWriter, r *http.Request, layer []byte) {
			if r.Header.Get("Authorization") == "" {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, false},
		"sends us to a file": {"peer.redirect", func(w http.ResponseWriter, r *http.Request, layer []byte) {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(302)
		}, false},
		"sends us in a circle": {"peer.redirect", func(w http.ResponseWriter, r *http.Request, layer []byte) {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
		}, true},
		"sends us to a service": {"peer.redirect", func(w http.ResponseWriter, r *http.Request, layer []byte) {
			http.Redirect(w, r, "http://169.254.169.254/latest", http.StatusFound)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // three of them wait for half a minute
			var well atomic.Bool
			ref := badRegistry(t, func(w http.ResponseWriter, r *http.Request, layer []byte) bool {
				if well.Load() || layer == nil && !tt.all {
					return false
				}
				tt.bad(w, r, layer)
				return true
			})
			l := newLab(t, "fake", false)
			host, _, _ := strings.Cut(ref, "/")
			l.login(host, "me", secret)
			r := l.run("image", "pull", "--json", ref)
			code, remedy := errorOf(t, r)
			if r.code != 125 || code != tt.code || remedy == "" || strings.Contains(r.stderr, secret) {
				t.Errorf("want %s with a remedy: %v", tt.code, r)
			}
			if names := l.imageNames(); len(names) > 0 {
				t.Errorf("images %v are there", names)
			}
			l.nothingLeft()
			well.Store(true)
			l.must("image", "pull", ref)
			l.must("image", "verify")
			l.nothingLeft()
		})
	}
	t.Cleanup(func() {
		if leaked.Load() {
			t.Error("another host was told the password")
		}
	})
}

// dripHeader sends a header line that never ends, a byte now and then.
func dripHeader(w http.ResponseWriter, _ *http.Request, _ []byte) {
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = buf.WriteString("HTTP/1.1 200 OK\r\nX-Slow: ")
	for buf.Flush() == nil {
		time.Sleep(200 * time.Millisecond) // this is about time
		_ = buf.WriteByte('x')
	}
}

// login stores credentials as `docker login` does.
func (l *lab) login(host, user, password string) {
	l.t.Helper()
	dir := filepath.Join(l.dir, "docker")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		l.t.Fatal(err)
	}
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	text := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, auth)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.env = append(l.env, "DOCKER_CONFIG="+dir)
}

// Ctrl-C ends a pull at once, also while the registry is silent, and what came is kept: the next
// one asks for the rest.
func TestCtrlCDuringAPull(t *testing.T) {
	const part = 150_000
	half := make(chan struct{})
	var asked atomic.Value
	var stall atomic.Bool
	stall.Store(true)
	ref := badRegistry(t, func(w http.ResponseWriter, r *http.Request, p []byte) bool {
		if p == nil {
			return false
		}
		if !stall.Load() {
			asked.Store(r.Header.Get("Range"))
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part, len(p)-1, len(p)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(p[part:])
			return true
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(p)))
		_, _ = w.Write(p[:part])
		_ = http.NewResponseController(w).Flush()
		close(half)
		<-r.Context().Done()
		return true
	})
	l := newLab(t, "fake", false)
	cmd := l.command(t.Context(), nil, "image", "pull", ref)
	var errOut strings.Builder
	cmd.Stderr = &errOut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-half
	l.await(func() bool {
		_, partial, _ := l.cached()
		return len(partial) == 1 && l.sizeOf(partial[0]+".partial") == part
	})
	begin := time.Now()
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its code is looked at
	if took := time.Since(begin); took > time.Second || cmd.ProcessState.ExitCode() != 130 || !strings.Contains(errOut.String(), "interrupted by SIGINT") {
		t.Errorf("it took %s and ended with %d: %s", took, cmd.ProcessState.ExitCode(), errOut.String())
	}
	if names := l.imageNames(); len(names) > 0 {
		t.Errorf("images %v are there", names)
	}
	l.nothingLeft()
	stall.Store(false)
	l.must("image", "pull", ref)
	if got, want := asked.Load(), fmt.Sprintf("bytes=%d-", part); got != want {
		t.Errorf("the next pull asked for %v, want %s", got, want)
	}
	l.must("image", "verify")
}

// await waits until a file of the lab is as it shall be.
func (l *lab) await(ok func() bool) {
	l.t.Helper()
	for end := time.Now().Add(longWait); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatal("it does not come to that")
		}
	}
}

// awaitGuest waits for what an emulated guest on a busy machine comes to, by asking mvmctl.
func (l *lab) awaitGuest(ok func() bool) {
	l.t.Helper()
	for end := time.Now().Add(commandTime); !ok(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatal("it does not come to that")
		}
	}
}
