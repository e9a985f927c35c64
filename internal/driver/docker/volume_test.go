package docker

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// TestHold: of two machines that start at the same time one gets a volume, unless both only read it.
func TestHold(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "kept.json")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	write := attachment{disk: machine.Disk{Path: path}, mount: agentproto.Mount{Path: "/data"}}
	read := write
	read.mount.ReadOnly = true
	first, err := hold(write)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []attachment{write, read} {
		if _, err := hold(a); machine.CodeOf(err) != "volume.in_use" {
			t.Errorf("held twice: %v", err)
		}
	}
	release([]*os.File{first})
	for range 2 {
		f, err := hold(read)
		if err != nil {
			t.Fatalf("two that read: %v", err)
		}
		defer func() { _ = f.Close() }()
	}
	if _, err := hold(write); machine.CodeOf(err) != "volume.in_use" {
		t.Errorf("written while it is read: %v", err)
	}
}
