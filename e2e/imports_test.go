package e2e

import (
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/mvmctl/mvmctl/internal/fault"
)

// watched is a registry behind a proxy that writes down what is asked for.
type watched struct {
	addr  string
	mu    sync.Mutex
	blobs map[string]string // digest → Range of the last request; "all" without
}

func watchRegistry(t *testing.T) *watched {
	t.Helper()
	if _, err := exec.LookPath("docker-registry"); err != nil {
		t.Skip("missing: docker-registry (scripts/dev-setup.sh installs it)")
	}
	w := &watched{blobs: map[string]string{}}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: startRegistry(t)})
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if _, digest, ok := strings.Cut(r.URL.Path, "/blobs/sha256:"); ok && r.Method == http.MethodGet {
			asked := r.Header.Get("Range")
			if asked == "" {
				asked = "all"
			}
			w.mu.Lock()
			w.blobs[digest] = asked
			w.mu.Unlock()
		}
		proxy.ServeHTTP(rw, r)
	}))
	t.Cleanup(srv.Close)
	w.addr = strings.TrimPrefix(srv.URL, "http://")
	return w
}

// asked returns the blobs that were asked for since the last call.
func (w *watched) asked() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	asked := w.blobs
	w.blobs = map[string]string{}
	return asked
}

// noiseLayer is a layer with one file that does not shrink.
func noiseLayer(t *testing.T, seed uint64, size int) v1.Layer {
	t.Helper()
	p := make([]byte, size)
	for r, i := rand.New(rand.NewPCG(seed, 1)), 0; i < size; i++ {
		p[i] = byte(r.Uint32())
	}
	return smallLayer(t, tarFile("noise"+string(rune('a'+seed)), string(p)))
}

