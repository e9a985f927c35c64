package lima

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/flock"
	"github.com/mvmctl/mvmctl/internal/layer"
	"github.com/mvmctl/mvmctl/internal/linuxenv"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// events is a writer of one kind of event of a stream.
type events struct {
	s    *linuxenv.Stream
	kind byte
}

// Write implements io.Writer.
func (e events) Write(p []byte) (int, error) {
	for n := 0; n < len(p); n += linuxenv.MaxFrame {
		if err := linuxenv.WriteFrame(e.s, e.kind, p[n:min(len(p), n+linuxenv.MaxFrame)]); err != nil {
			return n, err
		}
	}
	return len(p), nil
}

// end writes the last event.
func (e events) end(err error) {
	var data []byte
	if err != nil {
		data, _ = json.Marshal(failedOf(err))
	}
	_ = linuxenv.WriteFrame(e.s, eventEnded, data)
}

// start starts the machine and answers with its events until it has ended.
func (h *Host) start(w http.ResponseWriter, r *http.Request) (any, error) {
	var s start
	if err := decode(r, &s); err != nil {
		return nil, err
	}
	d, b, err := h.boot(s)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(b.RuntimeDir, 0o700); err != nil {
		return nil, err
	}
	out := linuxenv.NewStream(w)
	said := events{out, eventEnded}
	vm, err := d.Start(r.Context(), b, driver.Output{
		Console: events{out, eventConsole}, VMM: events{out, eventVMM},
		Trouble: func(text string) { _, _ = events{out, eventTrouble}.Write([]byte(text)) },
	})
	if err == nil {
		err = h.started(vm)
	}
	if err != nil {
		_ = os.RemoveAll(b.RuntimeDir)
		said.end(err)
		return nil, errAnswered
	}
	// The VMM has them open.
	_ = os.RemoveAll(filepath.Dir(h.passingPath(b.ID, machine.RoleSecrets)))
	_ = linuxenv.WriteFrame(out, eventStarted, nil)
	// Nobody who follows it any more: the session is over, or the caller gave it up.
	stop := context.AfterFunc(r.Context(), func() { _ = vm.Kill() })
	err = vm.Wait()
	stop()
	err = h.explain(r.Context(), err)
	_ = os.RemoveAll(b.RuntimeDir)
	close(h.ended)
	said.end(err)
	return nil, errAnswered
}

// explain says why a machine ended. A virtual machine that is shut down ends the VMM as well as us, with
// a signal by which a VMM ends as after a power-off.
func (h *Host) explain(ctx context.Context, err error) error {
	h.mu.Lock()
	asked := h.asked
	h.mu.Unlock()
	if asked || h.Stopping == nil || !h.Stopping(ctx) {
		return err
	}
	return machine.Errorf("lima.lost", "start it again with `mvmctl up`, which starts the virtual machine too", "the Lima virtual machine was shut down, and the machine with it")
}

// ask notes that the machine's end is asked for.
func (h *Host) ask() {
	h.mu.Lock()
	h.asked = true
	h.mu.Unlock()
}

// started notes the machine as this session's.
func (h *Host) started(vm driver.VM) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.vm != nil {
		_ = vm.Kill()
		_ = vm.Wait()
		return errors.New("this session has a machine already")
	}
	h.vm, h.ended = vm, make(chan struct{})
	return nil
}

// boot gives a machine's files their places here.
func (h *Host) boot(s start) (driver.Driver, machine.Boot, error) {
	h.mu.Lock()
	id := h.id
	h.mu.Unlock()
	b := s.Boot
	b.Disks, b.Runner = nil, "" // paths of files are nobody's to say but ours
	if id == "" || b.ID != id {
		return nil, b, errors.New("a machine whose folder is not open")
	}
	var inner driver.Driver
	for _, d := range h.drivers(s.Kernel) {
		if d.Name() == s.Driver {
			inner = d
		}
	}
	if inner == nil {
		return nil, b, fmt.Errorf("no backend %q in the virtual machine", s.Driver)
	}
	var err error
	if b.Kernel, err = h.kernel(s.Kernel); err != nil {
		return nil, b, err
	}
	for _, key := range []string{s.Root, s.Agent} {
		if key != "" && !plainKey(key) {
			return nil, b, errors.New("a file without a name")
		}
	}
	b.Driver, b.Initrd, b.Agent, b.Dir, b.RuntimeDir = s.Driver, h.path(s.Kernel.Initrd), h.path(s.Agent), h.machineDir(id), h.runDir(id)
	if b.Agent != "" {
		if err := os.Chmod(b.Agent, 0o755); err != nil { //nolint:gosec // it is a program
			return nil, b, err
		}
	}
	for _, r := range s.Roles {
		d, err := h.diskOf(s, id, r)
		if err != nil {
			return nil, b, err
		}
		b.Disks = append(b.Disks, d)
	}
	if err := os.WriteFile(filepath.Join(b.Dir, "root"), []byte(s.Root), 0o600); err != nil {
		return nil, b, err
	}
	return inner, b, nil
}

