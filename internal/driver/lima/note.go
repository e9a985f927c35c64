package lima

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/disk"
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

// parseNote reads one. Earlier releases wrote nothing, or "kept", without the instance.
func parseNote(text string) (note, error) {
	state, instance, named := strings.Cut(strings.TrimSpace(text), " ")
	if named && !linuxenv.PlainName(instance) || !slices.Contains([]string{noteKept, noteMaking}, state) {
		return note{}, errors.New("it says nothing of a disk")
	}
	return note{kept: state == noteKept, instance: instance}, nil
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
	if n, err = parseNote(string(data)); err != nil {
		return note{}, true, machine.Errorf("state.corrupt", "look at the file; `mvmctl reset` starts the machine with an empty disk", "reading %s: %w", path, err)
	}
	return n, true, nil
}

func (n note) write(path string) error {
	// The old one or the new one, never half of it: without it the machine would get an empty disk.
	err := disk.Atomically(path, func(f *os.File) error {
		_, err := f.WriteString(n.String())
		return err
	})
	if err != nil {
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
	if machine.CodeOf(err) == "state.corrupt" {
		err = nil
	}
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
		id, isVolume := strings.CutPrefix(entry.Name(), volumeNote)
		if err != nil || !there || n.instance != d.opts.VM.Instance() || !plainID(id) {
			continue
		}
		if isVolume {
			err = call(ctx, s, pathDrop, keeping{ID: id}, nil)
		} else {
			err = call(ctx, s, pathRemove, opening{ID: id}, nil)
		}
		if err == nil {
			_ = os.Remove(path)
		}
	}
	_ = os.Remove(d.leftovers()) // when it is empty
}
