//go:build unix

package agent_test

import (
	"testing"

	"github.com/mvmctl/mvmctl/internal/agent"
)

// Greeted comes with the first request after the hello, which shows that the host has the answer,
// and once.
func TestGreetedComesOnceTheHostHasItsAnswer(t *testing.T) {
	greeted := make(chan struct{}, 4)
	g := boot(t, func(o *agent.Options) { o.Greeted = func() { greeted <- struct{}{} } })
	c := g.connect()
	if len(greeted) != 0 {
		t.Error("called for the hello itself")
	}
	for range 2 {
		if _, err := c.Status(deadline(t)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(greeted); n != 1 {
		t.Errorf("called %d times, want once", n)
	}
}
