package lima

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/flock"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// lockTime is how long a machine's earlier session may take to end.
const lockTime = 15 * time.Second

// maxDisk bounds the size of a file that is received; it takes only what is sent.
const maxDisk = machine.MaxDisk

// Host is the half in the virtual machine. It serves one session, and owns at most one machine.
type Host struct {
	Dir string // what is kept: contents, and machines' disks
	Run string // short folder for sockets
	// Drivers returns the inner backends, the best one first; probe returns what they may boot to find
	// out whether KVM works.
	Drivers func(probe func(context.Context) (machine.Kernel, string, error)) []driver.Driver
	// Stopping reports whether the virtual machine is being shut down; nil: it never is.
	Stopping func(ctx context.Context) bool
	// Provide fetches what the inner backends lack, with emulate that of one which needs no KVM; nil: it
	// cannot.
	Provide func(ctx context.Context, emulate bool, words io.Writer) error

	mu     sync.Mutex
	id     string // of the machine whose folder is ours
	unlock func()
	vm     driver.VM
	asked  bool          // for the machine's end
	ended  chan struct{} // closed when vm has ended and nothing of it is left
}

// Handler returns what the session serves.
func (h *Host) Handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(http.ResponseWriter, *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			answer, err := f(w, r)
			if errors.Is(err, errAnswered) {
				return
			}
			w.Header().Set("Content-Type", "application/json")
			if err != nil {
				w.WriteHeader(http.StatusUnprocessableEntity)
				answer = failedOf(err)
			}
			_ = json.NewEncoder(w).Encode(answer)
		})
	}
	handle("POST "+pathProbe, h.probe)
	handle("POST "+pathInstall, h.install)
	handle("POST "+pathOpen, h.open)
	handle("PUT "+pathContent, h.content)
	handle("PUT "+pathDisk, h.disk)
	handle("POST "+pathStart, h.start)
	handle("POST "+pathDial, h.dial)
	handle("POST "+pathShutdown, h.shutdown)
	handle("POST "+pathKill, h.kill)
	handle("POST "+pathPause, h.pause)
	handle("POST "+pathResume, h.pause)
	handle("POST "+pathRemove, h.remove)
	handle("POST "+pathExport, h.export)
	handle("POST "+pathPrune, h.prune)
	handle("POST "+pathKeep, h.keep)
	handle("POST "+pathDrop, h.drop)
	return mux
}

// errAnswered says that a handler wrote its answer itself.
var errAnswered = errors.New("answered")

