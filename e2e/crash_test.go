package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/fault"
)

// scenario says which command reaches a fault point and what has to be there before.
type scenario struct {
	before  [][]string // run without the fault
	command []string   // run with it
	inSup   bool       // the point is reached by the supervisor, which takes its environment from `up`
	orphan  bool       // the supervisor is killed before the command
	again   []string   // what is run afterwards, if not the command
}

func scenarioOf(point string) (scenario, bool) {
	up := []string{"up", "-d", "--name", "m", "minimal"}
	down := []string{"down", "m"}
	switch verb, _, _ := strings.Cut(point, "."); verb {
	case "up", "store":
		return scenario{command: up}, true
	case "down":
		return scenario{before: [][]string{up}, command: down}, true
	case "image":
		rootfs, err := filepath.Abs("testdata/rootfs")
		return scenario{command: []string{"up", "-d", "--name", "m", "--rootfs", rootfs}}, err == nil
	case "rm":
		return scenario{before: [][]string{up, down}, command: []string{"rm", "m"}}, true
	case "heal":
		return scenario{before: [][]string{up, {"pause", "m"}}, orphan: true, command: down}, true
	case "sup":
		switch point {
		case fault.SupPaused: // its machine has gone with it
			return scenario{before: [][]string{up}, command: []string{"pause", "m"}, inSup: true, again: up}, true
		case fault.SupResumed:
			return scenario{before: [][]string{up, {"pause", "m"}}, command: []string{"resume", "m"}, inSup: true, again: up}, true
		case fault.SupStopping, fault.SupShutdown, fault.SupVMMGone, fault.SupCleaned:
			return scenario{before: [][]string{up}, command: down, inSup: true}, true
		}
		return scenario{command: up, inSup: true}, true
	}
	return scenario{}, false
}

// SIGKILL at every registered step of up, down and rm, in the command or in the supervisor:
// afterwards `ls` tells the truth, the same command again or the undoing one succeeds, and
// nothing is left.
func TestKilledAtEveryStep(t *testing.T) {
	for _, driver := range []string{"fake", "qemu"} {
		for _, after := range []string{"rerun", "undo"} {
			if driver == "qemu" && after == "undo" {
				continue // the same code as with fake; each boot costs seconds
			}
			for _, point := range fault.Points() {
				if driver == "qemu" && strings.HasPrefix(point, "image.") {
					continue // no VMM takes part, and the images would be left in the user's cache
				}
				if strings.HasPrefix(point, "pull.") {
					continue // needs a registry: TestPullKilledAtEveryStep
				}
				t.Run(driver+"/"+point+"/"+after, func(t *testing.T) {
					l := newLab(t, driver, true)
					sc, ok := scenarioOf(point)
					if !ok {
						t.Fatalf("no command of this test reaches %s: add one", point)
					}
					l.crash(sc, point)
					l.tellsTheTruth("m")
					if after == "undo" {
						if r := l.run("rm", "--force", "m"); r.code != 0 && !strings.Contains(r.stderr, "there is no machine") {
							t.Fatalf("rm --force after the crash: %v", r)
						}
						l.must("image", "prune") // what a killed import left
						l.nothingLeft()
						return
					}
					if sc.again == nil {
						sc.again = sc.command
					}
					l.recovers(sc.again)
				})
			}
		}
	}
}

// crash runs the scenario up to the point where its process dies.
func (l *lab) crash(sc scenario, point string) {
	l.t.Helper()
	env := []string{"MVM_CRASH=" + point}
	for _, args := range sc.before {
		e := []string(nil)
		if sc.inSup {
			e = env
		}
		if r := l.with(e, args...); r.code != 0 {
			l.t.Fatalf("mvmctl %s: %v", strings.Join(args, " "), r)
		}
	}
	if sc.orphan {
		l.killSupervisor("m")
	}
	var e []string
	if !sc.inSup || len(sc.before) == 0 {
		e = env
	}
	r := l.with(e, sc.command...)
	if !sc.inSup && r.code != -1 {
		l.t.Fatalf("mvmctl %s did not reach %s: %v", strings.Join(sc.command, " "), point, r)
	}
	if sc.inSup && r.code == 0 && sc.command[0] == "up" {
		l.t.Fatalf("up succeeded although its supervisor died at %s: %v", point, r)
	}
}

