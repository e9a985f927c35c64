// Package wire is what a kvmhost and its process 1 say to each other. It is no protocol for
// anything else: it has no versions, and each end trusts the other.
package wire

// PortName is the virtio port over which the host and its process 1 talk: JSON values, one
// command at a time.
const PortName = "kvmhost"

// Command is what to run. Program and arguments are Args; nothing is added to Env.
type Command struct {
	Args []string
	Env  []string
	Dir  string
	UID  uint32 // also the group
}

// ToInit is what the host sends: a command, the wish to end the one that runs, or the question whether
// the machine still goes.
type ToInit struct {
	Run  *Command `json:",omitempty"`
	Kill bool     `json:",omitempty"`
	Ping bool     `json:",omitempty"`
}

// FromInit is what comes back: once that the host is there; of a command its output and its end; to
// each Ping a Pong at once.
type FromInit struct {
	Pong   bool   `json:",omitempty"`
	Ready  bool   `json:",omitempty"`
	Out    []byte `json:",omitempty"`
	Err    []byte `json:",omitempty"`
	Ended  bool   `json:",omitempty"`
	Code   int    `json:",omitempty"` // 128 and the signal where one ended the command
	Failed string `json:",omitempty"` // why it did not start, or the host does not
}
