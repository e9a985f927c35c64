package guestinit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// volumesDir is where drives are mounted of which only a part is shown.
const volumesDir = agentproto.UpperDir + "/volumes"

// mountVolumes mounts the machine's volumes in its root, parents first. A volume that cannot be
// mounted ends the boot: a program that starts without its data would begin with none.
func mountVolumes(found drives, mounts []agentproto.Mount) error {
	// All of agentproto.GuestDir is read-only by now.
	if err := mount("tmpfs", volumesDir, "tmpfs", quiet, "mode=0700,size=64k"); err != nil {
		return err
	}
	mounts = slices.Clone(mounts)
	slices.SortStableFunc(mounts, func(a, b agentproto.Mount) int { return strings.Compare(a.Path, b.Path) })
	for _, m := range mounts {
		device := found[m.Serial]
		if device == "" {
			return fmt.Errorf("volume for %s: there is no drive %s", m.Path, m.Serial)
		}
		if err := mountVolume(device, m); err != nil {
			return fmt.Errorf("volume for %s: %w", m.Path, err)
		}
	}
	return nil
}

func mountVolume(device string, m agentproto.Mount) error {
	if !m.Keep && !m.Memory && m.Entry == "" {
		if err := os.MkdirAll(m.Path, 0o755); err != nil {
			return err
		}
		return mountDrive(device, m.Path, unix.MS_RDONLY)
	}
	at := filepath.Join(volumesDir, m.Serial)
	var flags uintptr = unix.MS_RDONLY
	if !m.ReadOnly {
		flags = unix.MS_NOATIME
	}
	if err := mountDrive(device, at, flags); err != nil {
		return err
	}
	if m.Memory {
		memory, err := copyToMemory(at)
		if err != nil {
			return fmt.Errorf("copying it to memory: %w", err)
		}
		at = memory
	}
	switch {
	case m.Keep && !m.ReadOnly:
		if err := fillVolume(at, m.Path); err != nil {
			return fmt.Errorf("copying what the image has there: %w", err)
		}
	case m.Keep && isFilling(at):
		return errors.New("it was never filled to the end; start a machine that may write it first")
	}
	if m.Entry != "" {
		return showEntry(filepath.Join(at, m.Entry), m.Path)
	}
	if err := os.MkdirAll(m.Path, 0o755); err != nil {
		return err
	}
	return unix.Mount(at, m.Path, "", unix.MS_MOVE, "")
}

// copyToMemory copies a mounted drive to a file system in memory, which becomes read-only, and
// unmounts the drive. It returns where the copy is.
func copyToMemory(drive string) (string, error) {
	at := drive + ".mem"
	if err := os.Mkdir(at, 0o700); err != nil {
		return "", err
	}
	if err := mount("tmpfs", at, "tmpfs", quiet, "mode=0700"); err != nil {
		return "", err
	}
	if err := copyTree(drive, at); err != nil {
		return "", err
	}
	if err := unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_RDONLY|quiet, ""); err != nil {
		return "", err
	}
	return at, unix.Unmount(drive, 0)
}

// showEntry shows one file of a drive at a path.
func showEntry(file, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	_ = f.Close()
	if err := mount(file, path, "bind", unix.MS_BIND, ""); err != nil {
		return err
	}
	return remount(path, unix.MS_RDONLY)
}