// tellsTheTruth checks that a machine that `ls` calls running answers, and that one it calls
// anything else does not.
func (l *lab) tellsTheTruth(name string) {
	l.t.Helper()
	v := l.machine(name)
	if v == nil {
		return
	}
	r := l.run("exec", name, "--", "true")
	switch v.State {
	case "running":
		if r.code != 0 {
			l.t.Errorf("ls says running, but exec: %v", r)
		}
		// What it runs from is known, whenever the command that started it died.
		if r := l.run("image", "rm", v.Image); r.code == 0 {
			l.t.Errorf("the image of a running machine was removed: %v", r)
		}
	case "starting", "stopping": // a process of its own is at it; either is true by now
	default:
		if r.code == 0 {
			l.t.Errorf("ls says %s, but exec works", v.State)
		}
	}
}

// recovers runs the interrupted command again, uses the machine if there is one, and takes it
// down to nothing.
func (l *lab) recovers(command []string) {
	l.t.Helper()
	r := l.run(command...)
	gone := strings.Contains(r.stderr, "there is no machine")
	if r.code != 0 && (!gone || command[0] == "up") {
		l.t.Fatalf("mvmctl %s again: %v", strings.Join(command, " "), r)
	}
	if command[0] == "up" {
		if out := l.must("exec", "m", "--", "echo", "alive"); out != "alive\n" {
			l.t.Errorf("exec printed %q", out)
		}
		l.must("down", "m")
	}
	if l.machine("m") != nil {
		if v := l.machine("m"); v.State == "running" || v.State == "crashed" {
			l.t.Errorf("after it ls says %s (%s)", v.State, v.Problem)
		}
		l.must("rm", "m")
	}
	l.nothingLeft()
}

// The VMM is killed while its supervisor stands at each of its steps.
func TestVMMKilledAtEveryStep(t *testing.T) {
	points := []string{fault.SupBegan, fault.SupVMM, fault.SupChannel, fault.SupReady, fault.SupStopping, fault.SupShutdown}
	for _, driver := range []string{"fake", "qemu"} {
		for _, point := range points {
			t.Run(driver+"/"+point, func(t *testing.T) {
				l := newLab(t, driver, true)
				sc, _ := scenarioOf(point)
				h := l.hold(point)
				var done <-chan result
				if len(sc.before) > 0 {
					if r := l.with(h.env, sc.before[0]...); r.code != 0 {
						t.Fatalf("up: %v", r)
					}
					done = l.start(nil, sc.command...)
				} else {
					done = l.start(h.env, sc.command...)
				}
				h.reached(t, done)
				l.killVMM("m")
				h.release(t)
				r := <-done
				if sc.command[0] == "up" && point != fault.SupReady && r.code == 0 {
					t.Errorf("up succeeded without its VMM: %v", r)
				}
				if sc.command[0] == "down" && r.code != 0 {
					t.Errorf("down of a machine whose VMM died: %v", r)
				}
				if r := l.run("rm", "--force", "m"); r.code != 0 && !strings.Contains(r.stderr, "there is no machine") {
					t.Errorf("rm: %v", r)
				}
				l.nothingLeft()
			})
		}
	}
}

func (l *lab) killSupervisor(name string) {
	l.t.Helper()
	if err := syscall.Kill(l.status(name).Supervisor.Pid, syscall.SIGKILL); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) killVMM(name string) {
	l.t.Helper()
	pid := l.status(name).VMM.Pid
	if pid == 0 {
		l.t.Fatal("no VMM to kill")
	}
	// A fast guest may have powered off by itself by now, which is as good.
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		l.t.Fatal(err)
	}
}

