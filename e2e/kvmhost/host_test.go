package kvmhost

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os/exec"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/e2e/kvmhost/wire"
)

// A host that answers no ping any more is ended, and what waits for it is told so; one that answers is
// left alone for as long as a command runs.
func TestAHostThatStandsStill(t *testing.T) {
	ours, theirs := net.Pipe()
	h := &Host{
		from: make(chan wire.FromInit), exited: make(chan struct{}), port: ours, enc: json.NewEncoder(ours),
		every: time.Millisecond, patience: 2 * time.Second, cmd: exec.CommandContext(t.Context(), "sleep", "600"),
	}
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(h.exited)
		_ = h.cmd.Wait()
		_ = theirs.Close()
	}()
	go h.receive()
	enc, dec := json.NewEncoder(theirs), json.NewDecoder(theirs)
	pings := make(chan struct{})
	go func() { // its process 1: its first command ends with the twentieth ping, then it stands still
		_ = enc.Encode(wire.FromInit{Ready: true})
		for commands, seen := 0, 0; ; {
			var m wire.ToInit
			if dec.Decode(&m) != nil {
				return
			}
			if m.Run != nil {
				commands++
			}
			if m.Ping {
				if seen++; seen <= 20 {
					_ = enc.Encode(wire.FromInit{Pong: true})
				}
				if seen == 20 && commands == 1 {
					_ = enc.Encode(wire.FromInit{Ended: true, Code: 3})
					close(pings)
				}
			}
		}
	}()
	if m := <-h.from; !m.Ready {
		t.Fatalf("first it said %+v", m)
	}
	if code, err := h.Run(t.Context(), wire.Command{Args: []string{"x"}}, io.Discard, io.Discard); code != 3 || err != nil {
		t.Errorf("a command in a host that answers: %d, %v", code, err)
	}
	<-pings
	if _, err := h.Run(t.Context(), wire.Command{Args: []string{"x"}}, io.Discard, io.Discard); !errors.Is(err, ErrStuck) {
		t.Errorf("in a host that stands still: %v", err)
	}
	select {
	case <-h.exited:
	case <-time.After(time.Minute):
		t.Error("it was not ended")
	}
	if _, err := h.Run(t.Context(), wire.Command{Args: []string{"x"}}, io.Discard, io.Discard); !errors.Is(err, ErrStuck) {
		t.Errorf("afterwards: %v", err)
	}
}
