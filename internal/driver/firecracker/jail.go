package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// Bounds of a jailed Firecracker beside those of the guest.
const (
	jailMemory = 128 << 20 // what it may use beyond the guest's memory
	jailPids   = 16        // threads beyond one per virtual processor
	jailFiles  = 1024      // descriptors: 64 connections to the agent, drives, events
	cgroupRoot = "/sys/fs/cgroup"
	cgroupName = "mvm"
)

// firstUID begins the user ids of jails: 2^27 of them from 0x70000000, which no distribution or
// container manager hands out (systemd's docs/UIDS-GIDS.md).
const (
	firstUID = 0x70000000
	uidBits  = 27
)

// jail is the root directory of one jailed Firecracker.
type jail struct {
	base   string // everything of the jail is below this folder of the machine
	root   string
	uid    int
	cgroup string // "": none
	placed []string
	binds  []string // files and where to mount them, in turn
	borrow []borrowed
}

// borrowed is a file of the machine that belongs to the jail's user while it runs.
type borrowed struct {
	file     *os.File
	uid, gid int
}

// findJailer decides whether machines are jailed, and notes why not. uid is that of this process.
func (d *Driver) findJailer(ctx context.Context, h *host, uid int) {
	path := filepath.Join(filepath.Dir(h.bin.Path), "jailer")
	if uid != 0 {
		h.notes = append(h.notes, "Firecracker runs with your own rights, without a jail; as root, with `jailer` beside firecracker, each machine gets a user and a root directory of its own")
		return
	}
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		h.notes = append(h.notes, "Firecracker runs as root, without a jail: there is no "+path+"; put the jailer of the same release there")
		return
	}
	text, err := vmm.Query(ctx, path, "--version")
	version, ok := parseVersion(text)
	if err != nil || !ok || version != h.bin.Version {
		h.notes = append(h.notes, fmt.Sprintf("Firecracker runs as root, without a jail: %s is version %q and Firecracker %s; put the jailer of the same release there", path, version, h.bin.Version))
		return
	}
	h.jailer = path
	if lacking := lackingControllers(cgroupRoot); lacking != "" {
		h.notes = append(h.notes, "the jails have no limits of memory and processes: "+lacking)
		return
	}
	h.cgroup = true
}

// lackingControllers says why the limits cannot be set, and what to do; "" when they can. The
// jailer ends when one of the controllers is missing (CgroupControllerUnavailable).
func lackingControllers(root string) string {
	have, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return "this host has no control groups of version 2; boot it with systemd.unified_cgroup_hierarchy=1"
	}
	for _, c := range []string{"memory", "pids"} {
		if !slices.Contains(strings.Fields(string(have)), c) {
			return fmt.Sprintf("this host's control groups of version 2 have no controller %q; give them all controllers (cgroup_no_v1=all on the kernel command line)", c)
		}
	}
	return ""
}

// jailUID is the user id of a machine: the same at each boot, another for each machine.
func jailUID(id string) (int, error) {
	if len(id) != 16 {
		return 0, fmt.Errorf("%q is not a machine id", vmm.Clip(id, 64))
	}
	n, err := strconv.ParseUint(id, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("reading the machine id: %w", err)
	}
	return firstUID + int(n>>(64-uidBits)), nil
}

func jailBase(b machine.Boot) string { return filepath.Join(b.Dir, "jail") }

// clearJail removes what a killed supervisor has left: without it the machine's disks would have
// two names. The files themselves stay, they have another name.
func clearJail(b machine.Boot) error {
	if err := os.RemoveAll(jailBase(b)); err != nil {
		return machine.Errorf("state.readonly", "end the machine's firecracker process, then try again", "removing what an earlier boot left: %w", err)
	}
	return nil
}

// jailScript is the init process of the jail's processes (see vmm.Command). It mounts pairs of files
// until "--", in a mount namespace of its own, and runs the rest. With something left to do after
// the jailer the shell does not become it.
const jailScript = `while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit; shift 2; done; shift; "$@"; exit $?`

// jailerArgs is the command line of a jailed Firecracker. It is pure.
func jailerArgs(h host, b machine.Boot, j *jail) []string {
	id := strconv.Itoa(j.uid)
	args := append([]string{"/bin/sh", "-c", jailScript, "sh"}, j.binds...)
	args = append(args, "--",
		h.jailer, "--id", b.ID, "--exec-file", h.bin.Path, "--uid", id, "--gid", id,
		"--chroot-base-dir", j.base, "--resource-limit", "no-file="+strconv.Itoa(jailFiles))
	if h.cgroup {
		args = append(args, "--cgroup-version", "2", "--parent-cgroup", cgroupName,
			"--cgroup", fmt.Sprintf("memory.max=%d", b.MemoryBytes+jailMemory),
			"--cgroup", fmt.Sprintf("pids.max=%d", b.CPUs+jailPids))
	}
	// No --daemonize: it would leave our process group and close the console. No --new-pid-ns: it is
	// in one already.
	// Firecracker's own seccomp filters are on unless it is told otherwise.
	return append(args, "--", "--api-sock", "/"+apiSocket)
}

