package lima_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/lima"
	"github.com/mvmctl/mvmctl/internal/flock"
	"github.com/mvmctl/mvmctl/internal/linuxenv"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// until waits for something that another process does.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

// said is what is said while one waits, safe for concurrent use.
type said struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func homeOf(dir string) string { return filepath.Join(dir, fmt.Sprint("lima", os.Getuid())) }

// TestStartsAtOnceDouble: of several that make or start the virtual machine at once, one does it; the
// others say for whom they wait, and so does who wants a session of one that runs but takes no
// connections yet.
func TestStartsAtOnceDouble(t *testing.T) {
	for _, before := range []string{"", "Stopped"} {
		t.Run("from "+before, func(t *testing.T) {
			dir := shortDir(t)
			home := homeOf(dir)
			instance := filepath.Join(home, doubleName)
			hold := filepath.Join(home, "hold")
			if err := errors.Join(os.MkdirAll(instance, 0o700), syscall.Mkfifo(hold, 0o600)); err != nil {
				t.Fatal(err)
			}
			doing := "makes"
			if before != "" {
				doing = "starts"
				if err := os.WriteFile(filepath.Join(instance, "status"), []byte(before), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			vm := doubleVM(t, dir)
			ended := make(chan error, 4)
			go func() { ended <- vm.Ensure(t.Context(), io.Discard) }()
			boots := func() string {
				data, _ := os.ReadFile(filepath.Join(instance, "boots"))
				return string(data)
			}
			until(t, "the first boots it", func() bool { return boots() != "" })
			var words [3]said
			for i := range 2 {
				go func() { ended <- doubleVM(t, dir).Ensure(t.Context(), &words[i]) }()
			}
			go func() {
				s, err := doubleVM(t, dir).Connect(t.Context(), &words[2])
				if err == nil {
					err = s.Close()
				}
				ended <- err
			}()
			want := fmt.Sprintf("waiting for mvmctl (process %d), which %s the Lima instance %s\n", os.Getpid(), doing, doubleName)
			for i := range words {
				until(t, "who waits says for whom", func() bool { return words[i].String() == want })
			}
			release, err := os.OpenFile(hold, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			_ = release.Close()
			for range cap(ended) {
				if err := <-ended; err != nil {
					t.Errorf("%v", err)
				}
			}
			if boots() != "boot\n" {
				t.Errorf("it was booted so often: %q", boots())
			}
			if data, err := os.ReadFile(filepath.Join(home, "lima-"+doubleName+".lock")); err != nil || len(data) != 0 {
				t.Errorf("the lock still says %q, %v", data, err)
			}
		})
	}
}

// TestInstanceOfOthersDouble: no remedy deletes a virtual machine without saying what is lost.
func TestInstanceOfOthersDouble(t *testing.T) {
	dir := shortDir(t)
	instance := filepath.Join(homeOf(dir), doubleName)
	vm := doubleVM(t, dir)
	if err := os.MkdirAll(instance, 0o700); err != nil {
		t.Fatal(err)
	}
	for status, config := range map[string]string{"Running": `{"plain": false, "ssh": {}}`, "Stopped": `{"plain": true, "mounts": [{}], "ssh": {}}`, "Broken": `{"plain": true, "ssh": {}}`} {
		if err := errors.Join(os.WriteFile(filepath.Join(instance, "status"), []byte(status), 0o600), os.WriteFile(filepath.Join(instance, "config.json"), []byte(config), 0o600)); err != nil {
			t.Fatal(err)
		}
		err := vm.Ensure(t.Context(), io.Discard)
		e, ok := errors.AsType[*machine.Error](err)
		if !ok || e.Code != "lima.instance" || !strings.Contains(e.Remedy, "`limactl delete --force "+doubleName+"` would delete all that is in it, with the disks of all machines") {
			t.Errorf("%s: %v, %+v", status, err, e)
		}
		if _, err := os.Stat(filepath.Join(instance, "boots")); err == nil {
			t.Errorf("%s: it was started", status)
		}
	}
}

// TestRootDouble: that limactl refuses root is told as that, with what to do.
func TestRootDouble(t *testing.T) {
	dir := shortDir(t)
	if err := errors.Join(os.MkdirAll(homeOf(dir), 0o700), os.WriteFile(filepath.Join(homeOf(dir), "root"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	refused(t, doubleVM(t, dir))
}

// refused checks what is said where limactl refuses root.
func refused(t *testing.T, vm *linuxenv.VM) {
	t.Helper()
	_, err := lima.New(lima.Options{VM: vm}).Probe(t.Context())
	e, ok := errors.AsType[*machine.Error](err)
	if !ok || e.Code != "lima.root" || !errors.Is(err, driver.ErrUnavailable) || !strings.Contains(e.Remedy, "without sudo") {
		t.Errorf("%v, %+v", err, e)
	}
	if err := vm.Ensure(t.Context(), io.Discard); machine.CodeOf(err) != "lima.root" {
		t.Errorf("Ensure: %v", err)
	}
}

// TestForgetDouble: the disk of a machine that was deleted while limactl was not there goes with the next
// command that uses the virtual machine, and a machine whose disk is in another one is not taken for new.
func TestForgetDouble(t *testing.T) {
	dir := shortDir(t)
	vm := doubleVM(t, dir)
	if err := vm.Ensure(t.Context(), io.Discard); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "st")
	d := lima.New(lima.Options{VM: vm, StateDir: state})
	b := bootOf(t, dir)
	run := func(b machine.Boot) {
		t.Helper()
		m, err := d.Start(t.Context(), b, driver.Output{})
		if err != nil {
			t.Fatalf("Start: %v", err)
		}
		if err := errors.Join(m.Kill(), end(t, m)); err != nil {
			t.Errorf("Kill: %v", err)
		}
	}
	run(b)
	disks := func() []string {
		found, _ := filepath.Glob(filepath.Join(homeOf(dir), doubleName, "root/var/machines/*/upper.img"))
		return found
	}
	notes := func() []string {
		found, _ := filepath.Glob(filepath.Join(state, "lima-leftovers", "*"))
		return found
	}
	other := lima.New(lima.Options{VM: linuxenv.New(linuxenv.Options{Limactl: filepath.Join(dir, "limactl"), Instance: "other"}), StateDir: state})
	if _, err := other.Start(t.Context(), b, driver.Output{}); machine.CodeOf(err) != "lima.disk_elsewhere" {
		t.Errorf("Start with another instance: %v", err)
	}
	if err := other.Remove(t.Context(), b.ID, b.Dir); machine.CodeOf(err) != "lima.disk_elsewhere" {
		t.Errorf("Remove with another instance: %v", err)
	}
	none := lima.New(lima.Options{VM: linuxenv.New(linuxenv.Options{Limactl: filepath.Join(dir, "none"), Instance: doubleName}), StateDir: state})
	if err := none.Remove(t.Context(), b.ID, b.Dir); machine.CodeOf(err) != "lima.missing" {
		t.Errorf("Remove without limactl: %v", err)
	}
	if err := none.Forget("0123456789abcdef", filepath.Join(dir, "no-such")); err != nil || len(notes()) != 0 {
		t.Errorf("Forget of a machine that never ran here: %v, %q", err, notes())
	}
	if err := none.Forget(b.ID, b.Dir); err != nil || len(notes()) != 1 || len(disks()) != 1 {
		t.Fatalf("Forget: %v, notes %q, disks %q", err, notes(), disks())
	}
	if err := os.RemoveAll(b.Dir); err != nil { // as `rm --force` does
		t.Fatal(err)
	}
	if n, err := d.Prune(t.Context(), true); err != nil || len(notes()) != 1 || len(disks()) != 1 {
		t.Errorf("a dry Prune: %d, %v, notes %q, disks %q", n, err, notes(), disks())
	}
	next := bootOf(t, filepath.Join(dir))
	run(next)
	if left := disks(); len(left) != 1 || filepath.Base(filepath.Dir(left[0])) != next.ID || len(notes()) != 0 {
		t.Errorf("after the next start: disks %q, notes %q", left, notes())
	}
	if err := errors.Join(none.Forget(next.ID, next.Dir), os.RemoveAll(next.Dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Prune(t.Context(), false); err != nil || len(disks()) != 0 || len(notes()) != 0 {
		t.Errorf("after Prune: %v, disks %q, notes %q", err, disks(), notes())
	}
}

// TestHalfReceivedDouble: files of sessions that were killed go with the next session, those of sessions
// that live do not.
func TestHalfReceivedDouble(t *testing.T) {
	dir := shortDir(t)
	vm := doubleVM(t, dir)
	if err := vm.Ensure(t.Context(), io.Discard); err != nil {
		t.Fatal(err)
	}
	d := lima.New(lima.Options{VM: vm})
	b := bootOf(t, dir)
	root := filepath.Join(homeOf(dir), doubleName, "root/var")
	path := func(name string) string { return filepath.Join(root, name) }
	dead := []string{path("content/.new-dead"), path("machines/" + b.ID + "/.new-dead"), path("machines/" + b.ID + "/export.img")}
	alive := path("content/.new-alive")
	for _, p := range append(dead, alive) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o700), os.WriteFile(p, []byte("half"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	unlock, err := flock.TryLock(alive)
	if err != nil || unlock == nil {
		t.Fatal(err)
	}
	defer unlock()
	m, err := d.Start(t.Context(), b, driver.Output{})
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	if err := errors.Join(m.Kill(), end(t, m)); err != nil {
		t.Errorf("Kill: %v", err)
	}
	for _, p := range dead {
		if _, err := os.Stat(p); err == nil {
			t.Errorf("%s is left", p)
		}
	}
	if _, err := os.Stat(alive); err != nil {
		t.Errorf("what another session receives was deleted: %v", err)
	}
	if left, _ := filepath.Glob(path("content/.new-*")); len(left) != 1 {
		t.Errorf("left: %q", left)
	}
}
