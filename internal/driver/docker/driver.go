package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// Options configure a Driver.
type Options struct {
	Getenv   func(string) string // of the user: where the engine is; nil: os.Getenv
	StateDir string              // where it is noted what is left to delete; "": nowhere
}

// Driver implements driver.Driver.
type Driver struct{ opts Options }

var (
	_ driver.Driver  = (*Driver)(nil)
	_ driver.Remover = (*Driver)(nil)
	_ driver.Pruner  = (*Driver)(nil)
	_ driver.Thawer  = (*Driver)(nil)
)

// New returns a driver. It touches nothing.
func New(o Options) *Driver {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	return &Driver{opts: o}
}

// Name implements driver.Driver.
func (d *Driver) Name() string { return "docker" }

// client connects to the engine that has the machine with the folder dir, or else to the one that
// the user has chosen.
func (d *Driver) client(ctx context.Context, dir string) (*client, error) {
	socket := ""
	var err error
	if dir != "" {
		socket, _, err = engineOf(dir)
	}
	if err == nil && socket == "" {
		socket, err = findSocket(d.opts.Getenv)
	}
	if err != nil {
		return nil, err
	}
	return connect(ctx, socket)
}

// Probe implements driver.Driver: an engine answers, and runs Linux containers of this processor.
func (d *Driver) Probe(ctx context.Context) (driver.Capabilities, error) {
	c, err := d.client(ctx, "")
	if err != nil {
		return driver.Capabilities{}, err
	}
	caps := driver.Capabilities{
		Version: strings.Trim(quote(c.info.ServerVersion), `"`), Isolation: driver.IsolationContainer, MaxCPUs: c.info.NCPU,
		Transport: "exec-stream", BinaryPath: c.socket, Lacks: []driver.Feature{driver.FeatureImages, driver.FeatureInit},
		Notes: []string{"a container shares the host's kernel, and its disk and volumes have no limit of their own"},
	}
	if !c.info.MemoryLimit {
		caps.Notes = append(caps.Notes, "this engine does not limit memory: it needs the memory cgroup (`docker info` says so)")
	}
	if !c.info.CPUCfsQuota {
		caps.Notes = append(caps.Notes, "this engine does not limit processors: it needs the cpu cgroup (`docker info` says so)")
	}
	return caps, nil
}

// prepared is what a container is made of.
type prepared struct {
	root   string // what names the root file system
	image  string // the engine's image of it
	agent  string // path of the agent, the same for all starts of the machine
	config config

	volumes []attachment
}

// Start implements driver.Driver.
func (d *Driver) Start(ctx context.Context, b machine.Boot, out driver.Output) (driver.VM, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if out.Console == nil {
		out.Console = io.Discard
	}
	if out.VMM == nil {
		out.VMM = io.Discard
	}
	root, p, err := openDisks(b)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	c, err := d.client(ctx, b.Dir)
	if err != nil {
		return nil, err
	}
	d.clearLeftovers(ctx, c)
	return c.start(ctx, b, root, p, out)
}

// start makes the container and starts it. When it fails, a container that it made is gone again, or noted (unmake).
func (c *client) start(ctx context.Context, b machine.Boot, root *os.File, p prepared, out driver.Output) (driver.VM, error) {
	_, err := os.Lstat(ownDir(b))
	known := err == nil
	fail := func(err error) (driver.VM, error) {
		if _, unmarked := os.Lstat(filepath.Join(b.Dir, marker)); !known && unmarked != nil {
			_ = os.RemoveAll(ownDir(b))
		}
		return nil, err
	}
	if p.agent, err = installAgent(b); err != nil {
		return fail(err)
	}
	if p.root, err = rootOf(ctx, root, rootDisk(b)); err != nil {
		return fail(err)
	}
	held, err := c.prepareVolumes(ctx, p)
	if err != nil {
		p.forgetCopies()
		return fail(err)
	}
	over := func() { // also when it never began
		p.forgetCopies()
		release(held)
	}
	image := func() (string, error) { return c.ensureImage(ctx, root, p.root, out.VMM) }
	id, fresh, err := c.ensureContainer(ctx, b, image, p)
	if err != nil {
		over()
		return fail(err)
	}
	v, err := c.run(ctx, id, p.config, out, over)
	if err == nil {
		p.forgetSecrets()
	} else {
		over()
		if fresh {
			err = errors.Join(err, c.unmake(ctx, b))
		}
		return fail(err)
	}
	return v, nil
}

// Remove implements driver.Remover: it deletes the machine's container and with it all that the
// machine has written.
func (d *Driver) Remove(ctx context.Context, id, dir string) error {
	c, err := d.client(ctx, dir)
	if err != nil {
		return err
	}
	d.clearLeftovers(ctx, c)
	if err := c.removeMachine(ctx, id); err != nil {
		return err
	}
	return forgetMarker(dir)
}

// Thaw implements driver.Thawer: the processes of a frozen container cannot be ended.
func (d *Driver) Thaw(ctx context.Context, id, dir string) error {
	c, err := d.client(ctx, dir)
	if err != nil {
		return err
	}
	var have inspected
	err = c.get(ctx, "/containers/"+containerName(id)+"/json", nil, &have)
	switch {
	case isStatus(err, http.StatusNotFound):
		return nil
	case err != nil:
		return engineError(ctx, "looking for the machine's container", err)
	case have.Config.Labels[labelMachine] != id || !have.State.Paused:
		return nil
	}
	if err := c.turn(ctx, have.ID, false); err != nil {
		return err
	}
	return c.end(ctx, have.ID)
}

func rootDisk(b machine.Boot) machine.Disk {
	i := slices.IndexFunc(b.Disks, func(d machine.Disk) bool { return d.Role == machine.RoleRoot })
	if i < 0 {
		return machine.Disk{}
	}
	return b.Disks[i]
}

// openDisks opens the root file system and reads the configuration. The upper disk stays unused:
// the container keeps what the machine writes.
func openDisks(b machine.Boot) (*os.File, prepared, error) {
	var p prepared
	for _, d := range b.Disks {
		var err error
		switch d.Role {
		case machine.RoleRoot, machine.RoleUpper:
		case machine.RoleConfig:
			p.config, err = readConfig(d.Path)
		}
		if err != nil {
			return nil, prepared{}, err
		}
	}
	if p.config.data == nil {
		return nil, prepared{}, machine.Errorf("backend.engine", "use an image with a root file system", "the machine has no config drive: %w", os.ErrNotExist)
	}
	var err error
	if p.volumes, err = attachments(b, p.config.mounts); err != nil {
		return nil, prepared{}, err
	}
	root, err := os.Open(rootDisk(b).Path)
	if err != nil {
		return nil, prepared{}, fmt.Errorf("reading the root file system: %w", err)
	}
	return root, p, nil
}

// installAgent copies the agent to where the container's mount finds it at every start. A container
// keeps its mounts for good, and the agent must be that of the mvmctl which starts it.
func installAgent(b machine.Boot) (path string, err error) {
	fail := func(err error) (string, error) {
		return "", machine.Errorf("agent.missing", "just build", "copying the guest agent: %w", err)
	}
	in, err := os.Open(b.Agent)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = in.Close() }()
	if err := os.MkdirAll(ownDir(b), 0o700); err != nil {
		return fail(err)
	}
	path = filepath.Join(ownDir(b), "agent")
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fail(err)
	}
	out, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755) //nolint:gosec // the guest runs it
	if err != nil {
		return fail(err)
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Chmod(0o755), out.Close()); err == nil { //nolint:gosec // whatever the umask is
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return fail(err)
	}
	return path, nil
}
