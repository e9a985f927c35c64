package docker

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

var _ driver.Forgetter = (*Driver)(nil)

// leftoverFolder, in the state folder, has a note for each container whose machine was deleted
// while its engine did not answer: called by the machine's ID, with the content of a marker. So it
// has for each volume whose making failed and that may be there, called by the prefix and its ID.
const (
	leftoverFolder = "docker-leftovers"
	leftVolume     = "volume-"
)

func (d *Driver) leftovers() string { return filepath.Join(d.opts.StateDir, leftoverFolder) }

// Forget implements driver.Forgetter.
func (d *Driver) Forget(id, dir string) error {
	socket, _, err := engineOf(dir)
	if err != nil || socket == "" || d.opts.StateDir == "" || !machine.ValidID(id) {
		return err
	}
	return d.leave(id, socket)
}

// leave notes what is to be deleted.
func (d *Driver) leave(name, socket string) error {
	if err := os.MkdirAll(d.leftovers(), 0o700); err != nil {
		return machine.Errorf("state.readonly", "make the state folder writable", "noting what is to be deleted from the Docker engine: %w", err)
	}
	return writeMarker(filepath.Join(d.leftovers(), name), making, socket)
}

// leaveVolume notes a volume that an engine may have made, or may make yet, and that nobody knows of.
func (d *Driver) leaveVolume(id, socket string) error {
	if d.opts.StateDir == "" || !machine.ValidID(id) {
		return nil
	}
	return d.leave(leftVolume+id, socket)
}

// keepsVolume takes such a note back, before the volume is made after all.
func (d *Driver) keepsVolume(id string) error {
	if d.opts.StateDir == "" || !machine.ValidID(id) {
		return nil
	}
	if err := os.Remove(filepath.Join(d.leftovers(), leftVolume+id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return machine.Errorf("state.readonly", "make the state folder writable", "a volume that was to be deleted is wanted: %w", err)
	}
	_ = os.Remove(d.leftovers()) // when it is empty
	return nil
}

// clearLeftovers deletes what machines left with this engine that were deleted without it, and
// volumes that came to be when nobody waited any more. What cannot be deleted now stays noted.
func (d *Driver) clearLeftovers(ctx context.Context, c *client) {
	if d.opts.StateDir == "" {
		return
	}
	notes, err := os.ReadDir(d.leftovers())
	if err != nil || len(notes) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for _, n := range notes {
		note := filepath.Join(d.leftovers(), n.Name())
		socket, _, err := readMarker(note)
		id, volume := strings.CutPrefix(n.Name(), leftVolume)
		if err != nil || socket != c.socket || !machine.ValidID(id) {
			continue
		}
		if volume {
			err = c.dropVolume(ctx, id)
		} else {
			err = c.removeMachine(ctx, id)
		}
		if err == nil {
			_ = os.Remove(note)
		}
	}
	_ = os.Remove(d.leftovers()) // when it is empty
}

// removeMachine deletes a machine's container. It is success when there is none.
func (c *client) removeMachine(ctx context.Context, id string) error {
	var have inspected
	err := c.get(ctx, "/containers/"+containerName(id)+"/json", nil, &have)
	if err == nil && have.Config.Labels[labelMachine] == id { // else it is somebody else's
		err = c.remove(ctx, have.ID)
	}
	if err == nil || isStatus(err, http.StatusNotFound) {
		return nil
	}
	return engineError(ctx, "removing the machine's container", err)
}

// forgetMarker deletes what says that a machine has a container.
func forgetMarker(dir string) error {
	err := os.RemoveAll(filepath.Join(dir, ownFolder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return machine.Errorf("state.readonly", "make the machine's folder writable", "forgetting the machine's container: %w", err)
	}
	return nil
}
