package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

func newStore(t *testing.T) (*Store, paths.Paths) {
	t.Helper()
	dir := t.TempDir()
	p := paths.Paths{Cache: dir + "/cache", Config: dir + "/config", State: dir + "/state", Data: dir + "/data", Runtime: dir + "/run"}
	s := New(p)
	if err := s.Prepare(); err != nil {
		t.Fatal(err)
	}
	return s, p
}

func record(name string) machine.Record {
	return machine.Record{
		Schema: machine.RecordSchema, ID: machine.NewID(), Name: name, Created: time.Date(2026, 11, 24, 1, 2, 3, 0, time.UTC),
		Spec: machine.Spec{Name: name, Image: "minimal", Env: map[string]string{"A": "1"}}, Driver: "fake", Generation: 3,
	}
}

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	s, p := newStore(t)
	want := record("web")
	if err := s.Save(want); err != nil {
		t.Fatal(err)
	}
	got, err := s.Load("web")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	info, err := os.Stat(p.Machine("web", "").Record())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("record mode %v, %v; want 0600", info.Mode(), err)
	}
	if info, _ := os.Stat(p.State); info.Mode().Perm() != 0o700 {
		t.Errorf("state folder mode %v, want 0700", info.Mode())
	}
}

func TestUnknownMachineSuggestsANearName(t *testing.T) {
	s, _ := newStore(t)
	if err := s.Save(record("hello")); err != nil {
		t.Fatal(err)
	}
	_, err := s.Load("helo")
	var e *machine.Error
	if !errors.As(err, &e) || e.Code != "machine.not_found" || !strings.Contains(e.Remedy, "hello") {
		t.Errorf("Load: %v (%+v)", err, e)
	}
}

// A damaged record never takes the others with it, and nothing of it is changed.
func TestEveryCutAndFlipOfARecordIsFound(t *testing.T) {
	s, p := newStore(t)
	for _, n := range []string{"good", "bad"} {
		if err := s.Save(record(n)); err != nil {
			t.Fatal(err)
		}
	}
	path := p.Machine("bad", "").Record()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := s.Load("bad")
		if machine.CodeOf(err) != "state.corrupt" {
			t.Fatalf("%s: %v, want state.corrupt", what, err)
		}
		if now, _ := os.ReadFile(path); string(now) != string(data) {
			t.Fatalf("%s: reading changed the file", what)
		}
	}
	for n := range len(whole) - 1 { // the last byte is a newline, which means nothing
		check(fmt.Sprintf("cut at %d", n), whole[:n])
	}
	for i := range len(whole) - 1 {
		flipped := append([]byte(nil), whole...)
		flipped[i] ^= 0x01
		if err := os.WriteFile(path, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := s.Load("bad")
		// Flipping a letter of a key's case can leave the meaning alone; nothing else may pass.
		if err == nil && !cmp.Equal(got.Spec, record("bad").Spec) {
			t.Fatalf("flip at %d was believed: %+v", i, got)
		}
	}
	check("zeros", make([]byte, 4096))
	check("trailing data", append(append([]byte(nil), whole...), "{}"...))
	check("other kind", []byte(strings.Replace(string(whole), `"record"`, `"status"`, 1)))
	check("huge", make([]byte, maxState+2))
	if _, err := s.Load("bad"); machine.CodeOf(err) != "state.corrupt" {
		t.Errorf("Load: %v, want state.corrupt", err)
	}
	if names, err := s.Names(); err != nil || !cmp.Equal(names, []string{"bad", "good"}) {
		t.Errorf("Names: %v, %v: one that cannot be read must not hide the others", names, err)
	}
	if _, err := s.Load("good"); err != nil {
		t.Errorf("Load after all that: %v", err)
	}
}

