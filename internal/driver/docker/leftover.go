package docker

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

var _ driver.Forgetter = (*Driver)(nil)

// leftoverFolder, in the state folder, has a note for each container whose machine was deleted
// while its engine did not answer: called by the machine's ID, with the content of a marker.
const leftoverFolder = "docker-leftovers"

func (d *Driver) leftovers() string { return filepath.Join(d.opts.StateDir, leftoverFolder) }

// Forget implements driver.Forgetter.
func (d *Driver) Forget(id, dir string) error {
	socket, _, err := engineOf(dir)
	if err != nil || socket == "" || d.opts.StateDir == "" || !machine.ValidID(id) {
		return err
	}
	if err := os.MkdirAll(d.leftovers(), 0o700); err != nil {
		return machine.Errorf("state.readonly", "make the state folder writable", "noting a container that is to be deleted: %w", err)
	}
	return writeMarker(filepath.Join(d.leftovers(), id), making, socket)
}

// clearLeftovers deletes what machines left with this engine that were deleted without it. What
// cannot be deleted now stays noted.
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
		if err != nil || socket != c.socket || !machine.ValidID(n.Name()) {
			continue
		}
		if c.removeMachine(ctx, n.Name()) == nil {
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