// unmountVolumes brings the volumes' disks to rest, so that the next machine finds them clean.
func unmountVolumes(mounts []agentproto.Mount) {
	mounts = slices.Clone(mounts)
	slices.SortFunc(mounts, func(a, b agentproto.Mount) int { return strings.Compare(b.Path, a.Path) })
	for _, m := range mounts {
		if unix.Unmount(m.Path, unix.UMOUNT_NOFOLLOW) != nil {
			// Somebody stands on it: no more writes at least.
			_ = unix.Mount("", m.Path, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
	}
}

// fillingFile is in a volume for as long as it is being filled. A volume that has it was left by
// a guest that was killed, or that found no room.
const fillingFile = ".mvm-filling"

func isFilling(volume string) bool {
	_, err := os.Lstat(filepath.Join(volume, fillingFile))
	return err == nil
}

// fillVolume gives an empty volume what the image has at its place, as the users of container
// volumes expect: the folder's owner and mode above all, without which a program that is not
// root could not write. A volume that holds anything is left as it is, but for one that was not
// filled to the end: no program has seen it yet, and it is filled anew.
func fillVolume(volume, from string) error {
	names, err := os.ReadDir(volume)
	if err != nil {
		return err
	}
	again := isFilling(volume)
	for _, n := range names {
		if n.Name() != "lost+found" && !again {
			return nil
		}
	}
	// Some programs refuse a folder that is not empty; a repair tool makes lost+found again.
	for _, n := range names {
		if n.Name() == fillingFile {
			continue
		}
		if err := os.RemoveAll(filepath.Join(volume, n.Name())); err != nil {
			return err
		}
	}
	info, err := os.Stat(from)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err != nil || !info.IsDir() {
		if again {
			return os.Remove(filepath.Join(volume, fillingFile))
		}
		return nil
	}
	return fillFrom(volume, from)
}

// fillFrom copies from's content to an empty volume, under the mark.
func fillFrom(volume, from string) error {
	mark := filepath.Join(volume, fillingFile)
	f, err := os.OpenFile(mark, os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := copyTreeBut(from, volume, fillingFile); err != nil { // an image may have been made of such a volume
		return err
	}
	// The file system may write names before contents: what was copied has to be on the disk
	// before the mark goes, and the mark has to be gone before a program writes.
	for _, step := range []func() error{
		func() error { return unix.Syncfs(int(f.Fd())) },
		func() error { return os.Remove(mark) },
		func() error { return copyAttributes(from, volume) }, // its time, which the mark's end has changed
		func() error { return unix.Syncfs(int(f.Fd())) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// copyTree copies a folder with everything in it to a folder that exists: owners, modes, times,
// extended attributes, links and devices. It runs before any program of the guest does, so
// nothing changes under it.
func copyTree(from, to string) error { return copyTreeBut(from, to, "") }

// copyTreeBut is copyTree without one entry of the folder itself.
func copyTreeBut(from, to, but string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == but {
			continue
		}
		src, dst := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		if err := copyObject(src, dst); err != nil {
			return err
		}
	}
	return copyAttributes(from, to)
}

func copyObject(src, dst string) error {
	var st unix.Stat_t
	if err := unix.Lstat(src, &st); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := os.Mkdir(dst, 0o700); err != nil && !errors.Is(err, os.ErrExist) { // lost+found
			return err
		}
		return copyTree(src, dst)
	case unix.S_IFREG:
		if err := copyContent(src, dst); err != nil {
			return err
		}
	case unix.S_IFLNK:
		target, err := os.Readlink(src)
		if err != nil {
			return err
		}
		if err := os.Symlink(target, dst); err != nil {
			return err
		}
		return unix.Lchown(dst, int(st.Uid), int(st.Gid))
	case unix.S_IFSOCK:
		return nil // nobody listens on it
	default:
		if err := unix.Mknod(dst, st.Mode, int(st.Rdev)); err != nil {
			return err
		}
	}
	return copyAttributes(src, dst)
}

func copyContent(src, dst string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = out.ReadFrom(in)
	return errors.Join(err, out.Close())
}

// copyAttributes gives dst the owner, mode, extended attributes and times of src.
func copyAttributes(src, dst string) error {
	var st unix.Stat_t
	if err := unix.Lstat(src, &st); err != nil {
		return err
	}
	if err := unix.Lchown(dst, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(dst, st.Mode&0o7777); err != nil { // after chown, which clears setuid
		return err
	}
	if err := copyXattrs(src, dst); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, dst, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

func copyXattrs(src, dst string) error {
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(src, list)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the attributes of %s: %w", src, err)
	}
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		n, err := unix.Lgetxattr(src, name, value)
		if err == nil {
			err = unix.Lsetxattr(dst, name, value[:n], 0)
		}
		if err != nil {
			return fmt.Errorf("copying attribute %s of %s: %w", name, src, err)
		}
	}
	return nil
}
