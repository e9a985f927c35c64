//go:build unix

package agent

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestproc"
)

// initPaths returns where an image's init is looked for: the kernel's own list without the shell
// (init/main.c), and systemd where no package has made it /sbin/init.
func initPaths() []string {
	return []string{"/sbin/init", "/etc/init", "/bin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd"}
}

// startInit starts the image's init as the main program.
func (m *mainProgram) startInit(start agentproto.ExecStart) (*program, *agentproto.Error) {
	a := m.agent
	if a.opts.Root != "/" {
		return nil, agentproto.Errorf(agentproto.CodeNoInit, "choose a backend that boots a kernel", "this machine is no guest, so the image's init cannot run in it")
	}
	if start.Args[0] == agentproto.InitOfImage {
		found, err := findInit()
		if err != nil {
			return nil, err
		}
		start.Args = append([]string{found}, start.Args[1:]...)
	}
	if start.TTY {
		start.Process = withTerm(start.Process, start.Term)
	}
	spec, err := a.opts.Resolver.Resolve(start.Process)
	if err != nil {
		return nil, err
	}
	spec.Init = true
	if m.spec.StopSignal == "" {
		m.spec.StopSignal = initStopSignal(spec.Path)
	}
	p, perr := a.startProgram(spec, wiring{stdin: start.Stdin, tty: start.TTY, rows: start.Rows, cols: start.Cols})
	if perr != nil {
		return nil, asError(perr)
	}
	return p, nil
}

// findInit returns the first of initPaths that is there.
func findInit() (string, *agentproto.Error) {
	for _, path := range initPaths() {
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", agentproto.Errorf(agentproto.CodeNoInit, "install one in the image (systemd-sysv in Debian's), or leave out --init",
		"the image has no init: there is no program %s", strings.Join(initPaths(), ", "))
}

// initStopSignal returns the signal that asks an init to power off: what systemd(1) and
// busybox's init.c say of theirs, and SIGPWR for a System V init, whose inittab says what to do
// when the power fails.
func initStopSignal(path string) string {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		real = path
	}
	switch name := filepath.Base(real); {
	case name == "systemd":
		return "SIGRTMIN+3"
	case strings.HasPrefix(name, "busybox"):
		return "SIGUSR2"
	case name == "init":
		return "SIGPWR"
	}
	return "SIGTERM"
}

// handlerPoll is how often an init is looked at that has no handler for its stop signal yet.
// Nothing tells when it gets one.
const handlerPoll = 50 * time.Millisecond

// awaitHandler waits until an init that has just been started would notice a signal, and returns
// what is left of grace. One that never will is stopped when that has run out. It has to be seen
// twice: for a moment around each fork, all signals are held back.
func awaitHandler(p *guestproc.Proc, sig syscall.Signal, grace time.Duration) time.Duration {
	end := time.Now().Add(grace)
	tick := time.NewTicker(handlerPoll)
	defer tick.Stop()
	for seen := 0; seen < 2 && time.Now().Before(end); {
		if seen++; !p.Heeds(sig) {
			seen = 0
		}
		select {
		case <-p.Done():
			return 0
		case <-tick.C:
		}
	}
	return max(0, time.Until(end))
}

// initExit returns what the end of an init means for the machine. An init that calls reboot(2)
// is ended by the kernel with SIGINT for a power-off or halt and SIGHUP for a reboot,
// pid_namespaces(7); neither is a failure.
func initExit(exit agentproto.Exit) agentproto.Exit {
	if exit.Signal == "SIGINT" || exit.Signal == "SIGHUP" {
		exit.Code, exit.Signal = 0, ""
	}
	return exit
}
