// Package supervisor owns one running machine from start to stop: the VMM, the guest's
// console and logs, the one authenticated connection to the agent, the published ports and
// the control socket. One process runs it, detached from the command that started it.
//
// It does not decide what a machine is made of (the engine does), does not know any VMM (the
// drivers do) and keeps no records (the store does; the supervisor is handed a function that
// saves its status). Only the composition root calls it.
package supervisor

import (
	"io"
	"log/slog"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// Request is what the engine asks of a new supervisor; it travels as JSON over a pipe and
// never touches a disk, since it holds the host's private key.
type Request struct {
	Boot      machine.Boot   `json:"boot"`
	HostSeed  []byte         `json:"host_seed"` // private Ed25519 seed of this machine and generation
	GuestKey  []byte         `json:"guest_key"` // public Ed25519 key of the guest
	Ports     []machine.Port `json:"ports,omitempty"`
	Isolation string         `json:"isolation"`
	Slow      bool           `json:"slow,omitempty"` // the guest is emulated: generous handshakes
}

// Event is one JSON line that the supervisor writes to whoever started it, until the machine
// is ready or has failed.
type Event struct {
	Type    string           `json:"type"` // "phase", "ready" or "failed"
	Phase   *machine.Phase   `json:"phase,omitempty"`
	Status  *machine.Status  `json:"status,omitempty"`
	Failure *machine.Failure `json:"failure,omitempty"`
}

// Event types.
const (
	EventPhase  = "phase"
	EventReady  = "ready"
	EventFailed = "failed"
)

// Options are what Run needs.
type Options struct {
	Request    Request
	Driver     driver.Driver
	Places     paths.Machine
	Build      string                     // version of this program
	SaveStatus func(machine.Status) error // called on every change
	Events     io.WriteCloser             // JSON lines of Event; closed when there are no more
	Log        *slog.Logger
}

// How long things may take. A guest that needs longer is cut off.
const (
	defaultGrace   = 10 * time.Second // for a stop request that does not say
	powerOffTime   = 15 * time.Second // from the agent's last word to the VMM's end
	slowFactor     = 4                // for emulated guests
	minAnswerTime  = 5 * time.Second  // for the agent's answer to a stop request, whatever its grace
	flushTime      = 5 * time.Second  // for a guest that is killed to write to its volumes
	powerKeyTime   = 3 * time.Second  // after the power button
	drainLogs      = 3 * time.Second  // for the guest's last log lines
	drainMain      = time.Minute      // for an attached command's output after it ended
	reconnectPause = 50 * time.Millisecond

	maxReconnectPause = 5 * time.Second
	steadyTime        = 10 * time.Second // a connection that held this long was a good one
)
