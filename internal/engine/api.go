package engine

import (
	"io"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/kernel"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// Streams are the caller's ends of an interactive command.
type Streams struct {
	Stdin  io.Reader // nil: no input
	Stdout io.Writer
	Stderr io.Writer
	TTY    bool   // ask for a terminal in the guest
	Term   string // TERM of the caller's terminal
	Size   Size   // of the caller's terminal, when TTY
	// Resize delivers new sizes while the command runs; Signals delivers signal names
	// ("SIGINT") to pass on to the guest command. Either may be nil.
	Resize  <-chan Size
	Signals <-chan string
}

// Size is a terminal's size in characters.
type Size struct{ Rows, Cols uint16 }

// Progress is one step of a longer verb, for a progress display. A step is reported when it
// begins (Done false) and when it ends (Done true, with its duration).
type Progress struct {
	Step     string // short, for people: "starting qemu"
	Done     bool
	Duration time.Duration
	Current  int64 // bytes, when Total > 0
	Total    int64
}

// UpOptions say how Up runs.
type UpOptions struct {
	Detach   bool           // return as soon as the agent answers
	Unseal   bool           // open an existing machine that was sealed (--dev)
	Streams  Streams        // used when not Detach
	Progress func(Progress) // may be nil
	Notice   func(string)   // one-line notices for people; may be nil
	// Started is called once the machine is up, before the command's output flows; may be nil.
	Started func(UpResult)
}

// UpResult is what Up did.
type UpResult struct {
	Name      string          `json:"name"`
	ID        string          `json:"id"`
	Already   bool            `json:"already_running"` // it was up before; nothing was done
	Attached  bool            `json:"-"`               // the caller's streams go to its program
	Init      bool            `json:"-"`               // which is the image's init
	Driver    string          `json:"driver"`
	Isolation string          `json:"isolation"`
	Notes     []string        `json:"notes,omitempty"` // why no better backend was used
	Ports     []machine.Port  `json:"ports,omitempty"`
	Phases    []machine.Phase `json:"phases"`
	ExitCode  int             `json:"exit_code"` // of the foreground command
}

// DownOptions say how Down stops.
type DownOptions struct {
	Grace time.Duration // for the guest's services; 0: 10 s
	Force bool          // kill the VMM at once

	Notice func(string) // hears what a user should know of a stop that succeeded; nil: nobody
}

// ExecOptions describe one command in a running machine.
type ExecOptions struct {
	Args    []string
	Env     map[string]string
	Dir     string
	User    string
	Timeout time.Duration
	Streams Streams
}

// ExecResult is how it ended.
type ExecResult struct {
	ExitCode int
	Exit     agentproto.Exit
}

// LogSource names what Logs reads.
type LogSource string

// Log sources.
const (
	LogGuest      LogSource = "guest"      // the main program, the services and the agent
	LogConsole    LogSource = "console"    // the kernel's console
	LogVMM        LogSource = "vmm"        // the VMM process
	LogSupervisor LogSource = "supervisor" // our own process
)

// LogOptions say which lines Logs delivers.
type LogOptions struct {
	Source LogSource // "" is LogGuest
	Follow bool
	Tail   int       // last N lines; < 0: all
	Since  time.Time // zero: all; only for LogGuest
}

// LogLine is one line. Text has its control characters escaped unless it is the main
// program's own output on LogGuest (Source "main").
type LogLine struct {
	Time   time.Time `json:"time,omitzero"`
	Source string    `json:"source"`
	Stream string    `json:"stream,omitempty"`
	Text   string    `json:"text"`
}

// Detail is everything Inspect knows about one machine.
type Detail struct {
	machine.View
	Agent  *agentproto.Status `json:"agent,omitempty"`  // when it is running and answers
	Boot   *machine.Boot      `json:"boot,omitempty"`   // of the last start
	Files  map[string]string  `json:"files,omitempty"`  // what is where: logs, sockets, disks
	Memory *Memory            `json:"memory,omitempty"` // of the host processes
}

// Memory is the proportional set size of a machine's host processes, in bytes.
type Memory struct {
	Supervisor int64 `json:"supervisor_pss_bytes"`
	VMM        int64 `json:"vmm_pss_bytes"`
}

// KernelInfo is one guest kernel for `kernel list`.
type KernelInfo struct {
	ID      string              `json:"id"`
	Release string              `json:"release"`
	Arch    string              `json:"arch"`
	Source  string              `json:"source"`
	Size    int64               `json:"disk_bytes"`
	Modules int                 `json:"modules"` // module files that machines load; 0: everything is built in
	Default bool                `json:"default"`
	InUseBy []string            `json:"in_use_by"`       // machines
	Build   *kernel.BuildRecord `json:"build,omitempty"` // of one that was built here
}

// KernelBuild says which kernel to build.
type KernelBuild struct {
	Arch     string // "amd64" or "arm64"; "": this host's
	Config   string // a file of options on top of ours; "": none
	Source   string // a folder or a tar file; "": the distribution's package
	Jobs     int    // 0: one per processor
	Progress func(Progress)
}

// KernelBuilt is the kernel that a build made or found.
type KernelBuilt struct {
	KernelInfo
	Made bool `json:"built"` // false: the cache had it
}

// ImageInfo is one image that `up` can take.
type ImageInfo struct {
	Name        string    `json:"name"`
	Names       []string  `json:"names"`
	Description string    `json:"description,omitempty"`
	Builder     string    `json:"builder"` // "embedded", "oci", "dockerfile", "rootfs", "flake" or "commit"
	Source      string    `json:"source,omitempty"`
	ID          string    `json:"id,omitempty"`
	Arch        string    `json:"arch,omitempty"`
	Tags        []string  `json:"tags,omitempty"`
	Expected    string    `json:"expected_size,omitempty"` // of one that is not here, about
	CPUs        int       `json:"cpus,omitempty"`          // that the catalog gives a machine of it
	Memory      string    `json:"memory,omitempty"`        //
	Disk        string    `json:"disk,omitempty"`          //
	Cached      bool      `json:"cached"`
	Size        int64     `json:"disk_bytes"` // really used
	Created     time.Time `json:"created,omitzero"`
	InUseBy     []string  `json:"in_use_by"` // machines
}

// Backend is one driver's answer to "can you run here", for doctor.
type Backend struct {
	Name       string           `json:"name"`
	Available  bool             `json:"available"`
	Chosen     bool             `json:"chosen"`            // what `up` would use
	Better     bool             `json:"better,omitempty"`  // `up` would use it before the chosen one, if it could
	ByName     bool             `json:"by_name,omitempty"` // `up` uses it only with --hypervisor
	Version    string           `json:"version,omitempty"`
	Accel      string           `json:"accelerator,omitempty"`
	Isolation  string           `json:"isolation,omitempty"`
	Transport  string           `json:"transport,omitempty"`
	Binary     string           `json:"binary,omitempty"`
	Notes      []string         `json:"notes,omitempty"`
	Lacks      []driver.Feature `json:"lacks,omitempty"` // what its machines cannot have
	Problem    string           `json:"problem,omitempty"`
	Code       string           `json:"code,omitempty"`
	Remedy     string           `json:"remedy,omitempty"`
	Fetchable  bool             `json:"fetchable,omitempty"` // InstallBackend can get what is missing
	ProbedInMS int64            `json:"probed_in_ms"`
}
