package volume

import (
	"os"
	"testing"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/machine"
)

func TestVolumes(t *testing.T) {
	t.Parallel()
	s := New(t.TempDir())
	if got := s.List(); len(got) != 0 {
		t.Fatalf("%v", got)
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
	list := s.List()
	if len(list) != 2 || list[0].Name != "data" || list[0].Size != 64<<20 || list[0].Used == 0 || list[0].Used > 8<<20 {
		t.Errorf("%+v", list)
	}
	if err := s.Remove(t.Context(), "data"); err != nil {
		t.Error(err)
	}
	if err := s.Remove(t.Context(), "data"); machine.CodeOf(err) != "volume.not_found" {
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
	if got := s.Names(); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}
