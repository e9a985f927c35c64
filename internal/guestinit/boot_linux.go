package guestinit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestproc"
)

// driveTimeout is how long Boot waits for a device that should be there. Devices are found
// while their modules load, so this only passes when one is missing; it is long because an
// emulated guest on a busy host is slow.
const driveTimeout = 15 * time.Second

// Boot brings the guest up. It must be called once, by PID 1, early: it mounts, loads modules
// and changes the root of the whole process. On an error nothing can be served; the caller
// prints it and powers off. The error of a missing or invalid config drive is an
// *agentproto.Error with the code agent.unprovisioned.
//
// When Boot returns, the channel can be opened (Channel), and Finish has still to be called
// before a process of the machine is started.
func Boot(ctx context.Context, o Options) (*System, error) {
	s := &System{log: o.Log, ending: holdSignals()}
	s.mark("init")
	if err := mountEarly(); err != nil {
		return nil, err
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, fmt.Errorf("reading the kernel command line: %w", err)
	}
	opts := parseCmdline(string(line))
	s.reset, s.Slow = opts.reset || !canPowerOff(), opts.slow || !accelerated()
	if opts.probe {
		return s, s.answerProbe(ctx)
	}
	if err := raiseLimits(); err != nil {
		s.logf("%v", err)
	}
	if s.uevents, err = listenUevents(); err != nil {
		return s, err
	}
	var loaded <-chan struct{}
	s.rest, loaded = loadModules(o.Log)
	s.mark("modules")
	found, err := s.waitDrives(ctx, driveNames(opts.drives))
	if err != nil {
		return s, err
	}
	s.mark("drives")
	layers := mountLayers(found) // they wait for the disk; reading the config is work
	if s.Config, err = readConfigDrive(found); err != nil {
		return s, err
	}
	if err := seedRandom(s.Config.Random); err != nil {
		s.logf("seeding the kernel's random numbers: %v", err)
	}
	s.Env = environment(s.Config, guestproc.DefaultPath)
	s.mark("config")
	<-loaded
	if err := errors.Join(<-layers, <-layers); err != nil {
		return s, err
	}
	if err := s.mountRoot(found[serialRoot] != "", o.Commands); err != nil {
		return s, err
	}
	s.mark("root")
	s.secrets = found[serialSecrets]
	if err := s.enterRoot(); err != nil {
		return s, err
	}
	s.mark("switched")
	if len(s.Config.Mounts) > 0 {
		if err := mountVolumes(found, s.Config.Mounts); err != nil {
			return s, err
		}
		s.mark("volumes")
	}
	return s, nil
}

// answerProbe prints ProbeLine, where that can be seen.
func (s *System) answerProbe(ctx context.Context) error {
	if !s.console.adopt() {
		events, err := listenUevents()
		if err != nil {
			return err
		}
		defer events.close()
		_, loaded := loadModules(s.log)
		<-loaded
		if _, err := events.wait(ctx, driveTimeout, s.console.adopt, func() bool { return false }); err != nil {
			return err
		}
	}
	fmt.Fprintln(s.log, ProbeLine)
	// The machine ends at once, and a serial port is slow where hosts are nested: what is still in
	// the driver's buffer would be lost. tcdrain(3); what is no terminal has no buffer.
	_ = unix.IoctlSetInt(2, unix.TCSBRK, 1)
	return ErrProbe
}

// Finish does what the channel need not wait for but a process does: terminals, host name,
// users, loopback. What goes wrong is reported and not fatal: a guest without a host name is
// better than none.
func (s *System) Finish() {
	var wg sync.WaitGroup
	for _, steps := range [][]step{
		{{"adding users", s.addUsers}, {"copying secrets", s.mountSecrets}}, // in this order: for the users' groups
		{{"mounting terminals and groups", mountLate}},
		{{"setting the host name", s.setHostname}, {"raising the loopback interface", raiseLoopback}},
		{{"setting kernel parameters", setSysctls}},
	} {
		wg.Go(func() {
			for _, st := range steps {
				if err := st.do(); err != nil {
					s.logf("%s: %v", st.what, err)
				}
			}
		})
	}
	wg.Wait()
	if m := s.Config.Main; m != nil && m.Init {
		for _, st := range []step{{"sharing the mounts", shareMounts}, {"naming the machine", s.nameMachine}} {
			if err := st.do(); err != nil {
				s.logf("%s: %v", st.what, err)
			}
		}
	}
	s.mark("ready")
}

