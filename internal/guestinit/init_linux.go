package guestinit

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	initCgroup = cgroupRoot + "/image-init" // the image's init and all below it
	reportFD   = 3                          // guestproc.InitCommand
)

// shareMounts makes every mount of an image's init appear in the agent's view of the machine
// too, so that copying a file into the machine puts it where its programs look.
func shareMounts() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") }

// nameMachine gives /etc/hostname the machine's name, where the image brings one of its own: an
// init sets the host name from it. What a machine has changed itself stays.
func (s *System) nameMachine() error {
	if s.Lower == "" {
		return nil
	}
	if _, err := os.Lstat(filepath.Join(s.Upper, "etc/hostname")); err == nil {
		return nil
	}
	st, err := os.Lstat("/etc/hostname")
	if err != nil || !st.Mode().IsRegular() {
		return nil //nolint:nilerr // there is none: setHostname writes it
	}
	return os.WriteFile("/etc/hostname", []byte(hostnameOf(s.Config)+"\n"), 0o644)
}

// EnterInit makes this process, the first of new PID and mount namespaces, the init of the
// image. args are the path of the program and its arguments, with argv[0]. It only returns when
// that fails, with the exit code; the reason has gone to reportFD then.
//
// It follows what systemd asks of those who run it (systemd.io/CONTAINER_INTERFACE): /proc and
// the cgroup file system of the namespaces, a read-only /sys as the sign that devices are
// somebody else's business, and $container.
func EnterInit(args []string) int {
	unix.CloseOnExec(reportFD)
	runtime.LockOSThread() // unshare is the thread's; the exec makes this thread the process
	err := enterInit(args)
	failed, ok := errors.AsType[*agentproto.Error](err)
	if !ok {
		failed = agentproto.Errorf(agentproto.CodeInternal, "", "preparing the image's init: %v", err)
	}
	if text, err := json.Marshal(failed); err == nil {
		_, _ = unix.Write(reportFD, text)
	}
	return 1
}

func enterInit(args []string) error {
	if len(args) < 2 || os.Getpid() != 1 {
		return errors.New("this is not the first process of a machine's namespaces")
	}
	if err := ownCgroup(); err != nil {
		return err
	}
	// What is mounted on these is for these namespaces only. The agent's folder is among them
	// because an init unmounts what it can when it stops.
	for at, below := range map[string]uintptr{"/proc": 0, "/sys": 0, cgroupRoot: 0, "/dev": 0, agentproto.GuestDir: unix.MS_REC} {
		if err := unix.Mount("", at, "", unix.MS_PRIVATE|below, ""); err != nil {
			return fmt.Errorf("making %s private: %w", at, err)
		}
	}
	if err := mount("proc", "/proc", "proc", quiet, ""); err != nil {
		return err
	}
	// In place of the old mount and not over it: the kernel refuses one file system twice.
	if err := unix.Unmount(cgroupRoot, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmounting %s: %w", cgroupRoot, err)
	}
	if err := mount("cgroup2", cgroupRoot, "cgroup2", quiet, ""); err != nil {
		return err
	}
	if err := remount("/sys", unix.MS_RDONLY|quiet); err != nil {
		return err
	}
	if tty, err := os.Readlink("/proc/self/fd/0"); err == nil && strings.HasPrefix(tty, "/dev/pts/") {
		if err := mount(tty, "/dev/console", "bind", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	err := syscall.Exec(args[0], args[1:], append(os.Environ(), "container=mvm"))
	return agentproto.Errorf(agentproto.CodeNotExecutable, "check that it is a program for the guest's processor", "starting %s as init: %v", args[0], err)
}

// ownCgroup puts this process into a cgroup of its own and makes that the root of what it sees.
func ownCgroup() error {
	if err := os.Mkdir(initCgroup, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("making the init's cgroup: %w", err)
	}
	// A controller that cannot be handed down is one that the init does without.
	if have, err := os.ReadFile(cgroupRoot + "/cgroup.controllers"); err == nil {
		for c := range strings.FieldsSeq(string(have)) {
			_ = os.WriteFile(cgroupRoot+"/cgroup.subtree_control", []byte("+"+c), 0o644)
		}
	}
	if err := os.WriteFile(initCgroup+"/cgroup.procs", []byte("0"), 0o644); err != nil {
		return fmt.Errorf("entering the init's cgroup: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("making a cgroup namespace: %w", err)
	}
	return nil
}