// enterJail builds the jail's root with everything that Firecracker is to open in it.
func (s *site) enterJail(h host, b machine.Boot, kernel string, disks []*os.File) error {
	uid, err := jailUID(b.ID)
	if err != nil {
		return err
	}
	base := jailBase(b)
	j := &jail{base: base, uid: uid, root: filepath.Join(base, filepath.Base(h.bin.Path), b.ID, "root")}
	if h.cgroup {
		j.cgroup = filepath.Join(cgroupRoot, cgroupName, b.ID)
	}
	s.jail, s.uid = j, uid
	if err := os.MkdirAll(j.root, 0o700); err != nil {
		return fmt.Errorf("making the jail: %w", err)
	}
	s.layout = layout{log: "/" + logPipe, vsock: "/" + vsockSocket}
	for _, x := range []struct {
		path, name string
		to         *string
	}{{kernel, "kernel", &s.layout.kernel}, {b.Initrd, "initrd", &s.layout.initrd}} {
		f, err := vmm.OpenBootFile(x.path)
		if err != nil {
			return err
		}
		_, err = j.place(f, x.name, true, false)
		_ = f.Close()
		if err != nil {
			return err
		}
		*x.to = "/" + x.name
	}
	for i, d := range b.Disks {
		name := "disk-" + string(d.Role)
		own := !d.ReadOnly || filepath.Dir(d.Path) == b.Dir || filepath.Dir(d.Path) == b.RuntimeDir
		serial, err := j.place(disks[i], name, d.ReadOnly, own)
		if err != nil {
			return vmm.DiskError(d, err)
		}
		s.serial = append(s.serial, serial)
		s.layout.disks = append(s.layout.disks, "/"+name)
	}
	if err := s.linkSockets(); err != nil {
		return err
	}
	s.argv = jailerArgs(h, b, j)
	return vmm.CheckSerials("Firecracker", b, s.serial)
}

// linkSockets gives the jail's sockets short names: below the machine's folder their paths are
// longer than a socket's may be, and only what is given to connect(2) counts.
func (s *site) linkSockets() error {
	for _, name := range []string{apiSocket, vsockSocket} {
		if err := os.Symlink(filepath.Join(s.jail.root, name), s.where(name)); err != nil {
			return fmt.Errorf("naming the jail's sockets: %w", err)
		}
	}
	return nil
}

// place puts a file into the jail and returns the serial that it has there as a disk. It is a hard
// link, or across file systems a bind mount, where the jail's user may then use it; own says that
// the file is the machine's and may belong to that user for a while. What is neither open to
// everybody nor the machine's is copied.
func (j *jail) place(f *os.File, name string, readOnly, own bool) (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	to := filepath.Join(j.root, name)
	open := info.Mode()&0o004 != 0 && readOnly
	if !open && !own {
		return j.copied(f, to)
	}
	from := to
	err = os.Link(f.Name(), to)
	if errors.Is(err, syscall.EXDEV) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EMLINK) {
		from = f.Name()
		j.binds = append(j.binds, from, to)
		err = os.WriteFile(to, nil, 0o600) // to be mounted over
	}
	if err != nil {
		return "", fmt.Errorf("placing %s into the jail: %w", f.Name(), err)
	}
	j.placed = append(j.placed, to)
	there, err := os.Lstat(from)
	if err != nil {
		return "", fmt.Errorf("examining the jail: %w", err)
	}
	if !os.SameFile(info, there) {
		return "", vmm.Changed(f.Name(), "it was replaced while the machine started")
	}
	if !open {
		if err := j.lend(from, there); err != nil {
			return "", fmt.Errorf("lending %s to the jail: %w", f.Name(), err)
		}
	}
	return vmm.FileSerial(f)
}

// lend gives a file to the jail's user until the machine has ended.
func (j *jail) lend(path string, info fs.FileInfo) error {
	f, err := vmm.OpenPlain(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	uid, gid := owner(info)
	if uid == j.uid { // never taken back: the supervisor was killed
		uid, gid = os.Geteuid(), os.Getegid()
	}
	j.borrow = append(j.borrow, borrowed{f, uid, gid})
	return f.Chown(j.uid, j.uid)
}

// copied copies a file that is only read.
func (j *jail) copied(f *os.File, to string) (string, error) {
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o400)
	if err != nil {
		return "", fmt.Errorf("copying into the jail: %w", err)
	}
	j.placed = append(j.placed, to)
	_, err = io.Copy(out, io.NewSectionReader(f, 0, 1<<62))
	if err == nil {
		err = out.Chown(j.uid, j.uid)
	}
	serial, serr := vmm.FileSerial(out)
	if err := errors.Join(err, serr, out.Close()); err != nil {
		return "", fmt.Errorf("copying %s into the jail: %w", f.Name(), err)
	}
	return serial, nil
}

// unlink takes the files out again once Firecracker has them open. The machine's disks then have
// one name, and what was copied takes no space after the machine.
func (j *jail) unlink() error {
	var errs []error
	for _, path := range j.placed {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	j.placed = nil
	return errors.Join(errs...)
}

// remove removes the jail and takes back what was lent.
func (j *jail) remove() error {
	var errs []error
	for _, b := range j.borrow { // also where it has been removed
		errs = append(errs, b.file.Chown(b.uid, b.gid), b.file.Close())
	}
	j.borrow = nil
	errs = append(errs, os.RemoveAll(j.base))
	if j.cgroup != "" {
		if err := os.Remove(j.cgroup); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("removing the control group: %w", err))
		}
	}
	return errors.Join(errs...)
}
