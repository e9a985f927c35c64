package guestinit

import (
	"errors"
	"io"
	"os"
	"sync"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// ProbeLine is what a boot probe (mvm.probe on the kernel command line) prints on its console.
const ProbeLine = "mvm-probe-ok"

// ErrProbe is what Boot returns for a boot probe: ProbeLine has been printed, nothing else has
// been done, and the caller shall power off.
var ErrProbe = errors.New("boot probe")

// PortName is the virtio-serial port of the agent's channel.
const PortName = "mvm.agent"

// Options are the inputs of Boot.
type Options struct {
	Log      io.Writer // the console; one short line per event
	Commands []string  // names of the user land's commands, each a link in agentproto.GuestBin
}

// System is a guest that has been brought up.
type System struct {
	Config *agentproto.Config
	Upper  string // overlay upper directory; root only
	Lower  string // the image's file system, read-only; root only; "" when there is no image
	Env    map[string]string
	Slow   bool // the processor is emulated: deadlines should be generous

	log     io.Writer
	console lateConsole
	ending  <-chan os.Signal // asks for the machine's end
	uevents *uevents
	secrets string   // block device of the secrets drive, "" without one
	rest    []module // modules that are not loaded yet
	reset   bool     // a reset instead of a power-off

	mu      sync.Mutex
	timings []agentproto.Timing
}

// Timings returns the phases of the boot so far, in order.
func (s *System) Timings() []agentproto.Timing {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]agentproto.Timing(nil), s.timings...)
}
