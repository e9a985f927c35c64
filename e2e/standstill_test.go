package e2e

import (
	"context"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// longWait is what the commands below may take beyond their own time on a busy host. It is far
// from what they took when they waited for a guest that stands still.
const longWait = 20 * time.Second

// Whoever waits for a guest that stands still gets out: by the time given, and by a signal.
func TestAGuestThatStandsStill(t *testing.T) {
	eachDriver(t, false, func(t *testing.T, l *lab) {
		l.must("up", "-d", "--name", "m", "minimal")
		one, two := l.sleeper("m"), l.sleeper("m")
		if err := syscall.Kill(l.status("m").VMM.Pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}

		begin := time.Now()
		r := l.run("exec", "--timeout", "1s", "m", "--", "true")
		if r.code != machine.ExitTimeout || !strings.Contains(r.stderr, "did not end within 1s") {
			t.Errorf("exec --timeout: %v", r)
		}
		if d := time.Since(begin); d > 6*time.Second+longWait {
			t.Errorf("exec --timeout 1s took %s", d)
		}

		if code, d := signalled(t, one, syscall.SIGTERM); code != 143 || d > 5*time.Second+longWait {
			t.Errorf("exec after SIGTERM: exit %d after %s, want 143", code, d)
		}
		if code, d := signalled(t, two, syscall.SIGINT, syscall.SIGINT); code != 130 || d > 5*time.Second+longWait {
			t.Errorf("exec after SIGINT twice: exit %d after %s, want 130", code, d)
		}

		begin = time.Now()
		l.must("down", "--time", "2s", "m")
		if d := time.Since(begin); d > 8*time.Second+longWait {
			t.Errorf("down --time 2s took %s", d)
		}
		if m := l.machine("m"); m == nil || m.State != string(machine.StateExited) {
			t.Errorf("after down: %+v", m)
		}
		l.must("rm", "m")
		l.nothingLeft()
	})
}

// A signal goes to the guest's command, which may take its time over it.
func TestASignalIsTheCommandsOwn(t *testing.T) {
	eachDriver(t, false, func(t *testing.T, l *lab) {
		l.must("up", "-d", "--name", "m", "minimal")
		if code, _ := signalled(t, l.sleeper("m", "trap 'sleep 7; exit 9' TERM;"), syscall.SIGTERM); code != 9 {
			t.Errorf("exit %d, want the command's own 9", code)
		}
		l.must("rm", "--force", "m")
		l.nothingLeft()
	})
}

// sleeper starts an exec that would go on for long, and returns once its command runs.
func (l *lab) sleeper(name string, script ...string) *exec.Cmd {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	l.t.Cleanup(cancel)
	cmd := l.command(ctx, nil, "exec", name, "--", "sh", "-c", strings.Join(script, " ")+"echo started; i=0; while [ $i -lt 6000 ]; do sleep 0.1; i=$((i+1)); done")
	out, err := cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	(&screen{r: out}).waitFor(l.t, "started")
	return cmd
}

// signalled sends signals to a command, waits for its end, and returns its exit code and how
// long that took.
func signalled(t *testing.T, cmd *exec.Cmd, signals ...syscall.Signal) (int, time.Duration) {
	t.Helper()
	begin := time.Now()
	for _, s := range signals {
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode(), time.Since(begin)
}
