package volume

import (
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
	if err := s.Remove(t.Context(), "data", func() error { return inUse }); !errors.Is(err, inUse) {
		t.Errorf("removed while in use: %v", err)
	}
	free := func() error { return nil }
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
	err := s.Remove(t.Context(), "data", func() error {
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