// start runs a command in the background.
func (l *lab) start(env []string, args ...string) <-chan result {
	done := make(chan result, 1)
	go func() {
		defer close(done) // with does not come back from a command that never ends
		done <- l.with(env, args...)
	}()
	return done
}

// hold is a fault point at which a process waits.
type hold struct {
	dir string
	env []string
}

func (l *lab) hold(point string) *hold {
	l.t.Helper()
	dir := filepath.Join(l.dir, "hold")
	if err := os.Mkdir(dir, 0o700); err != nil {
		l.t.Fatal(err)
	}
	for _, fifo := range []string{"reached", "go"} {
		if err := unix.Mkfifo(filepath.Join(dir, fifo), 0o600); err != nil {
			l.t.Fatal(err)
		}
	}
	return &hold{dir: dir, env: []string{"MVM_PAUSE=" + point + "=" + dir}}
}

// reached returns once a process stands at the point. A command that ends without having come
// there fails the test, at once.
func (h *hold) reached(t *testing.T, done <-chan result) {
	t.Helper()
	said := make(chan error, 1)
	go func() {
		_, err := os.ReadFile(filepath.Join(h.dir, "reached"))
		said <- err
	}()
	select {
	case err := <-said:
		if err != nil {
			t.Fatal(err)
		}
	case r := <-done:
		t.Fatalf("it ended without having been there: %v", r)
	}
}

// release lets it go on, and does not hold the next one that comes there.
func (h *hold) release(t *testing.T) {
	t.Helper()
	if err := os.Remove(filepath.Join(h.dir, "reached")); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(h.dir, "go"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
}

// A removal that was killed is finished by whatever comes next: `up` of that name makes a new
// machine and never boots the old one without its disk; `down` finds nothing.
func TestOtherCommandsAfterAnInterruptedRemoval(t *testing.T) {
	for _, point := range []string{fault.RemoveIntent, fault.RemoveDisks, fault.RemoveRecord} {
		t.Run(point, func(t *testing.T) {
			l := newLab(t, "fake", true)
			sc, _ := scenarioOf(point)
			l.crash(sc, point)
			l.recovers([]string{"up", "-d", "--name", "m", "minimal"})
			l.crash(sc, point)
			if r := l.run("down", "m"); r.code != 0 && !strings.Contains(r.stderr, "there is no machine") {
				t.Errorf("down: %v", r)
			}
			if r := l.run("rm", "m"); r.code != 0 && !strings.Contains(r.stderr, "there is no machine") {
				t.Errorf("rm: %v", r)
			}
			l.nothingLeft()
		})
	}
}

// A start that fails leaves a machine that existed before as it was: its disk, and its settings.
func TestAFailedStartOfAnExistingMachineKeepsIt(t *testing.T) {
	l := newLab(t, "fake", false)
	l.must("up", "-d", "--name", "m", "-e", "KEEP=1", "minimal")
	l.must("down", "m")
	if r := l.run("up", "--rm", "-d", "--name", "m", "minimal"); r.code != 125 || !strings.Contains(r.stderr, "--rm") {
		t.Errorf("up --rm of a machine that exists: %v", r)
	}
	r := l.with([]string{"MVM_FAKE_FAULT=die-early"}, "up", "-d", "--name", "m", "-e", "OTHER=1", "minimal")
	if r.code != 125 {
		t.Errorf("a start that fails: %v", r)
	}
	l.must("up", "-d", "--name", "another", "minimal") // heals what there is to heal
	l.must("up", "-d", "--name", "m")
	if out := l.must("exec", "m", "--", "sh", "-c", "echo $KEEP$OTHER"); out != "1\n" {
		t.Errorf("its settings are now %q, want the old ones", out)
	}
	l.must("rm", "--force", "m")
	l.must("rm", "--force", "another")
	l.nothingLeft()
}
