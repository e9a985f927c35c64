//go:build linux && (amd64 || arm64)

// Command mvm-krun is the VMM process of a machine that libkrun runs: it loads the library, describes
// the machine to it and lets it take over the process, which ends with the machine. The driver
// internal/driver/krun starts it; it is not for people.
//
// It is a program of its own because a program that loads libraries is linked dynamically, and
// mvmctl is not.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/driver/krun/wire"
)

func main() {
	var err error
	if len(os.Args) == 3 && os.Args[1] == wire.CheckWord {
		err = check(os.Args[2])
	} else {
		err = enter()
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "mvm-krun:", err)
		os.Exit(1)
	}
}

// check says what a library can do.
func check(path string) error {
	lib, err := load(path)
	if err != nil {
		return err
	}
	// It asks /dev/kvm, and is negative where that does not open.
	n := max(lib.getMaxVCPUs(), 0)
	return json.NewEncoder(os.Stdout).Encode(wire.Abilities{MaxCPUs: int(n)})
}

// enter becomes the machine that is described. It returns only when that fails.
func enter() error {
	// libkrun runs the machine's devices on the thread that enters it.
	runtime.LockOSThread()
	f := os.NewFile(wire.DescriptionFD, "description")
	if f == nil {
		return errors.New("this program is for mvmctl itself")
	}
	d, err := wire.Decode(f)
	_ = f.Close()
	if err != nil {
		return err
	}
	if err := confine(); err != nil {
		return err
	}
	lib, err := load(d.Library)
	if err != nil {
		return err
	}
	return lib.run(d)
}

// confine takes away what neither libkrun nor a guest that has broken into it needs.
func confine() error {
	// The guest's memory is in this process's.
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core files: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbidding new privileges: %w", err)
	}
	return nil
}

// run describes the machine and enters it.
func (l *library) run(d wire.Description) error {
	if err := l.say("krun_init_log", l.initLog(logToStderr, logWarn, logPlain, logNoEnv)); err != nil {
		return err
	}
	ctx, err := l.answer("krun_create_ctx", l.createCtx())
	if err != nil {
		return err
	}
	// What the guest's serial port reads from: nothing ever comes. libkrun 1.17.4 panics when it has no
	// input at all, and complains of the null device.
	silent, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("making an input for the guest's serial port: %w", err)
	}
	if d.CPUs > math.MaxUint8 || d.MemoryMiB > math.MaxUint32 {
		return fmt.Errorf("%d processors with %d MiB are more than libkrun takes", d.CPUs, d.MemoryMiB)
	}
	for _, step := range []struct {
		call string
		do   func() int32
	}{
		{"krun_set_vm_config", func() int32 { return l.setVMConfig(ctx, uint8(d.CPUs), uint32(d.MemoryMiB)) }},
		{"krun_set_kernel", func() int32 {
			return l.setKernel(ctx, fdPath(d.Kernel.File), d.Kernel.Format, fdPath(d.Kernel.Initrd), d.Kernel.CommandLine)
		}},
		// Devices are only those that are asked for. The vsock that libkrun makes unasked would let the
		// guest open the host's own network connections (TSI).
		{"krun_disable_implicit_console", func() int32 { return l.disableImplicitConsole(ctx) }},
		{"krun_disable_implicit_vsock", func() int32 { return l.disableImplicitVsock(ctx) }},
		{"krun_add_serial_console_default", func() int32 { return l.addSerialConsole(ctx, int32(silent), int32(d.Console)) }},
	} {
		if err := l.say(step.call, step.do()); err != nil {
			return err
		}
	}
	for _, disk := range d.Disks {
		if err := l.say("krun_add_disk ("+disk.ID+")", l.addDisk(ctx, disk.ID, fdPath(disk.File), disk.ReadOnly)); err != nil {
			return err
		}
	}
	if c := d.Channel; c != nil {
		if err := l.say("krun_add_vsock", l.addVsock(ctx, noTSI)); err != nil {
			return err
		}
		if err := l.say("krun_add_vsock_port2", l.addVsockPort(ctx, c.Port, c.Socket, true)); err != nil {
			return err
		}
	}
	return l.say("krun_start_enter", l.startEnter(ctx))
}

// fdPath names a file by the descriptor that it is open as: libkrun takes paths only, and what is at
// a path may be another file by now.
func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
