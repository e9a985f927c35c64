package drivertest

import (
	"context"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/driver"
)

// stillTime is how long a paused guest is watched. It makes the test see less, never fail.
const stillTime = 300 * time.Millisecond

// testPause: a paused guest answers nothing, goes on where it was, and can be killed.
func testPause(s *suite, t *testing.T) {
	g := s.started(t)
	p, ok := g.vm.(driver.Pauser)
	if !ok {
		t.Skipf("machines of %s cannot be paused", s.driver.Name())
	}
	c := g.connect()
	for range 2 {
		if err := p.Pause(s.patient(t)); err != nil {
			t.Fatalf("Pause: %v", err)
		}
	}
	answered := make(chan error, 1)
	go func() {
		_, err := c.Exec(s.patient(t), agentproto.ExecStart{Process: agentproto.Process{Args: []string{"true"}}}, agentclient.Streams{})
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Fatalf("a paused guest answers: %v", err)
	case <-time.After(stillTime):
	}
	for range 2 {
		if err := p.Resume(s.patient(t)); err != nil {
			t.Fatalf("Resume: %v", err)
		}
	}
	if err := <-answered; err != nil {
		t.Errorf("what was asked of a paused guest: %v", err)
	}
	if err := p.Pause(s.patient(t)); err != nil {
		t.Fatalf("Pause: %v", err)
	}
	if err := g.vm.Kill(); err != nil {
		t.Errorf("Kill of a paused machine: %v", err)
	}
	if err := g.wait(); err != nil {
		t.Errorf("Wait: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), s.Patience)
	defer cancel()
	if err := p.Pause(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("Pause after the end: %v", err)
	}
}
