// Package agentproto is the protocol between the host and the guest agent, profile
// mvm-agent/1: what the config drive says, the requests and answers inside the channel, the
// records of a stream, and the limits both sides keep.
//
// It holds messages, their encoding and the TLS profile that both ends must keep alike: no
// sockets, no policy. The host end is agentclient, the guest end is agent; each imports this
// package and neither the other. Everything that arrives from the other side is hostile: decoders here bound every
// length before they allocate.
package agentproto

import "time"

// Version is the protocol version. A peer that says another one is refused by name; there is
// no negotiation and no fallback.
const Version = 1

// ALPN is the only application protocol the TLS handshake accepts.
const ALPN = "mvm-agent/1"

// Limits that both ends keep.
const (
	MaxCertificate  = 2 << 10   // bytes of the one certificate a peer may send
	MaxRecord       = 256 << 10 // bytes of one record's body
	MaxRequest      = 1 << 20   // bytes of one JSON request or answer
	MaxStreams      = 64        // concurrent streams per connection
	MaxConfig       = 4 << 20   // bytes of config.json on the config drive
	MaxArgs         = 4096      // command words of one process
	MaxEnv          = 4096      // environment entries of one process
	MaxLogLine      = 16 << 10  // bytes of one log entry's text; longer lines are split
	MaxServices     = 256       // services and checks of one machine, each
	MaxMounts       = 32        // volumes of one machine
	MaxPendingConns = 16        // handshakes under way at once in the guest
	StdinWindow     = 256 << 10 // bytes of RecStdin a host may send ahead of RecCredit
	MaxLine         = 256 << 10 // bytes of one JSON line of events, logs and changes
)

// Deadlines that both ends keep.
const (
	HandshakeTimeout = 5 * time.Second  // TLS handshake and hello, on hardware virtualisation
	SlowHandshake    = 30 * time.Second // the same under emulation
	ConsoleIdle      = 15 * time.Minute // a console without input or output ends
	KillGrace        = 5 * time.Second  // between SIGTERM (or SIGHUP) and SIGKILL
)

// Commands of the agent binary in a container, where no kernel starts it: the first process, which
// takes its configuration from its standard input (the length as four bytes, highest first, then
// config.json) and ends when that input does; and one that passes its standard input and output on
// to the first's channel, after it has said BridgeGreeting: an engine may put words of its own in
// their place when it cannot start a process.
const (
	ContainerCommand = "container"
	BridgeCommand    = "bridge"
	BridgeGreeting   = "mvm-bridge/1\n"
)

// Paths in the guest that both ends know.
const (
	GuestDir     = "/run/mvm"           // the agent's own directory in the guest, a tmpfs or bind mount
	GuestBin     = "/run/mvm/bin"       // the user land: one link per command
	GuestAgent   = "/run/mvm/mvm-agent" // the agent binary, read-only
	ConfigFile   = "config.json"        // on the config drive
	UpperDir     = "/run/mvm/upper"     // folder of mode 0700 around the disks; the overlay's upper directory is disk/upper in it
	SecretsMount = "/run/mvm/secrets"   // tmpfs with what the secrets drive carried

	ContainerSocketDir = "/run/mvm/channel"            // in a container: root only
	ContainerSocket    = ContainerSocketDir + "/agent" // unix socket of the channel
)
