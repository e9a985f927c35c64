package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

func start(t *testing.T) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), "sleep", "300")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOneselfIsRunning(t *testing.T) {
	me, err := Identify(os.Getpid())
	if err != nil || me.Pid != os.Getpid() || me.Start == 0 || me.BootID == "" {
		t.Fatalf("Identify: %+v, %v", me, err)
	}
	if !Running(me) {
		t.Error("not running")
	}
}

// A pid alone is nothing: with another start time or boot it is somebody else's and is never hit.
func TestAReusedPidIsNeverHit(t *testing.T) {
	c := start(t)
	defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
	id, err := Identify(c.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	other, rebooted := id, id
	other.Start++
	rebooted.BootID = "other"
	for name, p := range map[string]machine.Process{"other start": other, "other boot": rebooted, "no pid": {}, "init": {Pid: 1}} {
		if Running(p) && p.Pid != 1 {
			t.Errorf("%s: running", name)
		}
		if err := Kill(context.Background(), p); !errors.Is(err, ErrGone) {
			t.Errorf("%s: Kill = %v, want ErrGone", name, err)
		}
	}
	if !Running(id) {
		t.Fatal("the stranger was hit")
	}
}

func TestKillWaitsForTheEnd(t *testing.T) {
	c := start(t)
	id, err := Identify(c.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	waited := make(chan struct{})
	go func() { _ = c.Wait(); close(waited) }()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := Kill(ctx, id); err != nil {
		t.Fatal(err)
	}
	if Running(id) {
		t.Error("still running after Kill")
	}
	<-waited
	if err := Kill(ctx, id); !errors.Is(err, ErrGone) {
		t.Errorf("killing again: %v, want ErrGone", err)
	}
}

func TestAZombieIsGone(t *testing.T) {
	c := exec.CommandContext(t.Context(), "true")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = out.Read(make([]byte, 1)) // EOF: it has ended, nobody has waited for it
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, err := Identify(c.Process.Pid)
		if errors.Is(err, ErrGone) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("Identify of a zombie: %v", err)
		}
	}
	_ = c.Wait()
}
