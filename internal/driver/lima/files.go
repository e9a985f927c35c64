package lima

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// files are what a machine needs of this host, open, checked and named by their content.
type files struct {
	open   []*os.File
	assets map[string]sized // by key
	disks  map[machine.Role]drive
	kept   bool // the upper disk was sent before
}

type sized struct {
	file *os.File
	size int64
}

// drive is one of a machine's own.
type drive struct {
	sized
	passing bool // as role.Passing
}

func newFiles() *files {
	return &files{assets: map[string]sized{}, disks: map[machine.Role]drive{}}
}

func (f *files) close() {
	for _, file := range f.open {
		_ = file.Close()
	}
}

// boot opens all files of a machine.
func (f *files) boot(p probed, b machine.Boot) (start, error) {
	s := start{Driver: p.Driver, Boot: b, dir: b.Dir}
	s.Boot.Kernel, s.Boot.Initrd, s.Boot.Agent, s.Boot.Disks, s.Boot.Dir, s.Boot.RuntimeDir = machine.Kernel{}, "", "", nil, "", ""
	var err error
	if p.Caps.NeedsKernel {
		if s.Kernel, err = f.kernel(b.Kernel, b.Initrd); err != nil {
			return start{}, err
		}
	} else if s.Agent, err = f.asset(b.Agent); err != nil {
		return start{}, machine.Errorf("agent.missing", "just build", "the guest agent cannot be read: %w", err)
	}
	for _, d := range b.Disks {
		r := role{Role: d.Role, ReadOnly: d.ReadOnly, Kept: d.Kept}
		if d.Kept != "" {
			s.Roles = append(s.Roles, r)
			continue
		}
		file, err := f.disk(d)
		if err != nil {
			return start{}, err
		}
		switch {
		case d.Role == machine.RoleRoot:
			if s.Root, err = rootKey(file, d.ID); err != nil {
				return start{}, fmt.Errorf("reading the root file system: %w", err)
			}
			f.assets[s.Root] = file
		case d.Role == machine.RoleUpper || d.ReadOnly:
			// What this host keeps in memory is not on a disk there either.
			r.Passing = d.Role == machine.RoleConfig || d.Role == machine.RoleSecrets || filepath.Dir(d.Path) == b.RuntimeDir
			f.disks[d.Role] = drive{file, r.Passing}
		default: // what is written would be lost
			return start{}, machine.Errorf("volume.elsewhere", "use another volume, or another backend", "the volume %s is a disk image of this host, and a machine in the Lima virtual machine cannot attach one", d.Role)
		}
		s.Roles = append(s.Roles, r)
	}
	return s, nil
}

// kernel opens a kernel and its initramfs.
func (f *files) kernel(k machine.Kernel, initrd string) (kernel, error) {
	out := kernel{ID: k.ID, Release: k.Release}
	for _, x := range []struct {
		path string
		key  *string
	}{{k.BzImage, &out.BzImage}, {k.VMLinux, &out.VMLinux}, {initrd, &out.Initrd}} {
		if x.path == "" {
			continue // the inner backend says what is missing
		}
		key, err := f.asset(x.path)
		if err != nil {
			return kernel{}, machine.Errorf("boot.kernel_invalid", "run `mvmctl kernel fetch`, or give another with --kernel", "%s cannot be booted: %w", x.path, err)
		}
		*x.key = key
	}
	return out, nil
}

// asset opens a file that is kept by its content.
func (f *files) asset(path string) (string, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	f.open = append(f.open, file)
	x, err := regular(file)
	if err != nil {
		return "", err
	}
	key, err := contentKey(x)
	if err == nil {
		f.assets[key] = x
	}
	return key, err
}

func regular(file *os.File) (sized, error) {
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err != nil {
		return sized{}, err
	}
	return sized{file, info.Size()}, nil
}

// contentKey names a file by a digest of its content.
func contentKey(x sized) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(x.file, 0, x.size)); err != nil {
		return "", err
	}
	return "sha256-" + hex.EncodeToString(h.Sum(nil)), nil
}

// rootKey names a root file system, by what is known to name its content where that is so.
func rootKey(x sized, id string) (string, error) {
	if id == "" {
		return contentKey(x)
	}
	h := sha256.Sum256([]byte(id))
	return fmt.Sprintf("id-%s-%d", hex.EncodeToString(h[:]), x.size), nil
}

// disk opens a disk image, and refuses everything but a plain file that has one name.
func (f *files) disk(d machine.Disk) (sized, error) {
	file, err := vmm.OpenPlain(d.Path, os.O_RDONLY)
	if err != nil {
		return sized{}, vmm.DiskError(d, fmt.Errorf("opening disk %s: %w", d.Role, err))
	}
	f.open = append(f.open, file)
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return sized{}, vmm.DiskError(d, fmt.Errorf("examining disk %s: %w", d.Role, err))
	}
	if !d.ReadOnly && st.Nlink != 1 {
		return sized{}, vmm.Changed(d.Path, fmt.Sprintf("it has %d names", st.Nlink))
	}
	return sized{file, st.Size}, nil
}

// send opens the machine with this id, "" for none, in the virtual machine, and sends what is not
// there yet. The upper disk is sent once in a machine's life; from then on the virtual machine's is
// the one that counts.
func (f *files) send(ctx context.Context, s requester, id string) (opened, error) {
	var o opened
	req := opening{ID: id}
	for key := range f.assets {
		req.Assets = append(req.Assets, key)
	}
	if err := call(ctx, s, pathOpen, req, &o); err != nil {
		return o, err
	}
	for _, key := range o.Missing {
		x, ours := f.assets[key]
		if !ours {
			return o, machine.Errorf("lima.host", "report it", "the virtual machine asks for a file that is not the machine's")
		}
		if err := put(ctx, s, pathContent, url.Values{"key": {key}}, x); err != nil {
			return o, err
		}
	}
	if f.kept && !o.Upper {
		return o, machine.Errorf("lima.disk_gone", "`mvmctl reset` starts it with an empty disk; if MVM_LIMA_INSTANCE was changed, change it back",
			"the machine's disk is not in the Lima instance any more")
	}
	for role, x := range f.disks {
		if role == machine.RoleUpper && o.Upper {
			continue
		}
		q := url.Values{"role": {string(role)}}
		if x.passing {
			q.Set("passing", "1")
		}
		if err := put(ctx, s, pathDisk, q, x.sized); err != nil {
			return o, err
		}
	}
	return o, nil
}

// put sends one file.
func put(ctx context.Context, s requester, path string, q url.Values, x sized) error {
	q.Set("size", strconv.FormatInt(x.size, 10))
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(sendSparse(w, x.file, x.size)) }()
	defer func() { _ = r.Close() }()
	body, err := request(ctx, s, http.MethodPut, path+"?"+q.Encode(), r)
	if err != nil {
		return err
	}
	return body.Close()
}
