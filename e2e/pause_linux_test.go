package e2e

import (
	"strings"
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
		l.killSupervisor("box")
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

// TestForcedStopOfAPausedMachine: it ends at once, as one that runs, and what outlives it was written.
func TestForcedStopOfAPausedMachine(t *testing.T) {
	volume := []string{"-v", "data:/data"}
	for _, tt := range []struct {
		name string
		lab  func(t *testing.T) *lab
		with []string
	}{
		{"fake", func(t *testing.T) *lab { return newLab(t, "fake", false) }, nil},
		{"qemu", func(t *testing.T) *lab { return newLab(t, "qemu", false) }, volume},
		{"docker", func(t *testing.T) *lab { l, _ := inDocker(t, false); return l }, volume},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := tt.lab(t)
			up := append([]string{"up", "-d", "--name", "box", "minimal"}, tt.with...)
			l.must(up...)
			if tt.with != nil {
				l.must("exec", "box", "--", "sh", "-c", "echo kept > /data/f")
			}
			l.must("pause", "box")
			begin := time.Now()
			l.must("down", "--force", "box")
			if took := time.Since(begin); took > 30*time.Second {
				t.Errorf("it took %v", took)
			}
			if v := l.machine("box"); v == nil || v.State != string(machine.StateExited) || len(l.processes()) > 0 {
				t.Errorf("afterwards: %+v, %d processes", v, len(l.processes()))
			}
			if tt.with != nil {
				l.must("up", "-d", "--name", "box")
				if out := l.must("exec", "box", "--", "cat", "/data/f"); out != "kept\n" {
					t.Errorf("what it wrote: %q", out)
				}
			}
			l.must("rm", "--force", "box")
			if tt.with != nil {
				l.must("volume", "rm", "data")
			}
			l.nothingLeft()
		})
	}
}
