package docker

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

var _ driver.VolumeKeeper = (*Driver)(nil)

// Labels of volumes: what makes one ours, and on containers, what is mounted into them.
const (
	labelVolume = "io.mvmctl.volume"
	labelMounts = "io.mvmctl.mounts"
)

const remedyEngine = "use the engine that has it: DOCKER_HOST or the docker context says which is used"

func volumeName(id string) string { return "mvmctl-volume-" + id }

// KeepVolume implements driver.VolumeKeeper: the volume is one of the engine's own.
func (d *Driver) KeepVolume(ctx context.Context, v driver.Volume) (at string, size int64, err error) {
	c, err := d.client(ctx, "")
	if err != nil {
		return "", 0, err
	}
	if err := d.keepsVolume(v.ID); err != nil { // of an earlier try
		return "", 0, err
	}
	d.clearLeftovers(ctx, c)
	in := map[string]any{"Name": volumeName(v.ID), "Driver": "local", "Labels": map[string]string{labelVolume: v.ID, labelName: v.Name}}
	if err := c.post(ctx, "/volumes/create", nil, in, nil); err != nil {
		err = engineError(ctx, "making a volume", err)
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingTimeout)
		defer cancel()
		if c.dropVolume(clean, v.ID) != nil { // it may have been made while we stopped listening, or be made yet
			err = errors.Join(err, d.leaveVolume(v.ID, c.socket))
		}
		return "", 0, err
	}
	return c.socket, 0, nil
}

// DropVolume implements driver.VolumeKeeper.
func (d *Driver) DropVolume(ctx context.Context, id, at string) error {
	c, err := d.volumeEngine(ctx, id, at)
	if err != nil {
		return err
	}
	d.clearLeftovers(ctx, c) // one of them may have it
	return c.dropVolume(ctx, id)
}

// volumeEngine connects to the engine that has a volume: the one at the socket at, or when nothing
// answers there the one that the user has chosen, if the volume shows that it is the same one.
func (d *Driver) volumeEngine(ctx context.Context, id, at string) (*client, error) {
	if at == "" {
		return d.client(ctx, "")
	}
	c, err := connect(ctx, at)
	if machine.CodeOf(err) != "backend.missing" {
		return c, err
	}
	chosen, ferr := d.client(ctx, "")
	if ferr == nil && chosen.socket != at {
		has, herr := chosen.hasVolume(ctx, id)
		if has {
			return chosen, nil
		}
		if herr != nil {
			err = errors.Join(err, engineError(ctx, "looking for the volume at "+chosen.socket, herr))
		}
	}
	return nil, driver.Unavailable("backend.missing", remedyStart+"; one that has moved is found through DOCKER_HOST or the docker context", "the volume is with an engine that is not there: %w", err)
}

// hasVolume reports whether the engine has a volume of ours.
func (c *client) hasVolume(ctx context.Context, id string) (bool, error) {
	var have struct{ Labels map[string]string }
	err := c.get(ctx, "/volumes/"+volumeName(id), nil, &have)
	if isStatus(err, http.StatusNotFound) {
		return false, nil
	}
	return err == nil && have.Labels[labelVolume] == id, err
}

// dropVolume deletes a volume. It is success when there is none.
func (c *client) dropVolume(ctx context.Context, id string) error {
	err := c.call(ctx, callTimeout, http.MethodDelete, "/volumes/"+volumeName(id), nil, nil, nil)
	switch {
	case err == nil, isStatus(err, http.StatusNotFound):
		return nil
	case isStatus(err, http.StatusConflict):
		return machine.Errorf("volume.in_use", "remove the containers that have it: `docker ps -a --filter volume="+volumeName(id)+"`",
			"a container of the engine still has the volume: %w", err)
	}
	return engineError(ctx, "removing a volume", err)
}

// findVolume refuses a volume that the engine does not have: making an empty one in its place would
// hide that the data is elsewhere, or lost.
func (c *client) findVolume(ctx context.Context, m agentproto.Mount, id string) error {
	has, err := c.hasVolume(ctx, id)
	switch {
	case err != nil:
		return engineError(ctx, "looking for a volume", err)
	case !has:
		return machine.Errorf("volume.gone", remedyEngine+"; if somebody deleted it, `mvmctl volume rm` forgets it",
			"the volume for %s is not with the Docker engine at %s: there is no %s", m.Path, c.socket, volumeName(id))
	}
	return nil
}

// attachment is a volume of a machine that starts.
type attachment struct {
	disk  machine.Disk
	mount agentproto.Mount
	copy  string // folder into which its image is unpacked, "" for a volume that the engine keeps
	link  string // what leads to copy from where the container looks for it, "" when it looks there
}

// at is where the container looks for what was copied in.
func (a attachment) at() string { return cmp.Or(a.link, a.copy) }