// Close ends the machine, if there is one, and returns when nothing of it is left but its disk.
func (h *Host) Close() {
	h.mu.Lock()
	vm, ended := h.vm, h.ended
	h.asked = true
	h.mu.Unlock()
	if vm != nil {
		_ = vm.Kill()
		<-ended
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.unlock != nil {
		_ = os.RemoveAll(h.runDir(h.id)) // drives of a machine that never started
		h.unlock()
		h.unlock = nil
	}
}

func decode(r *http.Request, v any) error {
	if err := json.NewDecoder(io.LimitReader(r.Body, maxJSON)).Decode(v); err != nil {
		return fmt.Errorf("reading a request: %w", err)
	}
	return nil
}

func (h *Host) contents() string              { return filepath.Join(h.Dir, "content") }
func (h *Host) contentPath(key string) string { return filepath.Join(h.contents(), key) }
func (h *Host) machineDir(id string) string   { return filepath.Join(h.Dir, "machines", id) }

func plainKey(key string) bool {
	return regexp.MustCompile(`^(sha256-[0-9a-f]{64}|id-[0-9a-f]{64}-[0-9]{1,16})$`).MatchString(key)
}

func plainID(id string) bool { return regexp.MustCompile(`^[0-9a-f]{16}$`).MatchString(id) }

// probe finds the best inner backend: the first that does not emulate, else the first that works.
func (h *Host) probe(_ http.ResponseWriter, r *http.Request) (any, error) {
	var k kernel
	if err := decode(r, &k); err != nil {
		return nil, err
	}
	best, why := probed{Slow: emulated(r.Context())}, []error{}
	for _, d := range h.drivers(k) {
		caps, err := d.Probe(r.Context())
		if err != nil {
			why = append(why, fmt.Errorf("%s: %w", d.Name(), err))
			continue
		}
		if best.Driver == "" || best.Caps.Isolation == driver.IsolationEmulated && caps.Isolation != driver.IsolationEmulated {
			best.Driver, best.Caps = d.Name(), caps
		}
	}
	if best.Driver == "" {
		return nil, driver.Unavailable(codeNoBackend, "`mvmctl doctor --fix --hypervisor lima` fetches one", "no backend works in the virtual machine: %w", errors.Join(why...))
	}
	return best, nil
}

// drivers returns the inner backends, which may boot k to find out about KVM.
func (h *Host) drivers(k kernel) []driver.Driver {
	return h.Drivers(func(context.Context) (machine.Kernel, string, error) {
		out, err := h.kernel(k)
		return out, h.path(k.Initrd), err
	})
}

func (h *Host) path(key string) string {
	if key == "" {
		return ""
	}
	return h.contentPath(key)
}

func (h *Host) kernel(k kernel) (machine.Kernel, error) {
	for _, key := range []string{k.BzImage, k.VMLinux, k.Initrd} {
		if key != "" && !plainKey(key) {
			return machine.Kernel{}, errors.New("a file without a name")
		}
	}
	return machine.Kernel{ID: k.ID, Release: k.Release, BzImage: h.path(k.BzImage), VMLinux: h.path(k.VMLinux)}, nil
}

// open locks a machine's folder, which no other session of it may own, and says what is missing.
func (h *Host) open(_ http.ResponseWriter, r *http.Request) (any, error) {
	var o opening
	if err := decode(r, &o); err != nil {
		return nil, err
	}
	if err := errors.Join(os.MkdirAll(h.contents(), 0o700), os.MkdirAll(h.locks(), 0o700)); err != nil {
		return nil, err
	}
	if err := h.sweep(r.Context()); err != nil {
		return nil, err
	}
	if o.ID != "" {
		if err := h.own(r.Context(), o.ID); err != nil {
			return nil, err
		}
	}
	var out opened
	for _, key := range o.Assets {
		if !plainKey(key) {
			return nil, errors.New("a file without a name")
		}
		path := h.contentPath(key)
		// Touched, so that Prune does not take what is about to be used.
		if err := os.Chtimes(path, time.Time{}, time.Now()); err != nil {
			out.Missing = append(out.Missing, key)
		}
	}
	if o.ID != "" {
		_, err := os.Lstat(h.diskPath(o.ID, machine.RoleUpper))
		out.Upper = err == nil
	}
	return out, nil
}

// own takes the lock of a machine's folder.
func (h *Host) own(ctx context.Context, id string) error {
	if !plainID(id) {
		return errors.New("a machine without an id")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.id == id && h.unlock != nil {
		return nil
	}
	if h.unlock != nil {
		return errors.New("this session has a machine already")
	}
	unlock, err := h.lock(ctx, id)
	if err != nil {
		return err
	}
	h.id, h.unlock = id, unlock
	// What a session that was killed has left.
	for _, pattern := range []string{newFile, ".export.img.*"} {
		parts, _ := filepath.Glob(filepath.Join(h.machineDir(id), pattern))
		for _, path := range parts {
			_ = os.Remove(path)
		}
	}
	_ = os.Remove(h.mergedPath(id))
	return errors.Join(os.RemoveAll(h.runDir(id)), os.MkdirAll(h.machineDir(id), 0o700))
}

// lock takes the lock of a machine's folder.
func (h *Host) lock(ctx context.Context, id string) (unlock func(), err error) {
	if err := os.MkdirAll(h.locks(), 0o700); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockTime)
	defer cancel()
	if unlock, err = flock.Lock(ctx, h.lockPath(id)); err != nil {
		return nil, machine.Errorf("lima.busy", "try again in a moment; if it stays, restart the virtual machine: `limactl stop` and `limactl start`", "an earlier session of the machine has not ended: %w", err)
	}
	return unlock, nil
}

func (h *Host) locks() string               { return filepath.Join(h.Dir, "locks") }
func (h *Host) lockPath(id string) string   { return filepath.Join(h.locks(), id) }
func (h *Host) mergedPath(id string) string { return filepath.Join(h.machineDir(id), "export.img") }

// newFile is the pattern of files that are being received.
const newFile = ".new-*"

// newContent makes a file for a content that is received. It is locked for as long as it is open, and
// swept away when its session dies.
func (h *Host) newContent(ctx context.Context) (*os.File, error) {
	unlock, err := flock.Lock(ctx, h.lockPath("contents"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	f, err := os.CreateTemp(h.contents(), newFile)
	if err != nil {
		return nil, err
	}
	if err := flock.Hold(ctx, f); err != nil { // has closed it
		return nil, errors.Join(err, os.Remove(f.Name()))
	}
	return f, nil
}

// sweep deletes contents whose sessions died before they had all of it.
func (h *Host) sweep(ctx context.Context) error {
	unlock, err := flock.Lock(ctx, h.lockPath("contents"))
	if err != nil {
		return err
	}
	defer unlock()
	parts, _ := filepath.Glob(filepath.Join(h.contents(), newFile))
	for _, path := range parts {
		if dead, err := flock.TryLock(path); err == nil && dead != nil {
			_ = os.Remove(path)
			dead()
		}
	}
	return nil
}

func (h *Host) runDir(id string) string { return filepath.Join(h.Run, id) }

// plainRole reports whether a role can be part of a file's name.
func plainRole(r machine.Role) bool {
	return regexp.MustCompile(`^(root|upper|config|secrets|volume[0-9]{1,3})$`).MatchString(string(r))
}

// passingPath is where a drive is that the machine has only while it starts: in memory.
func (h *Host) passingPath(id string, r machine.Role) string {
	return filepath.Join(h.runDir(id), "drives", string(r)+".img")
}

func (h *Host) diskPath(id string, r machine.Role) string {
	return filepath.Join(h.machineDir(id), string(r)+".img")
}

// content receives a file that is kept by its content.
func (h *Host) content(_ http.ResponseWriter, r *http.Request) (any, error) {
	key := r.URL.Query().Get("key")
	if !plainKey(key) {
		return nil, errors.New("a file without a name")
	}
	tmp, err := h.newContent(r.Context())
	if err != nil {
		return nil, err
	}
	return nil, receive(r, tmp, h.contentPath(key), key)
}

// disk receives one of the machine's own drives.
func (h *Host) disk(_ http.ResponseWriter, r *http.Request) (any, error) {
	role := machine.Role(r.URL.Query().Get("role"))
	if !plainRole(role) || role == machine.RoleRoot {
		return nil, errors.New("a disk without a role")
	}
	h.mu.Lock()
	id, running := h.id, h.vm != nil
	h.mu.Unlock()
	if id == "" || running {
		return nil, errors.New("no machine, or one that runs")
	}
	path := h.diskPath(id, role)
	if r.URL.Query().Get("passing") != "" {
		path = h.passingPath(id, role)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), newFile)
	if err != nil {
		return nil, err
	}
	return nil, receive(r, tmp, path, "")
}

// receive makes a file of a request's body by way of an empty one: the whole or none.
func receive(r *http.Request, tmp *os.File, path, key string) error {
	defer func() { _, _ = tmp.Close(), os.Remove(tmp.Name()) }()
	size, err := strconv.ParseInt(r.URL.Query().Get("size"), 10, 64)
	if err != nil || size < 0 || size > maxDisk {
		return errors.New("a file without a size")
	}
	err = receiveSparse(tmp, r.Body, size)
	if err == nil && key != "" && key[0] == 's' { // named by its own digest
		var have string
		if have, err = contentKey(sized{tmp, size}); err == nil && have != key {
			err = errors.New("a file that is not what its name says")
		}
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err == nil { // while it is locked: nobody sweeps it away
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return machine.Errorf("lima.transfer", "look at the free space of the virtual machine, and try again", "receiving a file: %w", err)
	}
	return nil
}