// diskOf gives one of a machine's disks its place here.
func (h *Host) diskOf(s start, id string, r role) (machine.Disk, error) {
	d := machine.Disk{Role: r.Role, ReadOnly: r.ReadOnly}
	switch {
	case !plainRole(r.Role):
		return d, errors.New("a disk without a role")
	case r.Role == machine.RoleRoot:
		d.Path, d.ID = h.path(s.Root), s.Root
	case r.Kept != "":
		if !plainID(r.Kept) {
			return d, errors.New("a volume without an id")
		}
		d.Path = h.volumePath(r.Kept)
		if _, err := os.Lstat(d.Path); errors.Is(err, os.ErrNotExist) {
			return d, machine.Errorf("volume.gone", "use the Lima instance that has it: MVM_LIMA_INSTANCE names another; if somebody deleted it, `mvmctl volume rm` forgets it", "the machine's volume is not in the Lima instance: there is no %s", d.Path)
		}
	case r.Passing:
		d.Path = h.passingPath(id, r.Role)
	default:
		d.Path = h.diskPath(id, r.Role)
	}
	return d, nil
}

// running returns the session's machine.
func (h *Host) running() (driver.VM, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.vm == nil {
		return nil, errEnded
	}
	select {
	case <-h.ended:
		return nil, errEnded
	default:
		return h.vm, nil
	}
}

