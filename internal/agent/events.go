package agent

import (
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

const (
	maxEvents       = 1024    // events that are kept
	maxEventMessage = 4 << 10 // bytes of one event's message
)

// Events keeps the newest events of the guest for the host to read.
type Events struct{ ring *ring[agentproto.Event] }

// NewEvents returns an empty list.
func NewEvents() *Events {
	return &Events{newRing(maxEvents, func(agentproto.Event) int { return 1 })}
}

// End appends the last event: whatever comes later is not kept.
func (ev *Events) End() {
	ev.ring.finish(func(seq uint64) agentproto.Event {
		return agentproto.Event{Seq: seq, Time: time.Now().UTC(), Type: agentproto.EventStopped}
	})
}

// Add appends e; its Seq and Time are filled in.
func (ev *Events) Add(e agentproto.Event) {
	e.Message = strings.ToValidUTF8(e.Message, "\uFFFD")
	e.Message = e.Message[:runeCut(e.Message, maxEventMessage)]
	e.Time = time.Now().UTC()
	ev.ring.add(func(seq uint64) agentproto.Event {
		e.Seq = seq
		return e
	})
}
