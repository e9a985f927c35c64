package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/machine"
)

func TestVolumes(t *testing.T) {
	t.Parallel()
	s := New(t.TempDir())
	if got, err := s.List(); len(got) != 0 || err != nil {
		t.Fatalf("%v, %v", got, err)
	}
	path, err := s.Ensure(t.Context(), "data", 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if fs, err := disk.Open(f, 64<<20); err != nil || !fs.Info().HasJournal {
		t.Errorf("the volume's file system: %v", err)
	}
	if again, err := s.Ensure(t.Context(), "data", 0); err != nil || again != path {
		t.Errorf("asked for again: %s, %v", again, err)
	}
	if _, err := s.Ensure(t.Context(), "data", 32<<20); machine.CodeOf(err) != "volume.exists" {
		t.Errorf("with another size: %v", err)
	}
	// A name that could be one of the store's own files, or lead out of it.
	if _, err := s.Ensure(t.Context(), "lock", 16<<20); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"", "..", "a/b", "A"} {
		if _, err := s.Ensure(t.Context(), name, 0); machine.CodeOf(err) != "name.invalid" {
			t.Errorf("%q: %v", name, err)
		}
	}
	list, err := s.List()
	if err != nil || len(list) != 2 || list[0].Name != "data" || list[0].Size != 64<<20 || list[0].Used == 0 || list[0].Used > 8<<20 {
		t.Errorf("%+v", list)
	}
	inUse := errors.New("in use")
	if err := s.Remove(t.Context(), "data", func(Info) error { return inUse }); !errors.Is(err, inUse) {
		t.Errorf("removed while in use: %v", err)
	}
	free := func(Info) error { return nil }
	if err := s.Remove(t.Context(), "data", free); err != nil {
		t.Error(err)
	}
	if err := s.Remove(t.Context(), "data", free); machine.CodeOf(err) != "volume.not_found" {
		t.Errorf("removed again: %v", err)
	}
}

// A volume that cannot be made leaves nothing behind.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	s := New(t.TempDir())
	if _, err := s.Ensure(t.Context(), "data", 4096); err == nil {
		t.Fatal("a volume of one block was made")
	}
	if got, err := s.Names(); len(got) != 0 || err != nil {
		t.Errorf("left: %v, %v", got, err)
	}
}

// A size that is no whole number of blocks is the same size when it is asked for again.
func TestOddSize(t *testing.T) {
	t.Parallel()
	s := New(t.TempDir())
	for range 2 {
		if _, err := s.Ensure(t.Context(), "data", 100000001); err != nil {
			t.Error(err)
		}
	}
	if info, err := s.Get("data"); err != nil || info.Size != 100000001&^4095 {
		t.Errorf("%+v, %v", info, err)
	}
}

// Of two that make the same volume at a time with different sizes, one is refused.
func TestTwoSizesAtOnce(t *testing.T) {
	t.Parallel()
	s := New(t.TempDir())
	errs := make(chan error)
	for _, size := range []int64{32 << 20, 64 << 20} {
		go func() {
			_, err := s.Ensure(t.Context(), "data", size)
			errs <- err
		}()
	}
	one, two := <-errs, <-errs
	if (one == nil) == (two == nil) || machine.CodeOf(errors.Join(one, two)) != "volume.exists" {
		t.Errorf("%v and %v", one, two)
	}
}

