package lima

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/linuxenv"
	"github.com/mvmctl/mvmctl/internal/machine"
)

const (
	// marker is a file in a machine's folder: its disk is in the virtual machine.
	marker = "lima"

	// leftoverFolder, in the state folder, has a note for each machine that was deleted while its virtual
	// machine could not be asked: called by the machine's ID, with the content of a marker.
	leftoverFolder = "lima-leftovers"

	leftoverTime = 10 * time.Second // for deleting what they left
)

// note is what a marker says.
type note struct {
	kept     bool   // the disk is there; else it may be
	instance string // the virtual machine; "" when it is not known, from an earlier release
}

const (
	noteKept   = "kept"
	noteMaking = "making"
)

// String returns the marker's content.
func (n note) String() string {
	state := noteMaking
	if n.kept {
		state = noteKept
	}
	return state + " " + n.instance + "\n"
}

func parseNote(text string) note {
	state, instance, _ := strings.Cut(strings.TrimSpace(text), " ")
	if !linuxenv.PlainName(instance) {
		instance = ""
	}
	return note{kept: state == noteKept, instance: instance}
}

// readNote reads a marker. One that is not there is no error.
func readNote(path string) (n note, there bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return note{}, false, nil
	}
	var data []byte
	if err == nil {
		data, err = io.ReadAll(io.LimitReader(f, 1<<10))
		_ = f.Close()
	}
	if err != nil {
		return note{}, false, machine.Errorf("state.readonly", "make the machine's folder readable", "finding out where the machine's disk is: %w", err)
	}
	return parseNote(string(data)), true, nil
}

func (n note) write(path string) error {
	if err := os.WriteFile(path, []byte(n.String()), 0o600); err != nil {
		return machine.Errorf("state.readonly", "make the machine's folder writable", "noting where the machine's disk is: %w", err)
	}
	return nil
}

// elsewhere says that a machine's disk is in another virtual machine than this one.
func (n note) elsewhere(instance string) error {
	if n.instance == "" || n.instance == instance {
		return nil
	}
	return machine.Errorf("lima.disk_elsewhere", "set MVM_LIMA_INSTANCE="+n.instance+" for it", "the machine's disk is in the Lima instance %s, and this is %s", n.instance, instance)
}

var _ driver.Forgetter = (*Driver)(nil)

func (d *Driver) leftovers() string { return filepath.Join(d.opts.StateDir, leftoverFolder) }

// Forget implements driver.Forgetter.
func (d *Driver) Forget(id, dir string) error {
	if d.opts.StateDir == "" || !plainID(id) {
		return nil
	}
	n, there, err := readNote(filepath.Join(dir, marker))
	if err != nil || !there {
		return err
	}
	if n.instance == "" {
		n.instance = d.opts.VM.Instance()
	}
	if err := os.MkdirAll(d.leftovers(), 0o700); err != nil {
		return machine.Errorf("state.readonly", "make the state folder writable", "noting a disk that is to be deleted: %w", err)
	}
	return n.write(filepath.Join(d.leftovers(), id))
}

// clearLeftovers deletes what machines left in this virtual machine that were deleted without it. What
// cannot be deleted now stays noted.
func (d *Driver) clearLeftovers(ctx context.Context, s requester) {
	if d.opts.StateDir == "" {
		return
	}
	notes, err := os.ReadDir(d.leftovers())
	if err != nil || len(notes) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, leftoverTime)
	defer cancel()
	for _, entry := range notes {
		path := filepath.Join(d.leftovers(), entry.Name())
		n, there, err := readNote(path)
		if err != nil || !there || n.instance != d.opts.VM.Instance() || !plainID(entry.Name()) {
			continue
		}
		if call(ctx, s, pathRemove, opening{ID: entry.Name()}, nil) == nil {
			_ = os.Remove(path)
		}
	}
	_ = os.Remove(d.leftovers()) // when it is empty
}
