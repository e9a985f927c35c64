package machine

import (
	"errors"
	"time"
)

// Spec is what the user asked for, before any question is answered. Zero values mean "not
// said": the engine fills in defaults.
type Spec struct {
	Name      string            `json:"name"`
	Image     string            `json:"image"`             // a name from the catalog, such as "minimal"
	Runner    string            `json:"runner,omitempty"`  // store path of a microvm.nix runner; Image then says of which flake
	Command   []string          `json:"command,omitempty"` // replaces the image's command
	Env       map[string]string `json:"env,omitempty"`
	Dir       string            `json:"dir,omitempty"`  // working directory of Command
	User      string            `json:"user,omitempty"` // user of Command
	Init      string            `json:"init,omitempty"` // instead of a command: InitImage or the path of an init in the guest
	CPUs      int               `json:"cpus,omitempty"`
	Memory    int64             `json:"memory_bytes,omitempty"`
	Disk      int64             `json:"disk_bytes,omitempty"` // size of the machine's own disk
	Ports     []Port            `json:"ports,omitempty"`
	Volumes   []Volume          `json:"volumes,omitempty"`
	Services  []Service         `json:"services,omitempty"`
	Checks    []Check           `json:"checks,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Driver    string            `json:"driver,omitempty"` // forced by --hypervisor
	Kernel    string            `json:"kernel,omitempty"` // path, release or id; "" is the default
	Require   string            `json:"require_isolation,omitempty"`
	Sealed    bool              `json:"sealed,omitempty"`    // refuse console, exec, copy, forward
	Ephemeral bool              `json:"ephemeral,omitempty"` // removed when it ends (--rm, or unnamed in the foreground)
	Attach    bool              `json:"attach,omitempty"`    // the command waits for this CLI to attach
	TTY       bool              `json:"tty,omitempty"`       // give the attached command a terminal
	Timeout   time.Duration     `json:"timeout,omitempty"`   // for becoming ready
}

// InitImage stands for the init that an image brings.
const InitImage = "image"

// Defaults of a machine that does not say otherwise.
const (
	DefaultCPUs    = 1
	DefaultMemory  = 512 << 20
	DefaultDisk    = 8 << 30
	DefaultTimeout = 2 * time.Minute
	MinMemory      = 96 << 20 // with less, a distribution kernel panics while it unpacks its initramfs
	MaxMemory      = 1 << 42
	MinDisk        = 16 << 20
	MaxDisk        = 1 << 44
	MaxCPUs        = 256
)

// Record is what is remembered of a machine between commands. It is written before the first
// external change and removed after the last.
type Record struct {
	Schema     int       `json:"schema"` // RecordSchema of the writer
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	Created    time.Time `json:"created"`
	Spec       Spec      `json:"spec"`
	Driver     string    `json:"driver"` // remembered for every later command; "" until chosen
	Isolation  string    `json:"isolation,omitempty"`
	Generation uint64    `json:"generation"`       // of the last boot
	Intent     Intent    `json:"intent,omitempty"` // what an unfinished command was doing
	ImageID    string    `json:"image_id,omitempty"`
	KernelID   string    `json:"kernel_id,omitempty"`
	Phases     []Phase   `json:"phases,omitempty"` // of the last `up`
}

// RecordSchema is the version of Record that this program writes. It reads all older ones and
// refuses newer ones untouched.
const RecordSchema = 1

// Intent is what a command meant to do when it wrote the record. A record that still has one
// while nobody holds the machine's lock belongs to a command that was killed.
type Intent string

// Intents.
const (
	IntentNone     Intent = ""
	IntentStarting Intent = "starting"
	IntentStopping Intent = "stopping"
	IntentRemoving Intent = "removing"
)

// Phase is one timed step.
type Phase struct {
	Name     string        `json:"name"`
	Duration time.Duration `json:"duration_ns"`
}

// State is what a machine is doing right now, as ls shows it.
type State string

// States.
const (
	StateCreated  State = "created"  // a record, never booted
	StateStarting State = "starting" // the VMM runs, the agent has not answered
	StateRunning  State = "running"  // the agent answers
	StatePaused   State = "paused"   // the VMM runs, the guest stands still
	StateStopping State = "stopping"
	StateExited   State = "exited"  // ended by itself or by down; can be started again
	StateFailed   State = "failed"  // ended in a way nobody asked for
	StateCrashed  State = "crashed" // the supervisor died; the next command cleans up
	StateCorrupt  State = "corrupt" // its record cannot be read
	StateNewer    State = "newer"   // its record was written by a later version
)

// Live reports whether a supervisor is at work in this state.
func (s State) Live() bool {
	return s == StateStarting || s == StateRunning || s == StatePaused || s == StateStopping
}

// Unreadable reports whether nothing is known of a machine in this state but its name.
func (s State) Unreadable() bool { return s == StateCorrupt || s == StateNewer }

// Status is written by the supervisor on each change and read by everyone. It is only to be
// believed about a live machine while the supervisor's lock is held.
type Status struct {
	State      State     `json:"state"`
	Generation uint64    `json:"generation"`
	Supervisor Process   `json:"supervisor"`
	VMM        Process   `json:"vmm"`
	Started    time.Time `json:"started"`           // of the supervisor
	Ready      time.Time `json:"ready,omitzero"`    // agent answered
	Finished   time.Time `json:"finished,omitzero"` // machine gone
	Driver     string    `json:"driver"`
	Isolation  string    `json:"isolation"`
	NoAgent    bool      `json:"no_agent,omitempty"`  // the guest has no agent: it is up when its VMM runs
	Version    string    `json:"version"`             // of the program that wrote it
	ExitCode   *int      `json:"exit_code,omitempty"` // of the main program
	Reason     string    `json:"reason,omitempty"`    // why it ended, for people
	Problem    string    `json:"problem,omitempty"`   // what goes wrong while it runs, for people
	Failure    *Failure  `json:"failure,omitempty"`   // an error nobody asked for
	Ports      []Port    `json:"ports,omitempty"`     // published right now, port 0 resolved
	Phases     []Phase   `json:"phases,omitempty"`
}

// Failure is an Error as it crosses a process boundary.
type Failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"`
	Log     string `json:"log,omitempty"`
	Detail  string `json:"detail,omitempty"`
	Exit    int    `json:"exit,omitempty"`
}

// FailureOf returns the first Error in err's chain as a Failure; another error is "internal".
func FailureOf(err error) Failure {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = Errorf("internal", "report it, with the logs", "%w", err)
	}
	return Failure{Code: e.Code, Message: e.Message, Remedy: e.Remedy, Log: e.Log, Detail: e.Detail, Exit: e.Exit}
}

// Err returns the failure as an Error, or nil.
func (f *Failure) Err() error {
	if f == nil {
		return nil
	}
	return &Error{Code: f.Code, Message: f.Message, Remedy: f.Remedy, Log: f.Log, Detail: f.Detail, Exit: f.Exit}
}

// Process identifies a process beyond reuse of its pid.
type Process struct {
	Pid    int    `json:"pid,omitempty"`
	Start  uint64 `json:"start,omitempty"`   // start time in clock ticks since boot, /proc/<pid>/stat field 22
	BootID string `json:"boot_id,omitempty"` // of the host
}

// View is a machine as ls and inspect show it: record and status put together, with the truth
// about who is alive.
type View struct {
	Record
	State    State   `json:"state"`
	Status   *Status `json:"status,omitempty"`
	Problem  string  `json:"problem,omitempty"` // one line: what is wrong with it
	Dir      string  `json:"dir"`
	DiskUsed int64   `json:"disk_used_bytes"` // host bytes really used by the machine's own files
}
