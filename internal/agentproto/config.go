package agentproto

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
)

// Config is config.json on the config drive: everything the guest needs to know. The drive is
// root-only and new for each generation.
type Config struct {
	Protocol   int    `json:"protocol"`   // Version
	MachineID  string `json:"machine_id"` // 16 lower-case hex digits
	Name       string `json:"name"`
	Hostname   string `json:"hostname"`
	Generation uint64 `json:"generation"`

	GuestSeed []byte `json:"guest_seed"` // 32 bytes: private Ed25519 seed of this guest and generation
	HostKey   []byte `json:"host_key"`   // 32 bytes: public Ed25519 key of the one allowed host
	Random    []byte `json:"random"`     // 64 bytes mixed into the kernel's entropy

	Env      map[string]string `json:"env,omitempty"` // for every process of the machine
	Users    []User            `json:"users,omitempty"`
	Main     *Main             `json:"main,omitempty"`
	Services []Service         `json:"services,omitempty"`
	Checks   []Check           `json:"checks,omitempty"`
	Mounts   []Mount           `json:"mounts,omitempty"`
	Access   Access            `json:"access"`

	ConsoleIdle Duration `json:"console_idle,omitempty"` // 0: ConsoleIdle
}

// Mount is one volume of the machine.
type Mount struct {
	Serial   string `json:"serial"`          // of its drive
	Path     string `json:"path"`            // absolute
	Entry    string `json:"entry,omitempty"` // mount only this file of the drive's root
	ReadOnly bool   `json:"read_only,omitempty"`
	// Memory copies what the drive holds to a file system in memory and lets go of the drive.
	Memory bool `json:"memory,omitempty"`
	// Keep marks a drive that outlives the machine: when it is empty, what the image has at
	// Path is copied to it first, owners included.
	Keep bool `json:"keep,omitempty"`
}

// User is an account that the agent makes sure exists.
type User struct {
	Name  string `json:"name"`
	UID   uint32 `json:"uid"`
	GID   uint32 `json:"gid"`
	Home  string `json:"home,omitempty"`
	Shell string `json:"shell,omitempty"`
}

// Process is one program to run in the guest.
type Process struct {
	Args []string          `json:"args"`
	Env  map[string]string `json:"env,omitempty"`
	Dir  string            `json:"dir,omitempty"`  // working directory; "" is the user's home or /
	User string            `json:"user,omitempty"` // name or uid[:gid]; "" is root
}

// Main is the program a machine is for. When it ends, the machine ends with its exit code.
type Main struct {
	Process
	// Attach makes the agent wait for a host that attaches before it starts the program, so
	// that no output is lost.
	Attach bool `json:"attach,omitempty"`
	// MakeDir makes the working directory if it is not there: an image may name one that it has not.
	MakeDir bool `json:"make_dir,omitempty"`
	TTY     bool `json:"tty,omitempty"` // give it a terminal (only with Attach)
	// StopSignal asks it to end: "SIGTERM" when empty, and for an init the signal that this
	// kind of init understands.
	StopSignal string `json:"stop_signal,omitempty"`
	// Init makes the program an init: process 1 of PID, mount and cgroup namespaces of its own,
	// in which everything that is started later runs too. The first argument is its path or
	// InitOfImage. When it powers off or reboots, the machine ends with exit code 0.
	Init bool `json:"init,omitempty"`
}

// InitOfImage stands for the path of an init: the first of the usual ones that is there.
const InitOfImage = "image"

// Service is a program that the agent keeps running.
type Service struct {
	Name string `json:"name"` // [a-z0-9][a-z0-9-]{0,62}
	Process
	PreStart    []string `json:"pre_start,omitempty"`    // runs to success before each start
	Restart     string   `json:"restart,omitempty"`      // "always" (default), "on-failure", "never"
	StopTimeout Duration `json:"stop_timeout,omitempty"` // SIGTERM → SIGKILL; 0: KillGrace
	BackoffMax  Duration `json:"backoff_max,omitempty"`  // longest pause between starts; 0: 30 s
	LogFile     string   `json:"log_file,omitempty"`     // also append output to this guest file
	StartGrace  Duration `json:"start_grace,omitempty"`  // running this long counts as started; 0: 1 s
	MaxRestarts int      `json:"max_restarts,omitempty"` // 0: no limit
	StopSignal  string   `json:"stop_signal,omitempty"`  // "SIGTERM" when empty
}