// place makes the link.
func (a attachment) place() error {
	if a.link == "" {
		return nil
	}
	if err := os.Remove(a.link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(a.copy, a.link)
}

// attachments puts the machine's disks and what its configuration says of them together.
func attachments(b machine.Boot, mounts []agentproto.Mount) ([]attachment, error) {
	var out []attachment
	for _, d := range b.Disks {
		if !strings.HasPrefix(string(d.Role), "volume") {
			continue
		}
		i := slices.IndexFunc(mounts, func(m agentproto.Mount) bool { return m.Serial == d.Serial() })
		if i < 0 {
			return nil, machine.Errorf("backend.volume", "report it, with the machine's boot.json", "nothing says where the volume %s goes", d.Role)
		}
		a := attachment{disk: d, mount: mounts[i]}
		switch {
		case a.mount.Keep && (d.Kept == "" || !machine.ValidID(d.Kept)):
			return nil, machine.Errorf("volume.elsewhere", "use another volume, or a backend that boots a kernel for it: --hypervisor qemu",
				"the volume for %s is a disk image, and a container cannot attach one", a.mount.Path)
		case a.mount.Keep:
		case a.mount.Memory: // the folder for sockets is in memory on usual hosts, and goes with the machine on all
			a.copy = filepath.Join(b.RuntimeDir, ownFolder, string(d.Role))
			a.link = filepath.Join(ownDir(b), string(d.Role)+".memory") // a session of another kind has another such folder
		default:
			a.copy = filepath.Join(ownDir(b), string(d.Role))
		}
		out = append(out, a)
	}
	return out, nil
}

// mounts are those of the container, in an order of their own.
func (p prepared) mounts() []mount {
	var out []mount
	for _, a := range p.volumes {
		m := mount{Target: a.mount.Path, ReadOnly: a.mount.ReadOnly}
		if a.copy == "" {
			m.Type, m.Source = "volume", volumeName(a.disk.Kept)
			m.VolumeOptions = &volumeOptions{NoCopy: a.mount.ReadOnly} // else what the image has there fills an empty one
		} else {
			m.Type, m.Source, m.ReadOnly = "bind", filepath.Join(a.at(), a.mount.Entry), true
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b mount) int { return strings.Compare(a.Target, b.Target) })
	return out
}

// mountsID names what is mounted into a container, "" for nothing.
func (p prepared) mountsID() string {
	mounts := p.mounts()
	if len(mounts) == 0 {
		return ""
	}
	data, _ := json.Marshal(mounts) // strings and booleans cannot fail
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// prepareVolumes takes the machine's volumes for itself and copies in what is new at each start. The
// files that it returns hold the volumes until they are closed.
func (c *client) prepareVolumes(ctx context.Context, p prepared) (held []*os.File, err error) {
	defer func() {
		if err != nil {
			release(held)
			held = nil
		}
	}()
	for _, a := range p.volumes {
		if a.copy == "" {
			f, err := hold(a)
			if err != nil {
				return held, err
			}
			held = append(held, f)
			if err := c.findVolume(ctx, a.mount, a.disk.Kept); err != nil {
				return held, err
			}
			continue
		}
		err := unpackImage(ctx, a.disk.Path, a.copy)
		if err == nil {
			err = a.place()
		}
		if err != nil {
			return held, fmt.Errorf("copying in what is for %s: %w", a.mount.Path, err)
		}
	}
	return held, nil
}

// hold locks the file that stands for a volume, as a VMM does with a disk image.
func hold(a attachment) (*os.File, error) {
	f, err := os.Open(a.disk.Path)
	if err != nil {
		return nil, fmt.Errorf("attaching the volume for %s: %w", a.mount.Path, err)
	}
	if err := lockFile(f, a.mount.ReadOnly); err != nil {
		_ = f.Close()
		return nil, machine.Errorf("volume.in_use", "stop the machine that has it: `mvmctl volume ls` says which",
			"the volume for %s is attached to another running machine, and only one at a time can have a volume that is written", a.mount.Path)
	}
	return f, nil
}

func release(held []*os.File) {
	for _, f := range held {
		_ = f.Close()
	}
}

// forgetSecrets takes the name from each file with a secret, which the container, that has it by
// now, does not need. A folder with secrets stays in the machine's runtime folder until its end.
func (p prepared) forgetSecrets() {
	for _, a := range p.volumes {
		if a.mount.Memory && a.mount.Entry != "" {
			_ = os.Remove(filepath.Join(a.copy, a.mount.Entry))
		}
	}
}

// forgetCopies deletes what was copied in, for good: after the machine's end, or a failed start.
func (p prepared) forgetCopies() {
	for _, a := range p.volumes {
		if a.copy != "" {
			_ = os.RemoveAll(a.copy)
		}
		if a.link != "" {
			_ = os.Remove(a.link)
		}
	}
}

// differentMounts refuses a container that was made with other volumes.
func differentMounts(b machine.Boot) error {
	return machine.Errorf("backend.mounts", fmt.Sprintf("start it with the volumes it had; or keep what it wrote, `mvmctl commit %s IMAGE`, and start another from that; or `mvmctl reset %s`", b.Name, b.Name),
		"machine %q was made with other volumes, and those of a container cannot be changed", b.Name)
}