// cached lists the lab's cached layers, whole and unfinished ones, and what else imports keep
// beside them.
func (l *lab) cached() (whole, partial, other []string) {
	l.t.Helper()
	entries, err := os.ReadDir(filepath.Join(l.dir, "cache/blobs/sha256"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.t.Fatal(err)
	}
	for _, e := range entries {
		hex, isPartial := strings.CutSuffix(e.Name(), ".partial")
		switch {
		case len(hex) != 64:
			other = append(other, hex)
		case isPartial:
			partial = append(partial, hex)
		default:
			whole = append(whole, hex)
		}
	}
	return whole, partial, other
}

// sizeOf returns the size of a file among the cached layers; 0 if there is none.
func (l *lab) sizeOf(name string) int64 {
	l.t.Helper()
	info, err := os.Stat(filepath.Join(l.dir, "cache/blobs/sha256", name))
	if err != nil {
		return 0
	}
	return info.Size()
}

// imageNames lists the images that are in the store.
func (l *lab) imageNames() []string {
	l.t.Helper()
	var list []struct {
		Names  []string
		Cached bool
	}
	if err := json.Unmarshal([]byte(l.must("image", "list", "--json")), &list); err != nil {
		l.t.Fatal(err)
	}
	var names []string
	for _, i := range list {
		if i.Cached {
			names = append(names, i.Names...)
		}
	}
	return names
}

func pullPoints() []string {
	return slices.DeleteFunc(fault.Points(), func(p string) bool {
		return !strings.HasPrefix(p, "pull.") && !strings.HasPrefix(p, "image.")
	})
}

// SIGKILL at every step of `image pull` from a real registry: nothing half-made is visible, the
// same command goes on and fetches no layer again that was here, and no file is left.
func TestPullKilledAtEveryStep(t *testing.T) {
	reg := watchRegistry(t)
	ref := reg.addr + "/team/app:1"
	push(t, ref, v1.Config{Cmd: []string{"/bin/app"}}, noiseLayer(t, 1, 900_000), noiseLayer(t, 2, 600_000), noiseLayer(t, 3, 1000))
	for _, point := range pullPoints() {
		t.Run(point, func(t *testing.T) {
			l := newLab(t, "fake", true)
			if r := l.with([]string{"MVM_CRASH=" + point}, "image", "pull", ref); r.code != -1 {
				t.Fatalf("it did not reach %s: %v", point, r)
			}
			if names := l.imageNames(); slices.Contains(names, ref) {
				t.Errorf("the image is there already: %v", names)
			}
			l.must("image", "verify")
			whole, partial, _ := l.cached()
			switch point {
			case fault.PullPartial:
				if len(whole) > 0 || len(partial) == 0 {
					t.Errorf("kept: %v, unfinished %v", whole, partial)
				}
			case fault.PullFetched, fault.ImageWritten, fault.ImageReady, fault.ImageStored:
				if len(whole) != 3 {
					t.Errorf("%d of 3 layers were kept", len(whole))
				}
			}
			partial = slices.DeleteFunc(partial, func(d string) bool { return l.sizeOf(d+".partial") == 0 })
			reg.asked()
			l.must("image", "pull", ref)
			asked := reg.asked()
			for _, d := range whole {
				if asked[d] != "" {
					t.Errorf("layer %s was here and fetched again", d)
				}
			}
			for _, d := range partial {
				if asked[d] == "all" || l.sizeOf(d) == 0 {
					t.Errorf("layer %s began anew: %q", d, asked[d])
				}
			}
			if names := l.imageNames(); !slices.Contains(names, ref) {
				t.Errorf("the image is not there: %v", names)
			}
			l.must("image", "verify")
			l.must("cache", "prune", "--all")
			if whole, partial, other := l.cached(); len(whole)+len(partial) > 0 || len(other) != 1 || len(l.imageNames()) > 0 {
				t.Errorf("left after cache prune --all: %v, %v, %v; want the folder's lock alone", whole, partial, other)
			}
			l.nothingLeft()
		})
	}
}

// The same of an image in a saved file, whose layers have no name before they are read.
func TestPullOfAFileKilledAtEveryStep(t *testing.T) {
	saved := filepath.Join(t.TempDir(), "saved.tar")
	ref, err := name.NewTag("team/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(saved, ref, containerImage(t, v1.Config{}, noiseLayer(t, 1, 900_000), noiseLayer(t, 2, 1000))); err != nil {
		t.Fatal(err)
	}
	pull := []string{"image", "pull", "docker-archive:" + saved, "-t", "app"}
	for _, point := range pullPoints() {
		t.Run(point, func(t *testing.T) {
			l := newLab(t, "fake", true)
			if r := l.with([]string{"MVM_CRASH=" + point}, pull...); r.code != -1 {
				t.Fatalf("it did not reach %s: %v", point, r)
			}
			if names := l.imageNames(); len(names) > 0 {
				t.Errorf("images %v are there already", names)
			}
			l.must("image", "verify")
			l.must(pull...)
			if names := l.imageNames(); !slices.Equal(names, []string{"app"}) {
				t.Errorf("images %v", names)
			}
			l.must("image", "verify")
			l.must("cache", "prune", "--all")
			if whole, partial, other := l.cached(); len(whole)+len(partial) > 0 || len(other) != 1 {
				t.Errorf("left after cache prune --all: %v, %v, %v; want the folder's lock alone", whole, partial, other)
			}
			l.nothingLeft()
		})
	}
}

// Pruning while an import stands at any of its steps takes nothing away from it, and takes what
// no import needs.
func TestPruneDuringAPull(t *testing.T) {
	reg := watchRegistry(t)
	ref, other := reg.addr+"/team/app:1", reg.addr+"/team/other:1"
	push(t, ref, v1.Config{Cmd: []string{"/bin/app"}}, noiseLayer(t, 1, 900_000))
	push(t, other, v1.Config{Cmd: []string{"/bin/other"}}, noiseLayer(t, 2, 1000))
	for _, point := range pullPoints() {
		t.Run(point, func(t *testing.T) {
			l := newLab(t, "fake", true)
			l.must("image", "pull", other)
			unused, _, _ := l.cached()
			h := l.hold(point)
			reg.asked()
			done := l.start(h.env, "image", "pull", ref)
			h.reached(t, done)
			before, _, _ := l.cached()
			if point != fault.ImageStored { // at which the import holds the store's lock
				l.must("image", "prune", "--all", "--force")
				l.must("cache", "prune", "--all")
			}
			after, _, _ := l.cached()
			h.release(t)
			if r := <-done; r.code != 0 {
				t.Fatalf("the import: %v", r)
			}
			if point != fault.ImageStored && (slices.Contains(after, unused[0]) || len(after) != len(before)-1) {
				t.Errorf("layers before %v, after %v; only %v was nobody's", before, after, unused)
			}
			l.must("image", "verify")
			if names := l.imageNames(); !slices.Contains(names, ref) {
				t.Errorf("the image is not there: %v", names)
			}
			l.must("cache", "prune", "--all")
			if whole, _, _ := l.cached(); len(whole) > 0 {
				t.Errorf("layers %v are there after the import", whole)
			}
			l.nothingLeft()
		})
	}
}