func TestADamagedRecordIsAnsweredFromTheLastGoodCopy(t *testing.T) {
	s, p := newStore(t)
	rec := record("web")
	for g := range 2 {
		rec.Generation = uint64(g + 1)
		if err := s.Save(rec); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(p.Machine("web", "").Record(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := s.Load("web")
	if err != nil || got.Generation != 1 {
		t.Errorf("Load = generation %d, %v; want the copy with 1", got.Generation, err)
	}
}

func TestANewerRecordIsRefusedUntouched(t *testing.T) {
	s, p := newStore(t)
	if err := s.Save(record("web")); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(record("web")); err != nil { // so that there is a copy that must not be used
		t.Fatal(err)
	}
	path := p.Machine("web", "").Record()
	data, _ := os.ReadFile(path)
	newer := strings.Replace(string(data), `"schema":1`, `"schema":2`, 1)
	if err := os.WriteFile(path, []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load("web"); machine.CodeOf(err) != "state.newer" {
		t.Errorf("Load: %v, want state.newer", err)
	}
	if now, _ := os.ReadFile(path); string(now) != newer {
		t.Error("the newer record was changed")
	}
}

// Records of every released format load for ever: add a file, never change one.
func TestGoldenRecordsLoad(t *testing.T) {
	files, err := filepath.Glob("testdata/records/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("golden records: %v, %v", files, err)
	}
	for _, f := range files {
		var rec machine.Record
		if err := new(buffers).readOne(f, "record", machine.RecordSchema, &rec); err != nil {
			t.Errorf("%s: %v", f, err)
		} else if rec.Name == "" || rec.ID == "" || rec.Spec.Image == "" {
			t.Errorf("%s: lost its content: %+v", f, rec)
		}
	}
}

func TestDeleteLeavesNothing(t *testing.T) {
	s, p := newStore(t)
	if err := s.Save(record("web")); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveStatus("web", machine.Status{State: machine.StateExited}); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete("web"); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(p.Machines()); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if err := s.Delete("web"); err != nil {
		t.Errorf("deleting again: %v", err)
	}
}

func TestASecondCommandIsToldWhoIsAtWork(t *testing.T) {
	s, p := newStore(t)
	l, err := s.Lock(context.Background(), "web", "up web")
	if err != nil {
		t.Fatal(err)
	}
	_, err = lockFor(context.Background(), p.Lock("web"), "web", "down web", 20*time.Millisecond)
	if machine.CodeOf(err) != "machine.busy" || !strings.Contains(err.Error(), "mvmctl up web") || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("second lock: %v", err)
	}
	l.Release()
	l2, err := s.Lock(context.Background(), "web", "down web")
	if err != nil {
		t.Fatalf("after release: %v", err)
	}
	l2.Remove()
	if left, _ := os.ReadDir(p.Locks()); len(left) != 0 {
		t.Errorf("left in the locks folder: %v", left)
	}
}

// Many commands lock, work and delete the lock file at once; never are two inside.
func TestLocksExcludeOverDeletion(t *testing.T) {
	s, _ := newStore(t)
	var inside, worst int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				l, err := s.Lock(context.Background(), "web", "test")
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				inside++
				worst = max(worst, inside)
				mu.Unlock()
				mu.Lock()
				inside--
				mu.Unlock()
				if (i+j)%2 == 0 {
					l.Remove()
				} else {
					l.Release()
				}
			}
		})
	}
	wg.Wait()
	if worst != 1 {
		t.Errorf("%d holders at once", worst)
	}
}

// The lock that proves life belongs to the open file: it outlives the process that took it as
// long as a child has it.
func TestTheAliveLockPassesToAChild(t *testing.T) {
	s, _ := newStore(t)
	if err := s.Save(record("web")); err != nil {
		t.Fatal(err)
	}
	if s.Alive("web") {
		t.Error("alive before anybody was")
	}
	f, err := s.TakeAlive("web")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.TakeAlive("web"); machine.CodeOf(err) != "machine.running" {
		t.Errorf("taking it twice: %v, want machine.running", err)
	}
	child := exec.CommandContext(t.Context(), "cat")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	child.ExtraFiles = []*os.File{f}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if !s.Alive("web") {
		t.Error("not alive while the child holds the lock")
	}
	short, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	if err := s.WaitDead(short, "web"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("WaitDead of a living machine: %v", err)
	}
	cancel()
	_ = in.Close()
	_ = child.Wait()
	if err := s.WaitDead(context.Background(), "web"); err != nil {
		t.Errorf("WaitDead: %v", err)
	}
	if s.Alive("web") {
		t.Error("alive after the child ended")
	}
}