// dial connects to a guest port and passes bytes on.
func (h *Host) dial(w http.ResponseWriter, r *http.Request) (any, error) {
	port, err := strconv.ParseUint(r.URL.Query().Get("port"), 10, 32)
	if err != nil {
		return nil, err
	}
	vm, err := h.running()
	if err != nil {
		return nil, err
	}
	conn, err := vm.Dial(r.Context(), uint32(port))
	if err != nil {
		if _, rerr := h.running(); rerr != nil {
			err = rerr
		}
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(r.Context(), func() { _ = conn.Close() })
	defer stop()
	out := linuxenv.NewStream(w)
	go func() {
		_, _ = io.Copy(conn, r.Body)
		_ = conn.Close()
	}()
	_, _ = io.Copy(out, conn)
	return nil, errAnswered
}

func (h *Host) shutdown(_ http.ResponseWriter, r *http.Request) (any, error) {
	vm, err := h.running()
	if err != nil {
		return nil, err
	}
	h.ask()
	return nil, vm.Shutdown(r.Context())
}

func (h *Host) kill(_ http.ResponseWriter, _ *http.Request) (any, error) {
	vm, err := h.running()
	if err != nil {
		return nil, err
	}
	h.ask()
	return nil, vm.Kill()
}

// pause makes the guest stand still, or lets it go on.
func (h *Host) pause(_ http.ResponseWriter, r *http.Request) (any, error) {
	vm, err := h.running()
	if err != nil {
		return nil, err
	}
	p, ok := vm.(driver.Pauser)
	if !ok {
		return nil, errors.New("the backend in the virtual machine cannot pause")
	}
	if r.URL.Path == pathResume {
		return nil, p.Resume(r.Context())
	}
	return nil, p.Pause(r.Context())
}

// remove deletes all that is kept of a machine that does not run.
func (h *Host) remove(_ http.ResponseWriter, r *http.Request) (any, error) {
	var o opening
	if err := decode(r, &o); err != nil {
		return nil, err
	}
	if _, err := h.running(); err == nil {
		return nil, errors.New("the session's machine runs")
	}
	if !plainID(o.ID) {
		return nil, errors.New("a machine without an id")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	unlock := h.unlock
	if unlock == nil || h.id != o.ID {
		var err error
		if unlock, err = h.lock(r.Context(), o.ID); err != nil {
			return nil, err
		}
	} else {
		h.id, h.unlock = "", nil
	}
	// The lock's file goes while it is held: who waits for it sees that, and takes that of the next.
	err := errors.Join(os.RemoveAll(h.machineDir(o.ID)), os.RemoveAll(h.runDir(o.ID)), os.Remove(h.lockPath(o.ID)))
	unlock()
	return nil, err
}

// export answers with a stopped machine's root file system as a tar file.
func (h *Host) export(w http.ResponseWriter, r *http.Request) (any, error) {
	id := r.URL.Query().Get("id")
	if !plainID(id) {
		return nil, errors.New("a machine without an id")
	}
	if _, err := os.Lstat(h.diskPath(id, machine.RoleUpper)); err != nil {
		return nil, machine.Errorf("machine.unchanged", "start it first", "the machine has never been started, so it has no changes")
	}
	if err := h.own(r.Context(), id); err != nil {
		return nil, err
	}
	out := linuxenv.NewStream(w)
	err := h.exportTo(r.Context(), id, events{out, eventConsole})
	events{out, eventEnded}.end(err)
	return nil, errAnswered
}

// upperDir is where the guest keeps its changes on the machine's own disk.
const upperDir = "upper"

func (h *Host) exportTo(ctx context.Context, id string, w io.Writer) error {
	key, err := os.ReadFile(filepath.Join(h.machineDir(id), "root"))
	if err != nil || !plainKey(string(key)) {
		return fmt.Errorf("finding the machine's image: %w", errors.Join(err, errors.New("it is not named")))
	}
	base, closeBase, err := openImage(h.contentPath(string(key)))
	if err != nil {
		return err
	}
	defer closeBase()
	upper, closeUpper, err := openImage(h.diskPath(id, machine.RoleUpper))
	if err != nil {
		return err
	}
	defer closeUpper()
	merged := h.mergedPath(id)
	defer func() { _ = os.Remove(merged) }()
	err = disk.CreateFile(merged, disk.Options{}, func(dw *disk.Writer) error {
		_, err := layer.FromOverlay(ctx, dw, base, upper, upperDir, layer.Options{})
		return err
	})
	if err != nil {
		return err
	}
	whole, closeWhole, err := openImage(merged)
	if err != nil {
		return err
	}
	defer closeWhole()
	_, err = layer.ToTar(ctx, whole, w)
	return err
}

func openImage(path string) (*disk.FS, func(), error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("opening a disk: %w", err)
	}
	info, err := f.Stat()
	if err == nil {
		var fs *disk.FS
		if fs, err = disk.Open(f, info.Size()); err == nil {
			return fs, func() { _ = f.Close() }, nil
		}
	}
	_ = f.Close()
	return nil, nil, err
}

// prune removes contents that no machine here has as its image, and that were not used lately.
func (h *Host) prune(_ http.ResponseWriter, r *http.Request) (any, error) {
	used := map[string]bool{}
	roots, _ := filepath.Glob(filepath.Join(h.Dir, "machines", "*", "root"))
	for _, path := range roots {
		if key, err := os.ReadFile(path); err == nil {
			used[string(key)] = true
		}
	}
	if err := os.MkdirAll(h.locks(), 0o700); err != nil {
		return nil, err
	}
	if err := h.sweep(r.Context()); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(h.contents())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var out pruned
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || used[e.Name()] || strings.HasPrefix(e.Name(), ".") || time.Since(info.ModTime()) < pruneAge {
			continue
		}
		if r.URL.Query().Get("dry") == "" {
			if err := os.Remove(h.contentPath(e.Name())); err != nil {
				continue
			}
		}
		if strings.HasPrefix(e.Name(), "id-") { // a copy of an image, which is what is counted
			out.Count++
		}
	}
	return out, nil
}

// pruneAge spares what a start that is under way has just found to be there.
const pruneAge = time.Hour

// install fetches what the inner backends lack.
func (h *Host) install(w http.ResponseWriter, r *http.Request) (any, error) {
	var q installRequest
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(h.Dir, 0o700); err != nil {
		return nil, err
	}
	unlock, err := flock.Lock(r.Context(), filepath.Join(h.Dir, "install.lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	out := linuxenv.NewStream(w)
	if h.Provide != nil {
		err = h.Provide(r.Context(), q.Emulate, events{out, eventVMM})
	}
	events{out, eventEnded}.end(err)
	return nil, errAnswered
}

// emulated reports whether this virtual machine is itself emulated: systemd tells that from one with
// hardware virtualisation.
func emulated(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemd-detect-virt", "--vm").Output()
	return err == nil && strings.TrimSpace(string(out)) == "qemu"
}
