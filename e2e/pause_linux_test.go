package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// TestPause: a machine that stands still is seen as that, says so at once when it is asked, goes
// on, and comes to its end like any other.
func TestPause(t *testing.T) {
	t.Run("fake", func(t *testing.T) { testPause(t, newLab(t, "fake", false)) })
	t.Run("docker", func(t *testing.T) {
		l, docker := inDocker(t, false)
		testPause(t, l)

		// Nobody is left who could let it go on but the next command.
		l.must("up", "-d", "--name", "box", "minimal")
		l.must("pause", "box")
		killSupervisor(t, l, "box")
		l.must("down", "box")
		if out := docker("ps", "-q"); out != "" {
			t.Errorf("runs after down: %s", out)
		}
		l.must("rm", "box")

		// Somebody else paused it.
		l.must("up", "-d", "--name", "box", "minimal")
		docker("pause", docker("ps", "-q"))
		l.must("resume", "box")
		l.must("exec", "box", "--", "true")
		l.must("rm", "--force", "box")
		if out := docker("ps", "-aq"); out != "" {
			t.Errorf("left: %s", out)
		}
	})
}

func killSupervisor(t *testing.T, l *lab, name string) {
	t.Helper()
	if err := syscall.Kill(l.status(name).Supervisor.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func testPause(t *testing.T, l *lab) {
	t.Helper()
	l.must("up", "-d", "--name", "box", "minimal")
	for range 2 {
		if out := l.must("pause", "box"); out != "box\n" {
			t.Errorf("pause prints %q", out)
		}
	}
	if v := l.machine("box"); v == nil || v.State != string(machine.StatePaused) {
		t.Errorf("ls of a paused machine: %+v", v)
	}
	if out := l.must("inspect", "box"); !strings.Contains(out, "paused") {
		t.Errorf("inspect of a paused machine: %s", out)
	}
	begin := time.Now()
	for _, args := range [][]string{{"exec", "box", "--", "true"}, {"up", "-d", "--name", "box"}, {"cp", "box:/etc/passwd", "-"}} {
		if r := l.run(args...); r.code != 125 || !strings.Contains(r.stderr, "is paused") || !strings.Contains(r.stderr, "mvmctl resume box") {
			t.Errorf("%q of a paused machine: %v", args, r)
		}
	}
	if took := time.Since(begin); took > 15*time.Second {
		t.Errorf("a paused machine says so after %v", took)
	}
	for range 2 {
		l.must("resume", "box")
		l.must("exec", "box", "--", "true")
	}
	l.must("pause", "box")
	l.must("down", "box")
	if r := l.run("pause", "--json", "box"); r.code != 125 || !strings.Contains(r.stderr, "machine.not_running") {
		t.Errorf("pause of a stopped machine: %v", r)
	}
	if st := l.status("box"); st.State != machine.StateExited || strings.Contains(st.Reason, "killed") {
		t.Errorf("a paused machine was stopped: %+v", st)
	}
	l.must("up", "-d", "--name", "box")
	l.must("pause", "box")
	l.must("rm", "--force", "box")
	l.nothingLeft()
}