// Each start has a lock of its own: who waits for the end of one supervisor is not kept waiting
// by the next one, however quickly that comes.
func TestTheNextStartKeepsNobodyWaiting(t *testing.T) {
	s, p := newStore(t)
	if err := s.Save(record("web")); err != nil {
		t.Fatal(err)
	}
	first, err := s.TakeAlive("web")
	if err != nil {
		t.Fatal(err)
	}
	waiting, err := os.Open(p.Machine("web", "").Alive()) // as WaitDead has it open while it waits
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	_ = first.Close()
	next, err := s.TakeAlive("web")
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if err := syscall.Flock(int(waiting.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		t.Errorf("who waits for the first supervisor still waits while the next one lives: %v", err)
	}
	if !s.Alive("web") {
		t.Error("the next one is not alive")
	}
	left, err := filepath.Glob(p.Machine("web", "").Dir + "/.alive*")
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// What is no machine's folder but stands where one would be is named, and Load says what it is.
func TestAFileInAMachinesPlaceIsNamed(t *testing.T) {
	s, p := newStore(t)
	if err := os.WriteFile(p.Machine("stray", "").Dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if names, err := s.Names(); err != nil || !cmp.Equal(names, []string{"stray"}) {
		t.Errorf("Names: %v, %v", names, err)
	}
	if _, err := s.Load("stray"); machine.CodeOf(err) != "env.ownership" {
		t.Errorf("Load: %v, want env.ownership", err)
	}
}

// A state directory that cannot be read is not the same as one without machines.
func TestAnUnreadableStateDirectoryIsNotEmpty(t *testing.T) {
	dir := t.TempDir()
	s := New(paths.Paths{State: dir})
	if names, err := s.Names(); err != nil || len(names) != 0 {
		t.Errorf("before anything was made: %v, %v", names, err)
	}
	if err := os.WriteFile(dir+"/machines", nil, 0o600); err != nil { // also root cannot list a file
		t.Fatal(err)
	}
	if names, err := s.Names(); machine.CodeOf(err) != "state.unreadable" {
		t.Errorf("Names: %v, %v; want state.unreadable", names, err)
	}
}

// What a killed writer left is removed by the next one; what somebody alive is writing is not.
func TestTemporariesOfTheDeadGo(t *testing.T) {
	s, p := newStore(t)
	if err := s.Save(record("web")); err != nil {
		t.Fatal(err)
	}
	dead := exec.CommandContext(t.Context(), "true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	dir := p.Machine("web", "").Dir
	file := func(base string, pid int) string { return fmt.Sprintf("%s/.%s.%d-123", dir, base, pid) }
	gone := []string{file("record.json", dead.Process.Pid), file("status.json", dead.Process.Pid), file("alive.lock", dead.Process.Pid)}
	stay := []string{file("record.json", os.Getpid()), file("record.json", os.Getppid())}
	for _, f := range append(gone, stay...) {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Save(record("web")); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveStatus("web", machine.Status{}); err != nil {
		t.Fatal(err)
	}
	alive, err := s.TakeAlive("web")
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	for _, f := range gone {
		if _, err := os.Lstat(f); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there (%v)", f, err)
		}
	}
	for _, f := range stay {
		if _, err := os.Lstat(f); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
}

func TestAFileSystemWithoutHardLinksWillDo(t *testing.T) {
	for _, e := range []error{syscall.EPERM, syscall.EMLINK, syscall.ENOTSUP, syscall.ENOSYS} {
		if err := (&os.LinkError{Op: "link", Err: e}); !noHardLinks(err) {
			t.Errorf("%v stops a record from being written", err)
		}
	}
	for _, e := range []error{syscall.ENOSPC, syscall.EROFS, syscall.EIO} {
		if err := (&os.LinkError{Op: "link", Err: e}); noHardLinks(err) {
			t.Errorf("%v is taken for a missing feature", err)
		}
	}
}

func FuzzDecodeState(f *testing.F) {
	f.Add([]byte(`{"kind":"record","schema":1,"sha256":"","body":{}}`))
	f.Add([]byte(`{"kind":"record","schema":9,"body":null}`))
	f.Add([]byte("{"))
	f.Add([]byte(`{"kind":"record","schema":1,"sha256":"ab12"`))
	f.Fuzz(func(t *testing.T, data []byte) {
		// The quick way to decode a head may refuse, but never differ from the general one.
		if quick, ok := plainHead(data); ok {
			var env envelope
			if err := strictDecode(append(bytes.Clone(data), '}'), &env); err != nil || !cmp.Equal(quick, env) {
				t.Errorf("%q: quickly %+v, else %+v, %v", data, quick, env, err)
			}
		}
		var rec machine.Record
		if err := decodeState(data, "record", machine.RecordSchema, &rec); err == nil && !strings.Contains(string(data), `"`) {
			t.Errorf("accepted %q", data)
		}
	})
}

// A link in place of a machine's folder leads to files that are somebody else's.
func TestNothingIsReachedThroughALink(t *testing.T) {
	s, p := newStore(t)
	victim := t.TempDir()
	for _, f := range []string{"file", "sub/deep", "record.json"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(victim, f)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(victim, f), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(victim, filepath.Join(p.Machines(), "planted")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.Machines(), "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"planted", "file"} {
		rec := machine.Record{Name: name, ID: machine.NewID()}
		_, loadErr := s.Load(name)
		for what, err := range map[string]error{"Load": loadErr, "Save": s.Save(rec), "Delete": s.Delete(name)} {
			if machine.CodeOf(err) != "env.ownership" {
				t.Errorf("%s of %s: %v", what, name, err)
			}
		}
	}
	// One inside of a folder goes, and what it leads to stays.
	rec := machine.Record{Name: "ours", ID: machine.NewID()}
	if err := s.Save(rec); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(p.Machine("ours", "").Dir, "inner")); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete("ours"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(p.Machine("ours", "").Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
	for _, f := range []string{"file", "sub/deep", "record.json"} {
		if _, err := os.Stat(filepath.Join(victim, f)); err != nil {
			t.Errorf("gone through a link: %v", err)
		}
	}
}
