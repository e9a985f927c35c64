package engine

import (
	"context"
	"testing"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/volume"
)

// TestWhoHasVolumes: a new machine goes to the backend that can attach the volumes that exist.
func TestWhoHasVolumes(t *testing.T) {
	t.Parallel()
	e := New(Parts{VolumeStore: volume.New(t.TempDir())})
	store := e.VolumeStore
	keep := func(context.Context, string, int64) (string, int64, error) { return "there", 0, nil }
	if _, err := store.Keep(t.Context(), "kept", 0, "boat", keep); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Ensure(t.Context(), "image", machine.MinDisk); err != nil {
		t.Fatal(err)
	}
	if err := store.Create(t.Context(), "unused", machine.MinDisk); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		backend string
		images  bool
	}{"kept": {"boat", false}, "image": {"", true}, "unused": {}, "new": {}} {
		spec := machine.Spec{Volumes: []machine.Volume{{Kind: machine.VolumeConfig, Source: "/x"}, {Kind: machine.VolumeData, Source: name}}}
		if backend, images := e.whoHasVolumes(spec); backend != want.backend || images != want.images {
			t.Errorf("%s: %q, %v, want %+v", name, backend, images, want)
		}
	}
}
