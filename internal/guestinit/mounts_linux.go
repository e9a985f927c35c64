package guestinit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// Places in the initramfs and, below agentproto.GuestDir, in the guest. agentproto.UpperDir is
// a folder that only root may enter; the mode of the upper directory itself is that of / and
// cannot hide anything.
const (
	initramfsAgent   = "/mvm/mvm-agent"
	initramfsModules = "/mvm/modules"
	newRoot          = "/newroot"
	upperDisk        = agentproto.UpperDir + "/disk"
	overlayUpper     = upperDisk + "/upper"
	overlayWork      = upperDisk + "/work"
	lowerDir         = agentproto.UpperDir + "/lower"
)

const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", fstype, target, err)
	}
	return nil
}

// mountEarly mounts what the rest of the boot reads and writes.
func mountEarly() error {
	for _, m := range []struct {
		target, fstype string
		flags          uintptr
		data           string
	}{
		{"/proc", "proc", quiet, ""},
		{"/sys", "sysfs", quiet, ""},
		{"/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return fmt.Errorf("preparing %s: %w", m.target, err)
		}
		if err := mount(m.fstype, m.target, m.fstype, m.flags, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
			return err // EBUSY: it is mounted, CONFIG_DEVTMPFS_MOUNT
		}
	}
	return mountGuestDir()
}