// Check is a health check or a probe: a command that must exit 0 within its timeout.
type Check struct {
	Name     string   `json:"name"`
	Kind     string   `json:"kind,omitempty"` // "health" (default) or "probe" (informational: its output is kept)
	Command  []string `json:"command"`
	Service  string   `json:"service,omitempty"`  // the service it speaks for, if any
	Interval Duration `json:"interval,omitempty"` // 0: 10 s
	Timeout  Duration `json:"timeout,omitempty"`  // 0: 5 s; a check that times out is unhealthy
	Grace    Duration `json:"grace,omitempty"`    // failures this long after start count as "starting"
	Retries  int      `json:"retries,omitempty"`  // failures in a row until unhealthy; 0: 3
}

// Access is the guest's policy; the agent enforces it itself.
type Access struct {
	Console bool `json:"console"`
	Exec    bool `json:"exec"`
	Copy    bool `json:"copy"`
	Forward bool `json:"forward"`
}

// AllAccess is what a development machine allows; a sealed one has the zero Access.
func AllAccess() Access { return Access{Console: true, Exec: true, Copy: true, Forward: true} }

// Duration is a time.Duration that JSON writes as text ("1.5s") and reads as text or as a
// number of seconds.
type Duration time.Duration

// MarshalJSON implements json.Marshaler.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON implements json.Unmarshaler.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var secs float64
	if err := json.Unmarshal(b, &secs); err == nil {
		if secs < 0 || secs > 1e9 {
			return fmt.Errorf("duration of %v seconds is out of range", secs)
		}
		*d = Duration(secs * float64(time.Second))
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return err
	}
	if v < 0 {
		return fmt.Errorf("duration %s is negative", s)
	}
	*d = Duration(v)
	return nil
}

// Or returns d, or def when d is zero.
func (d Duration) Or(def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return time.Duration(d)
}

// ReadConfig reads and checks a config drive's config.json. Unknown fields, trailing data and
// anything over MaxConfig are errors: an agent that cannot read its drive stays closed.
func ReadConfig(r io.Reader) (*Config, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("reading config: %w", err)
	}
	if len(data) > MaxConfig {
		return nil, &Error{Code: CodeUnprovisioned, Message: "config drive holds more than 4 MiB"}
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var c Config
	if err := dec.Decode(&c); err != nil {
		return nil, &Error{Code: CodeUnprovisioned, Message: fmt.Sprintf("config drive is unreadable: %v", err)}
	}
	// Not dec.More: it takes a stray closing bracket for the end of the data.
	if _, err := dec.Token(); err != io.EOF {
		return nil, &Error{Code: CodeUnprovisioned, Message: "config drive has data after its end"}
	}
	if err := c.check(); err != nil {
		return nil, &Error{Code: CodeUnprovisioned, Message: "config drive is invalid: " + err.Error()}
	}
	return &c, nil
}

func (c *Config) check() error {
	switch {
	case c.Protocol != Version:
		return fmt.Errorf("protocol %d, this agent speaks %d", c.Protocol, Version)
	case len(c.MachineID) != 16:
		return fmt.Errorf("machine id of %d characters", len(c.MachineID))
	case c.Generation == 0:
		return fmt.Errorf("no generation")
	case len(c.GuestSeed) != ed25519.SeedSize:
		return fmt.Errorf("guest seed of %d bytes", len(c.GuestSeed))
	case len(c.HostKey) != ed25519.PublicKeySize:
		return fmt.Errorf("host key of %d bytes", len(c.HostKey))
	case checkPin(c.HostKey) != nil:
		return fmt.Errorf("host key: %w", checkPin(c.HostKey))
	case len(c.Random) != 64:
		return fmt.Errorf("%d random bytes", len(c.Random))
	case len(c.Services) > MaxServices || len(c.Checks) > MaxServices:
		return fmt.Errorf("more than %d services or checks", MaxServices)
	case c.Main != nil && len(c.Main.Args) == 0:
		return fmt.Errorf("main program has no command")
	}
	if len(c.Mounts) > MaxMounts {
		return fmt.Errorf("more than %d mounts", MaxMounts)
	}
	for _, m := range c.Mounts {
		if !path.IsAbs(m.Path) || path.Clean(m.Path) != m.Path || m.Path == "/" || m.Serial == "" || strings.ContainsRune(m.Entry, '/') {
			return fmt.Errorf("mount %q of drive %q", m.Path, m.Serial)
		}
	}
	for _, s := range c.Services {
		if s.Name == "" || len(s.Args) == 0 {
			return fmt.Errorf("service %q has no name or no command", s.Name)
		}
	}
	for _, k := range c.Checks {
		if k.Name == "" || len(k.Command) == 0 {
			return fmt.Errorf("check %q has no name or no command", k.Name)
		}
	}
	return nil
}
