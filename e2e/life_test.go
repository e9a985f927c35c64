package e2e

import (
	"context"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Nothing piles up: many machines come and go and zero is left.
func TestCyclesLeaveNothing(t *testing.T) {
	for driver, cycles := range map[string]int{"fake": 200, "qemu": 10} {
		t.Run(driver, func(t *testing.T) {
			l := newLab(t, driver, false)
			for i := range cycles {
				l.must("up", "-d", "--name", "m", "minimal")
				l.must("down", "m")
				if i%2 == 1 {
					l.must("rm", "m")
					l.nothingLeft()
				}
			}
		})
	}
}

// Two `up` of one name at the same moment: one wins, the other says so.
func TestTwoStartsOfOneName(t *testing.T) {
	eachDriver(t, false, func(t *testing.T, l *lab) {
		rounds := 20
		if l.driver == "qemu" {
			rounds = 1
		}
		for range rounds {
			var results [2]result
			var wg sync.WaitGroup
			for i := range results {
				wg.Go(func() { results[i] = l.run("up", "-d", "--name", "m", "minimal") })
			}
			wg.Wait()
			told := 0
			for _, r := range results {
				if r.code != 0 && !strings.Contains(r.stderr, "in use by") {
					t.Errorf("%v", r)
				}
				if r.code != 0 || strings.Contains(r.stderr, "running already") {
					told++
				}
			}
			if told != 1 {
				t.Errorf("%d of two were told that the other one won: %v", told, results)
			}
			if n := len(l.list()); n != 1 {
				t.Errorf("%d machines", n)
			}
			l.must("exec", "m", "--", "true")
			l.must("rm", "--force", "m")
			l.nothingLeft()
		}
	})
}

// Ctrl-C at any moment of a foreground run cleans up and exits 130.
func TestInterruptCleansUp(t *testing.T) {
	eachDriver(t, false, func(t *testing.T, l *lab) {
		ctx, cancel := context.WithTimeout(context.Background(), commandTime)
		defer cancel()
		cmd := l.command(ctx, nil, "up", "minimal", "--", "sh", "-c", "echo started; sleep 600")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		s := &screen{r: out}
		s.waitFor(t, "started")
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 130 {
			t.Errorf("exit %d, want 130", code)
		}
		l.nothingLeft()
	})
}

// A supervisor that hangs blocks nobody for long, and --force works without it.
func TestAHangingSupervisor(t *testing.T) {
	l := newLab(t, "fake", false)
	l.must("up", "-d", "--name", "m", "minimal")
	l.must("up", "-d", "--name", "other", "minimal")
	if err := syscall.Kill(l.status("m").Supervisor.Pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if len(l.list()) != 2 {
		t.Error("ls does not show both")
	}
	l.must("exec", "other", "--", "true")
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("the others waited %s", d)
	}
	l.must("down", "--force", "m")
	l.must("rm", "m")
	l.must("rm", "--force", "other")
	l.nothingLeft()
}