type step struct {
	what string
	do   func() error
}

// mark notes that a phase has ended.
func (s *System) mark(phase string) {
	s.console.adopt() // between any two phases it may have come
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timings = append(s.timings, agentproto.Timing{Phase: phase, At: agentproto.Duration(ts.Nano())})
}

// Report prints the timings on the console, in one line.
func (s *System) Report() {
	var b strings.Builder
	for _, t := range s.Timings() {
		fmt.Fprintf(&b, " %s=%.3f", t.Phase, time.Duration(t.At).Seconds())
	}
	s.logf("up:%s", b.String())
}

func (s *System) logf(format string, args ...any) { logf(s.log, format, args...) }

func logf(w io.Writer, format string, args ...any) {
	fmt.Fprintf(w, "mvm-agent: "+format+"\n", args...)
}

// waitDrives waits until every disk that the machine has is there, and the config drive is.
func (s *System) waitDrives(ctx context.Context, names map[string]string) (drives, error) {
	var found drives
	sys := os.DirFS("/sys")
	ok, err := s.uevents.wait(ctx, driveTimeout, func() bool {
		var settled bool
		found, settled = findDrives(sys, names)
		return settled && found[serialConfig] != ""
	}, func() bool {
		// Drivers look at all devices of a bus while they load. When some virtio device is
		// there and no disk is still on its way, waiting brings no config drive.
		_, settled := findDrives(sys, names)
		return settled && len(virtioDevices(sys, "")) > 0
	})
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, &agentproto.Error{Code: agentproto.CodeUnprovisioned, Message: "no drive with the serial " + serialConfig}
	}
	return found, nil
}

func readConfigDrive(found drives) (*agentproto.Config, error) {
	const at = "/run/config"
	unprovisioned := func(err error) error {
		if e, ok := errors.AsType[*agentproto.Error](err); ok {
			return e
		}
		return &agentproto.Error{Code: agentproto.CodeUnprovisioned, Message: "config drive: " + err.Error()}
	}
	if err := mountDrive(found[serialConfig], at, unix.MS_RDONLY); err != nil {
		return nil, unprovisioned(err)
	}
	cfg, err := readConfigFile(at)
	// The workload must not find it mounted.
	if uerr := unix.Unmount(at, 0); err == nil && uerr != nil {
		err = fmt.Errorf("unmounting it: %w", uerr)
	}
	_ = os.Remove(at)
	if err != nil {
		return nil, unprovisioned(err)
	}
	return cfg, nil
}

func readConfigFile(dir string) (*agentproto.Config, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	st, err := root.Lstat(agentproto.ConfigFile)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", agentproto.ConfigFile)
	}
	f, err := root.Open(agentproto.ConfigFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return agentproto.ReadConfig(f)
}

// accelerated reports whether the processor runs natively, as far as the guest can tell: a
// hypervisor that uses KVM on x86 offers its clock, an emulator does not. Elsewhere only the
// command line tells.
func accelerated() bool {
	if runtime.GOARCH != "amd64" {
		return true
	}
	clocks, err := os.ReadFile("/sys/devices/system/clocksource/clocksource0/available_clocksource")
	return err == nil && strings.Contains(string(clocks), "kvm-clock")
}

// canPowerOff reports whether the kernel has a way to switch the machine off. Without one a
// power-off only halts the processor, and the VMM would never end.
func canPowerOff() bool {
	if runtime.GOARCH != "amd64" {
		return true // PSCI
	}
	_, err := os.Stat("/sys/firmware/acpi")
	return err == nil
}