// mountLate mounts what processes expect and the channel does not need.
func mountLate() error {
	var errs []error
	for _, m := range []struct {
		target, fstype string
		flags          uintptr
		data           string
	}{
		{"/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
		{"/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"/sys/fs/cgroup", "cgroup2", quiet, "nsdelegate"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, mount(m.fstype, m.target, m.fstype, m.flags, m.data))
	}
	for name, to := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(to, "/dev/"+name); err != nil && !errors.Is(err, os.ErrExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// mountDrive mounts the ext4 file system of a block device.
func mountDrive(device, at string, flags uintptr) error {
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	err := unix.Mount("/dev/"+device, at, "ext4", flags|unix.MS_NOSUID|unix.MS_NODEV, "")
	if err != nil && flags&unix.MS_RDONLY != 0 {
		// A journal that was not closed cannot be replayed on a read-only device.
		if unix.Mount("/dev/"+device, at, "ext4", flags|unix.MS_NOSUID|unix.MS_NODEV, "noload") == nil {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("mounting the ext4 of %s: %w", device, err)
	}
	return nil
}

// mountGuestDir makes agentproto.GuestDir, where all that is ours lies.
func mountGuestDir() error {
	if err := os.MkdirAll(agentproto.GuestDir, 0o755); err != nil {
		return err
	}
	if err := mount("tmpfs", agentproto.GuestDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return err
	}
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{
		{agentproto.UpperDir, 0o700},
		{upperDisk, 0o700},
		{lowerDir, 0o700},
		{volumesDir, 0o700},
		{agentproto.SecretsMount, 0o755},
		{agentproto.GuestBin, 0o755},
	} {
		if err := os.Mkdir(d.path, d.mode); err != nil {
			return err
		}
	}
	return nil
}

// mountLayers mounts the image and the machine's own disk, each on a thread of its own, and
// sends two results.
func mountLayers(found drives) <-chan error {
	done := make(chan error, 2)
	go func() { done <- mountUpper(found[serialUpper]) }()
	go func() {
		if found[serialRoot] == "" {
			done <- nil
			return
		}
		done <- mountDrive(found[serialRoot], lowerDir, unix.MS_RDONLY)
	}()
	return done
}

// mountUpper mounts the disk that takes the machine's writes, or memory when there is none,
// and makes the overlay's two folders on it.
func mountUpper(device string) error {
	var err error
	if device != "" {
		err = mountDrive(device, upperDisk, unix.MS_NOATIME)
	} else {
		err = mount("tmpfs", upperDisk, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700")
	}
	if err != nil {
		return err
	}
	// The mode of the upper folder is that of / in the guest.
	for dir, mode := range map[string]os.FileMode{overlayUpper: 0o755, overlayWork: 0o700} {
		if err := os.Mkdir(dir, mode); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("preparing the upper disk: %w", err)
		}
	}
	return nil
}

// mountRoot builds the machine's root at newRoot from its layers and fills agentproto.GuestDir.
// Renamed folders are copied and files are copied whole, so that the upper folder alone says
// what has changed.
func (s *System) mountRoot(withImage bool, commands []string) error {
	if withImage {
		s.Upper, s.Lower = overlayUpper, lowerDir
		if err := mount("overlay", newRoot, "overlay", unix.MS_NOATIME, "lowerdir="+lowerDir+",upperdir="+overlayUpper+
			",workdir="+overlayWork+",redirect_dir=off,metacopy=off,index=off,xino=auto"); err != nil {
			return err
		}
	} else {
		if err := mount(overlayUpper, newRoot, "bind", unix.MS_BIND, ""); err != nil {
			return err
		}
		if err := remount(newRoot, 0); err != nil {
			return err
		}
		if err := plainRoot(); err != nil {
			return err
		}
	}
	if err := bindAgent(); err != nil {
		return err
	}
	return linkCommands(commands)
}

// plainRoot makes a root without an image usable: folders, and the user land where scripts
// look for it. What is there already, on an upper disk from an earlier boot, stays.
func plainRoot() error {
	for _, dir := range []string{"etc", "root", "usr", "var"} {
		if err := os.Mkdir(newRoot+"/"+dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	bin := agentproto.GuestBin[1:] // relative: nobody follows it in the initramfs
	for name, to := range map[string]string{"bin": bin, "sbin": bin, "usr/bin": "../" + bin, "usr/sbin": "../" + bin} {
		if err := os.Symlink(to, newRoot+"/"+name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// remount sets the flags of a bind mount, which come from its source otherwise.
func remount(target string, flags uintptr) error {
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|flags, ""); err != nil {
		return fmt.Errorf("setting the flags of %s: %w", target, err)
	}
	return nil
}

// bindAgent shows the initramfs's agent at agentproto.GuestAgent: the same memory, read-only,
// also after the initramfs is out of sight.
func bindAgent() error {
	if err := os.WriteFile(agentproto.GuestAgent, nil, 0o555); err != nil {
		return err
	}
	if err := mount(initramfsAgent, agentproto.GuestAgent, "bind", unix.MS_BIND, ""); err != nil {
		return err
	}
	return remount(agentproto.GuestAgent, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV)
}

func linkCommands(commands []string) error {
	target, err := filepath.Rel(agentproto.GuestBin, agentproto.GuestAgent)
	if err != nil {
		return err
	}
	for _, c := range commands {
		if err := os.Symlink(target, filepath.Join(agentproto.GuestBin, c)); err != nil {
			return err
		}
	}
	return nil
}

// enterRoot makes newRoot the root of this process and of all others. The initramfs's modules
// are removed first: it cannot be reached later, and their memory would be lost.
func (s *System) enterRoot() error {
	_ = os.RemoveAll(initramfsModules)
	// The guest's own folder is complete; nobody changes it by accident.
	if err := unix.Mount("", agentproto.GuestDir, "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("closing %s: %w", agentproto.GuestDir, err)
	}
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run"} {
		if err := os.Mkdir(newRoot+dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("preparing the root: %w", err)
		}
		// A link would be followed in the initramfs, where it means something else.
		if st, err := os.Lstat(newRoot + dir); err != nil || !st.IsDir() {
			return fmt.Errorf("the image's %s is not a folder", dir)
		}
		if err := unix.Mount(dir, newRoot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("moving %s: %w", dir, err)
		}
	}
	if err := os.Mkdir(newRoot+"/tmp", 0o777); err == nil {
		_ = os.Chmod(newRoot+"/tmp", 0o777|os.ModeSticky) // the umask took its share
	}
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	// All threads share one root and working directory (CLONE_FS).
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	return os.Chdir("/")
}