// While somebody decides whether a volume may go, nobody can attach it.
func TestRemoveDecidesInTheLock(t *testing.T) {
	t.Parallel()
	s := New(t.TempDir())
	if _, err := s.Ensure(t.Context(), "data", 32<<20); err != nil {
		t.Fatal(err)
	}
	attached := make(chan error, 1)
	err := s.Remove(t.Context(), "data", func(Info) error {
		go func() {
			path, err := s.Ensure(t.Context(), "data", 64<<20)
			if err == nil {
				_, err = os.Stat(path)
			}
			attached <- err
		}()
		select {
		case err := <-attached:
			t.Errorf("it was attached meanwhile: %v", err)
		case <-time.After(50 * time.Millisecond): // it has to wait; a slow host only sees less
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-attached; err != nil {
		t.Error(err)
	}
}

// Volumes that cannot be listed are no empty list.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	if err := os.WriteFile(filepath.Join(data, "volumes"), nil, 0o600); err != nil { // root ignores modes
		t.Fatal(err)
	}
	s := New(data)
	if _, err := s.Names(); machine.CodeOf(err) != "state.unreadable" {
		t.Error(err)
	}
	if _, err := s.List(); machine.CodeOf(err) != "state.unreadable" {
		t.Error(err)
	}
}

// A volume that a backend keeps stays with it, and a disk image with those that can attach one.
func TestKept(t *testing.T) {
	t.Parallel()
	s := New(t.TempDir())
	var made []string
	keep := func(_ context.Context, id string, _ int64) (string, int64, error) {
		made = append(made, id)
		return "there", 0, nil
	}
	info, err := s.Keep(t.Context(), "data", 0, "boat", keep)
	if err != nil || info.KeptBy != "boat" || info.KeptAt != "there" || info.Kept != made[0] {
		t.Fatalf("%+v, %v", info, err)
	}
	if again, err := s.Keep(t.Context(), "data", 0, "boat", keep); err != nil || again.Kept != info.Kept || len(made) != 1 {
		t.Errorf("asked for again: %+v, %v, made %v", again, err, made)
	}
	if _, err := s.Ensure(t.Context(), "data", 0); machine.CodeOf(err) != "volume.elsewhere" {
		t.Errorf("as an image: %v", err)
	}
	if _, err := s.Keep(t.Context(), "data", 0, "train", keep); machine.CodeOf(err) != "volume.elsewhere" {
		t.Errorf("by another backend: %v", err)
	}
	if _, err := s.Ensure(t.Context(), "image", 16<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Keep(t.Context(), "image", 0, "boat", keep); machine.CodeOf(err) != "volume.elsewhere" {
		t.Errorf("an image: %v", err)
	}
	list, err := s.List()
	if err != nil || len(list) != 2 || list[0].KeptBy != "boat" || list[1].KeptBy != "" {
		t.Errorf("%+v, %v", list, err)
	}
	dropped := ""
	if err := s.Remove(t.Context(), "data", func(i Info) error { dropped = i.Kept; return nil }); err != nil || dropped != info.Kept {
		t.Errorf("dropped %q, %v", dropped, err)
	}
	if _, err := s.Get("data"); machine.CodeOf(err) != "volume.not_found" {
		t.Error(err)
	}
}

// What was made without a machine becomes what its first machine needs; after that it stays so.
func TestKeptAfterCreate(t *testing.T) {
	t.Parallel()
	s := New(t.TempDir())
	keep := func(_ context.Context, _ string, size int64) (string, int64, error) { return "there", size + 4096, nil }
	for _, name := range []string{"one", "two"} {
		if err := s.Create(t.Context(), name, 16<<20); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Create(t.Context(), "one", 0); err != nil {
		t.Errorf("made again: %v", err)
	}
	one, err := s.Keep(t.Context(), "one", 0, "boat", keep)
	if err != nil || one.KeptBy != "boat" || one.Size != 16<<20+4096 || !one.Held { // what the backend says
		t.Errorf("%+v, %v", one, err)
	}
	if _, err := os.Lstat(filepath.Join(s.place("one"), imageFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the image is left: %v", err)
	}
	if _, err := s.Ensure(t.Context(), "two", 0); err != nil {
		t.Error(err)
	}
	if _, err := s.Keep(t.Context(), "two", 0, "boat", keep); machine.CodeOf(err) != "volume.elsewhere" {
		t.Errorf("after a machine had it: %v", err)
	}
}

// A backend that fails leaves no volume, and one that was interrupted is asked again by the same name.
func TestKeptInterrupted(t *testing.T) {
	t.Parallel()
	s := New(t.TempDir())
	broken := errors.New("broken")
	if _, err := s.Keep(t.Context(), "data", 0, "boat", func(context.Context, string, int64) (string, int64, error) { return "", 0, broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	if names, err := s.Names(); len(names) != 0 || err != nil {
		t.Errorf("left: %v, %v", names, err)
	}
	if err := s.write("data", note{Backend: "boat", ID: "0123456789abcdef"}); err != nil {
		t.Fatal(err)
	}
	info, err := s.Keep(t.Context(), "data", 0, "boat", func(_ context.Context, id string, _ int64) (string, int64, error) { return id, 0, nil })
	if err != nil || info.KeptAt != "0123456789abcdef" {
		t.Errorf("%+v, %v", info, err)
	}
	if err := os.WriteFile(filepath.Join(s.place("data"), keptFile), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Ensure(t.Context(), "data", 0); machine.CodeOf(err) != "state.corrupt" {
		t.Errorf("with a note that says nothing: %v", err)
	}
}

// A volume that was made half and then used is used: no backend may take its image away.
func TestUsedAfterAHalfCreate(t *testing.T) {
	t.Parallel()
	s := New(t.TempDir())
	if err := s.Create(t.Context(), "data", 64<<20); err != nil {
		t.Fatal(err)
	}
	info, err := s.Get("data")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(info.Path); err != nil { // as if it had been killed before
		t.Fatal(err)
	}
	path, err := s.Ensure(t.Context(), "data", 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	keep := func(context.Context, string, int64) (string, int64, error) { return "somewhere", 0, nil }
	if _, err := s.Keep(t.Context(), "data", 0, "other", keep); machine.CodeOf(err) != "volume.elsewhere" {
		t.Errorf("it was given to another backend: %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("its data: %v", err)
	}
}
