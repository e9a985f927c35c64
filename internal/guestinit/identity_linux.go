package guestinit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// seedRandom gives the kernel entropy that it may count on: the host made it, for this
// generation only. Without it a fresh guest would wait, and a clone would repeat its twin.
func seedRandom(seed []byte) error {
	dev, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer dev.Close()
	// struct rand_pool_info, linux/random.h: bits, bytes, data.
	var info struct {
		bits, size int32
		data       [64]byte
	}
	n := copy(info.data[:], seed)
	info.bits, info.size = int32(n*8), int32(n)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dev.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info)))
	runtime.KeepAlive(&info)
	if errno != 0 {
		return fmt.Errorf("RNDADDENTROPY: %w", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dev.Fd(), unix.RNDRESEEDCRNG, 0); errno != 0 {
		return fmt.Errorf("RNDRESEEDCRNG: %w", errno)
	}
	return nil
}

// SetClock sets the wall clock.
func (s *System) SetClock(t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("setting the clock: %w", err)
	}
	return nil
}

func (s *System) setHostname() error {
	name := hostnameOf(s.Config)
	if err := unix.Sethostname([]byte(name)); err != nil {
		return err
	}
	return errors.Join(
		writeMissing("/etc/hostname", name+"\n"),
		writeMissing("/etc/hosts", hostsFile(name)),
	)
}

// writeMissing writes a file that the image does not have; a link that leads nowhere counts
// as the image's will.
func writeMissing(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// addUsers makes sure that root and the machine's users have accounts and homes.
func (s *System) addUsers() error {
	passwd, err := readSmall("/etc/passwd")
	if err != nil {
		return err
	}
	group, err := readSmall("/etc/group")
	if err != nil {
		return err
	}
	shell := "/bin/sh"
	if _, err := os.Stat(shell); err != nil {
		shell = agentproto.GuestBin + "/sh"
	}
	newPasswd, newGroup, added, err := addUsers(passwd, group, s.Config.Users, shell)
	if err != nil {
		return err
	}
	err = errors.Join(
		replaceChanged("/etc/group", group, newGroup),
		replaceChanged("/etc/passwd", passwd, newPasswd),
	)
	for _, u := range added {
		err = errors.Join(err, makeHome(u))
	}
	return err
}

// readSmall reads a database of the image. One over 1 MiB is left alone, by an error.
func readSmall(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > 1<<20 {
		return nil, fmt.Errorf("%s is no regular file of at most 1 MiB", path)
	}
	return os.ReadFile(path)
}

func replaceChanged(path string, before, after []byte) error {
	if slices.Equal(before, after) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".mvm"
	if err := os.WriteFile(tmp, after, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func makeHome(u agentproto.User) error {
	home := u.Home
	if home == "" {
		home = "/home/" + u.Name
	}
	if err := os.MkdirAll(filepath.Dir(home), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(home, 0o700); errors.Is(err, fs.ErrExist) {
		return nil // whoever owns it keeps it
	} else if err != nil {
		return err
	}
	return os.Chown(home, int(u.UID), int(u.GID))
}

// raiseLoopback does what `ip link set lo up` does; the kernel adds the addresses itself.
func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return err
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// setSysctls sets the few kernel parameters whose defaults suit no machine of ours.
func setSysctls() error {
	var errs []error
	for name, value := range map[string]string{
		"net/ipv4/ping_group_range": "0 2147483647", // ping without privileges
		"fs/protected_symlinks":     "1",
		"fs/protected_hardlinks":    "1",
		"fs/protected_fifos":        "1",
		"fs/protected_regular":      "1",
		"kernel/dmesg_restrict":     "1",
		"kernel/kptr_restrict":      "1",
		"kernel/ctrl-alt-del":       "0", // the keys become our SIGINT
	} {
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Open files per process, for us and for all that we start. The kernel's own are 1024 and 4096,
// from another time: too few for a server, and for an agent with many streams.
const (
	softFiles = 16 << 10
	hardFiles = 1 << 20 // fs.nr_open
)

func raiseLimits() error {
	// syscall and not unix: the former also makes the runtime forget the limit that it would
	// give back to every program that it starts.
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: softFiles, Max: hardFiles}); err != nil {
		return fmt.Errorf("raising the limit of open files: %w", err)
	}
	return nil
}

// mountSecrets copies the secrets drive, if there is one, to a tmpfs of its own, and lets go
// of the drive.
func (s *System) mountSecrets() (err error) {
	device := s.secrets
	if device == "" {
		return nil
	}
	const at = "/run/secrets-drive"
	if err := mountDrive(device, at, unix.MS_RDONLY|unix.MS_NOEXEC); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, unix.Unmount(at, 0))
		_ = os.Remove(at)
	}()
	gid := serviceGroup("/etc/group")
	if err := mount("tmpfs", agentproto.SecretsMount, "tmpfs", quiet, fmt.Sprintf("mode=0750,uid=0,gid=%d,size=32m", gid)); err != nil {
		return err
	}
	dst, err := os.OpenRoot(agentproto.SecretsMount)
	if err != nil {
		return err
	}
	defer dst.Close()
	return copySecrets(os.DirFS(at), dst, gid, func(r *os.Root, name string, gid int) error { return r.Lchown(name, 0, gid) })
}

// serviceGroup returns the number of ServiceGroup in a group file, 0 (root) without one.
func serviceGroup(path string) int {
	group, err := readSmall(path)
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(group) {
		f := strings.Split(strings.TrimSuffix(string(line), "\n"), ":")
		if len(f) >= 3 && f[0] == ServiceGroup {
			if gid, err := strconv.ParseUint(f[2], 10, 31); err == nil {
				return int(gid)
			}
		}
	}
	return 0
}
