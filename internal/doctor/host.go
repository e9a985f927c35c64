package doctor

import (
	"context"
	"time"
)

// Host is what the checks ask. A nil function leaves its check out.
type Host struct {
	Dirs     []Dir                                        // directories of ours
	MakeDir  func(path string) error                      // makes one, private to its owner
	Backends func(ctx context.Context) []Backend          // every backend of this program, probed by doing
	Install  func(ctx context.Context, name string) error // fetches what a backend lacks
	Kernel   func(ctx context.Context) (Thing, error)     // the default guest kernel, when there is one
	Fetch    func(ctx context.Context) error              // gets the default guest kernel
	Agent    func() (Thing, error)                        // the guest agent inside this program
	Machines func(ctx context.Context) ([]Machine, error)
	Clean    func(ctx context.Context, name string) error // finishes what a dead supervisor left of a machine
	Settings func() error                                 // reads the configuration
	Now      func() time.Time                             // nil: time.Now
}

// Dir is one of our directories.
type Dir struct {
	Name  string // "state", "cache", "runtime"
	Path  string
	Needs int64 // bytes that should be free there; 0 asks nothing
}

// Thing is something that was found, for people and machines.
type Thing struct {
	Name string // "6.1.0-38-cloud-amd64", "mvm-agent 0.1.0"
	Note string // where, how large
}

// Backend is one backend's answer to "can you run here".
type Backend struct {
	Name      string
	Available bool
	Chosen    bool   // what `up` would use
	Better    bool   // `up` would use it before that one, if it could
	Summary   string // version, accelerator, isolation
	Notes     []string
	Problem   string // what is missing
	Remedy    string
	Fetchable bool // Host.Install can get what is missing
	ByName    bool // `up` uses it only when it is named
}

// Machine is one machine's name and state.
type Machine struct {
	Name       string
	Broken     bool   // left behind by a dead supervisor
	Unreadable bool   // its record is damaged, or from a later version: nothing of ours touches it
	Problem    string // in one line
}

// Checks returns the checks for a host, in the order in which a newcomer has to solve them.
func Checks(h Host) []Check {
	if h.Now == nil {
		h.Now = time.Now
	}
	var out []Check
	if h.Settings != nil {
		out = append(out, settingsCheck(h))
	}
	for _, d := range h.Dirs {
		out = append(out, dirCheck(h, d))
	}
	for _, d := range h.Dirs {
		if d.Needs > 0 {
			out = append(out, spaceCheck(d))
		}
	}
	out = append(out, memoryCheck(), clockCheck(h))
	out = append(out, platformChecks()...)
	if h.Agent != nil {
		out = append(out, agentCheck(h))
	}
	if h.Kernel != nil {
		out = append(out, kernelCheck(h))
	}
	if h.Backends != nil {
		out = append(out, backendsCheck(h))
	}
	if h.Machines != nil {
		out = append(out, machinesCheck(h))
	}
	return out
}
