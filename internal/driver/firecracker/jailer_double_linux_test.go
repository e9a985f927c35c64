package firecracker

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// doubleRoot tells the double of Firecracker, in its environment, where the root of its jail is.
const doubleRoot = "MVM_DOUBLE_ROOT"

// runJailerDouble plays the jailer: it refuses arguments that docs/jailer.md of Firecracker does
// not have, copies the program into the root, gives the root to the user and becomes that user's
// program. It cannot change the root directory, which QEMU behind the double would not survive;
// instead the double of Firecracker looks below it for every path.
func runJailerDouble(args []string) int {
	if len(args) == 1 && args[0] == "--version" {
		fmt.Printf("Jailer v%s\n", doubleVersion)
		return 0
	}
	if err := jailAndRun(args); err != nil {
		fmt.Fprintln(os.Stderr, "jailer double:", err)
		return 1
	}
	return 0
}

func jailAndRun(args []string) error {
	flags, rest, err := jailerFlags(args)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(flags["--uid"])
	if err != nil || flags["--gid"] != flags["--uid"] || uid == 0 {
		return fmt.Errorf("uid %q, gid %q", flags["--uid"], flags["--gid"])
	}
	name := filepath.Base(flags["--exec-file"])
	if !strings.Contains(name, "firecracker") {
		return fmt.Errorf("the name of %s does not contain firecracker", name) // until 1.12
	}
	root := filepath.Join(flags["--chroot-base-dir"], name, flags["--id"], "root")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	program := filepath.Join(root, name)
	if err := copyProgram(program, flags["--exec-file"], uid); err != nil {
		return err
	}
	if err := os.Chown(root, uid, uid); err != nil {
		return err
	}
	// The folders above the root are closed to the user; one who was in there before stays.
	if err := os.Chdir(root); err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(uid), syscall.Setuid(uid)); err != nil {
		return err
	}
	// "." and not the path, which the user may not pass.
	return syscall.Exec("./"+name, append([]string{name, "--id", flags["--id"]}, rest...), []string{"PATH=/usr/bin:/bin", doubleRoot + "=."})
}

func jailerFlags(args []string) (flags map[string]string, rest []string, err error) {
	flags = map[string]string{}
	known := map[string]bool{
		"--id": true, "--exec-file": true, "--uid": true, "--gid": true, "--chroot-base-dir": true,
		"--cgroup-version": true, "--parent-cgroup": true, "--cgroup": true, "--resource-limit": true,
	}
	for len(args) > 0 {
		if args[0] == "--" {
			rest = args[1:]
			break
		}
		if !known[args[0]] || len(args) < 2 {
			return nil, nil, fmt.Errorf("argument %q", args[0])
		}
		flags[args[0]] = args[1]
		args = args[2:]
	}
	for _, must := range []string{"--id", "--exec-file", "--uid", "--gid"} {
		if flags[must] == "" {
			return nil, nil, fmt.Errorf("%s is missing", must)
		}
	}
	if strings.Trim(flags["--id"], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "" || len(flags["--id"]) > 64 {
		return nil, nil, fmt.Errorf("id %q", flags["--id"])
	}
	return flags, rest, nil
}

func copyProgram(to, from string, uid int) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chown(uid, uid), out.Close())
}
