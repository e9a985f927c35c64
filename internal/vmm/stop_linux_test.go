package vmm

import (
	"errors"
	"testing"
)

func TestStopAndContinue(t *testing.T) {
	c, err := Command{Name: "X", Argv: []string{"/bin/sleep", "300"}}.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Kill() }()
	until := func(want bool) {
		t.Helper()
		var r Retry
		for c.Stopped() != want {
			if err := r.Pause(t.Context(), c.Exited); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 2 {
		for range 2 {
			if err := c.Stop(); err != nil {
				t.Fatal(err)
			}
		}
		until(true)
		if err := c.Continue(); err != nil {
			t.Fatal(err)
		}
		until(false)
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	until(true)
	if err := c.Kill(); err != nil {
		t.Error(err)
	}
	<-c.Exited
	if err := c.Stop(); !errors.Is(err, ErrEnded) {
		t.Errorf("Stop after the end: %v", err)
	}
	if err := c.Continue(); !errors.Is(err, ErrEnded) {
		t.Errorf("Continue after the end: %v", err)
	}
	if c.Stopped() {
		t.Error("what has ended stands still")
	}
}
