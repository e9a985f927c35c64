package docker

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// slowEngine takes requests to make something and does not answer them until it is well, and cannot
// delete anything until then.
type slowEngine struct {
	mu      sync.Mutex
	well    bool
	has     map[string]bool // volumes and containers, as their paths name them
	deleted []string
}

func (e *slowEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	well := e.well
	path := strings.TrimSuffix(r.URL.Path[strings.Index(r.URL.Path[1:], "/")+1:], "/json")
	if r.Method == http.MethodDelete && well {
		e.deleted = append(e.deleted, path)
		delete(e.has, path)
	}
	if name := r.URL.Query().Get("name"); name != "" {
		e.has = map[string]bool{"/containers/" + name: true}
	}
	has := e.has[path]
	e.mu.Unlock()
	switch {
	case r.URL.Path == "/_ping":
		w.Header().Set("Api-Version", "1.41")
	case path == "/info":
		_, _ = w.Write([]byte(goodInfo()))
	case path == "/images":
		_, _ = w.Write([]byte(`[{"Id":"sha256:00"}]`))
	case strings.HasSuffix(path, "/create") && well:
		_, _ = w.Write([]byte(`{"Id":"00"}`))
	case strings.HasSuffix(path, "/create"):
		<-r.Context().Done()
	case r.Method == http.MethodDelete && well:
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodDelete:
		w.WriteHeader(http.StatusInternalServerError)
	case has:
		_, id, _ := strings.Cut(path, "mvmctl-")
		_, _ = w.Write([]byte(`{"Id":"00","Config":{"Labels":{"` + labelMachine + `":"` + id + `"}},"Labels":{"` + labelVolume + `":"` + strings.TrimPrefix(id, "volume-") + `"}}`))
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (e *slowEngine) recover(paths ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.well, e.has = true, map[string]bool{}
	for _, p := range paths {
		e.has[p] = true
	}
}

func (e *slowEngine) gone() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.deleted
}

func hostOf(socket string) func(string) string {
	return func(k string) string { return map[string]string{"DOCKER_HOST": "unix://" + socket}[k] }
}

// impatient is a context that does not wait for a slow engine.
func impatient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// TestVolumeLeft: a volume that an engine may have made after all is deleted once that can be done,
// and not when it is asked for again.
func TestVolumeLeft(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]bool{"forgotten": false, "asked for again": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, state := &slowEngine{}, t.TempDir()
			d := New(Options{Getenv: hostOf(serve(t, e.ServeHTTP)), StateDir: state})
			const id, other = "0123456789abcdef", "fedcba9876543210"
			if _, _, err := d.KeepVolume(impatient(t), driver.Volume{ID: id, Name: "data"}); err == nil {
				t.Fatal("a volume was made")
			}
			left := filepath.Join(state, leftoverFolder, leftVolume+id)
			if _, err := os.Stat(left); err != nil {
				t.Fatalf("what may be left is not noted: %v", err)
			}
			e.recover()
			if again {
				if _, _, err := d.KeepVolume(t.Context(), driver.Volume{ID: id, Name: "data"}); err != nil {
					t.Fatal(err)
				}
			}
			if err := d.DropVolume(t.Context(), other, ""); err != nil {
				t.Fatal(err)
			}
			if was := strings.Contains(strings.Join(e.gone(), " "), volumeName(id)); was == again {
				t.Errorf("it was deleted: %v", was)
			}
			if _, err := os.Stat(filepath.Dir(left)); err == nil {
				t.Error("it is noted still")
			}
		})
	}
}

// TestContainerLeft: a container that an engine may have made after all is known to whoever deletes
// its machine.
func TestContainerLeft(t *testing.T) {
	t.Parallel()
	e, dir := &slowEngine{}, t.TempDir()
	d := New(Options{Getenv: hostOf("/nowhere")})
	socket := serve(t, e.ServeHTTP)
	agent := filepath.Join(dir, "agent")
	if err := os.WriteFile(agent, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b := machine.Boot{ID: "0123456789abcdef", Name: "m", Dir: filepath.Join(dir, "m"), Agent: agent, Disks: []machine.Disk{{Role: machine.RoleRoot, ID: "root"}}}
	c, err := connect(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.start(impatient(t), b, nil, prepared{}, driver.Output{VMM: &strings.Builder{}}); err == nil {
		t.Fatal("the machine was started")
	}
	if at, made, err := engineOf(b.Dir); at != socket || made || err != nil {
		t.Fatalf("what may be left is noted as %q, made: %v, %v", at, made, err)
	}
	e.recover("/containers/" + containerName(b.ID))
	if err := d.Remove(t.Context(), b.ID, b.Dir); err != nil {
		t.Fatal(err)
	}
	if got := e.gone(); len(got) != 1 || got[0] != "/containers/00" {
		t.Errorf("deleted: %q", got)
	}
	if _, err := os.Stat(filepath.Join(b.Dir, ownFolder)); err == nil {
		t.Error("it is noted still")
	}
}

// TestVolumeOfAnEngineThatMoved: a volume is found again by the socket that the user has chosen,
// if that leads to the engine that has it.
func TestVolumeOfAnEngineThatMoved(t *testing.T) {
	t.Parallel()
	const id = "0123456789abcdef"
	for name, has := range map[string]bool{"moved": true, "another": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := &slowEngine{}
			e.recover()
			if has {
				e.recover("/volumes/" + volumeName(id))
			}
			d := New(Options{Getenv: hostOf(serve(t, e.ServeHTTP))})
			err := d.DropVolume(t.Context(), id, filepath.Join(t.TempDir(), "gone"))
			if has && (err != nil || len(e.gone()) != 1) {
				t.Errorf("%v, deleted: %q", err, e.gone())
			}
			if !has && (machine.CodeOf(err) != "backend.missing" || len(e.gone()) != 0) {
				t.Errorf("%v, deleted: %q", err, e.gone())
			}
		})
	}
}
