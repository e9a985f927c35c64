package agentproto

import "time"

// Request paths. All are below one HTTP/2 connection; the authority is always "agent".
const (
	PathHello   = "/v1/hello"   // POST Hello → Hello; must be the first request of a connection
	PathStatus  = "/v1/status"  // GET → Status
	PathEvents  = "/v1/events"  // GET ?after=SEQ → JSON lines of Event, endless
	PathLogs    = "/v1/logs"    // GET ?after=SEQ → JSON lines of LogEntry, endless; ends after shutdown's last line
	PathExec    = "/v1/exec"    // POST record stream ⇄ record stream; first record is RecStart (ExecStart)
	PathConsole = "/v1/console" // POST record stream ⇄ record stream; first record is RecStart (ExecStart, TTY set; empty Args: a shell)
	PathMain    = "/v1/main"    // POST record stream ⇄ record stream; first record is RecStart (AttachStart)
	// PathForward is POST ?port=N[&host=127.0.0.1]: raw bytes → RecStdout records. The end of
	// the request body is the host's half-close. A record with an empty body is the guest's
	// (an HTTP/2 handler cannot half-close its answer); anything else that ends is a cut.
	PathForward  = "/v1/forward"
	PathFiles    = "/v1/files"    // GET ?path=P → tar; PUT ?path=P tar → CopyResult
	PathDiff     = "/v1/diff"     // GET → JSON lines of Change, closed by a line {"end":true}
	PathShutdown = "/v1/shutdown" // POST ShutdownRequest → 202
	PathHeard    = "/v1/heard"    // POST → 202: the host has the last event and the last line of the log
)

// TrailerError is the HTTP trailer in which a streaming answer reports, as a JSON Error, what
// went wrong after its header was sent. An answer that ends without the trailer being declared
// "" was cut.
const TrailerError = "Mvm-Error"

// Hello is the first exchange in both directions.
type Hello struct {
	Protocol   int       `json:"protocol"`
	MachineID  string    `json:"machine_id"`
	Generation uint64    `json:"generation"`
	Build      string    `json:"build"`                // version of the program that speaks
	Time       time.Time `json:"time,omitzero"`        // the sender's wall clock; the agent sets its own from the host's
	MainError  *Error    `json:"main_error,omitempty"` // the agent's: why the main program could not be started
	Run        string    `json:"run,omitempty"`        // the agent's: tells one run of it from the next, and so one boot from the next
}

// Status is what the agent knows about the guest.
type Status struct {
	Phase    string          `json:"phase"` // "booting", "ready", "stopping"
	Uptime   Duration        `json:"uptime"`
	Timings  []Timing        `json:"timings,omitempty"` // phases of the guest's own boot, in order
	Main     *MainStatus     `json:"main,omitempty"`
	Services []ServiceStatus `json:"services,omitempty"`
	Checks   []CheckStatus   `json:"checks,omitempty"`
	Worker   string          `json:"worker"`            // "idle" or "busy": any exec, console or copy under way
	Streams  int             `json:"streams"`           // open exec, console, copy and forward streams
	Console  *ConsoleStatus  `json:"console,omitempty"` // the open console session, if any
	Memory   Memory          `json:"memory"`
	Kernel   string          `json:"kernel"` // as `uname -r` prints it
	Build    string          `json:"build"`  // the agent's version
}

// Timing is one phase of the boot.
type Timing struct {
	Phase string   `json:"phase"`
	At    Duration `json:"at"` // since the kernel started, CLOCK_BOOTTIME
}

// Memory is the guest's memory in bytes.
type Memory struct {
	Total     uint64 `json:"total"`
	Available uint64 `json:"available"`
	AgentRSS  uint64 `json:"agent_rss"`
	AgentPSS  uint64 `json:"agent_pss,omitempty"`
}

// MainStatus is the state of the main program.
type MainStatus struct {
	State    string `json:"state"` // "waiting" (for an attach), "running", "exited"
	Pid      int    `json:"pid,omitempty"`
	ExitCode int    `json:"exit_code"`
}

// ServiceStatus is the state of one service.
type ServiceStatus struct {
	Name     string    `json:"name"`
	State    string    `json:"state"` // "starting", "running", "backoff", "stopped", "failed"
	Pid      int       `json:"pid,omitempty"`
	Restarts int       `json:"restarts"`
	ExitCode int       `json:"exit_code"`
	Since    time.Time `json:"since"`
	Message  string    `json:"message,omitempty"`
}

// CheckStatus is the state of one check.
type CheckStatus struct {
	Name     string    `json:"name"`
	Kind     string    `json:"kind"`
	Service  string    `json:"service,omitempty"`
	State    string    `json:"state"` // "starting", "healthy", "unhealthy"
	Failures int       `json:"failures"`
	Output   string    `json:"output,omitempty"` // end of the last output, bounded
	Last     time.Time `json:"last,omitzero"`
}

// ConsoleStatus describes the open console session.
type ConsoleStatus struct {
	Since time.Time `json:"since"`
}

// EventStopped is the type of the last event: everything in the guest has ended.
const EventStopped = "stopped"

// Event is one thing that happened in the guest.
type Event struct {
	Seq      uint64    `json:"seq"`
	Time     time.Time `json:"time"`
	Type     string    `json:"type"`           // "ready", "main", "service", "check", "stopping", "stopped" (the last one)
	Name     string    `json:"name,omitempty"` // service or check
	State    string    `json:"state,omitempty"`
	ExitCode *int      `json:"exit_code,omitempty"`
	Message  string    `json:"message,omitempty"`
}

// LogEntry is one line that a program of the guest, or the agent itself, wrote.
type LogEntry struct {
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	Source  string    `json:"source"`            // "agent", "main", or a service's name
	Stream  string    `json:"stream"`            // "out" or "err"
	Text    string    `json:"text"`              // without its newline; invalid UTF-8 replaced
	Partial bool      `json:"partial,omitempty"` // the line goes on in the next entry of this source and stream
	Dropped uint64    `json:"dropped,omitempty"` // entries lost before this one because nobody read
	End     bool      `json:"end,omitempty"`     // the last entry: the machine is stopping
}

// ExecStart opens an exec or console stream.
type ExecStart struct {
	Process
	TTY     bool     `json:"tty,omitempty"`
	Stdin   bool     `json:"stdin,omitempty"` // the host will send RecStdin; otherwise stdin is /dev/null
	Rows    uint16   `json:"rows,omitempty"`
	Cols    uint16   `json:"cols,omitempty"`
	Term    string   `json:"term,omitempty"`    // TERM for a TTY
	Timeout Duration `json:"timeout,omitempty"` // kills the whole process group; 0: none
}

// AttachStart opens a stream to the main program.
type AttachStart struct {
	Stdin bool   `json:"stdin,omitempty"`
	Rows  uint16 `json:"rows,omitempty"`
	Cols  uint16 `json:"cols,omitempty"`
	Term  string `json:"term,omitempty"`
}

// Started answers RecStart.
type Started struct {
	Pid int `json:"pid"`
}

// Resize is the body of RecResize.
type Resize struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// Signal is the body of RecSignal; the signal goes to the whole process group.
type Signal struct {
	Name string `json:"name"` // "SIGINT", …
}

// Credit is the body of RecCredit.
type Credit struct {
	Bytes int `json:"bytes"` // of RecStdin that the program has taken since the last credit
}

// Exit is the body of RecExit, always the last record of a stream.
type Exit struct {
	Code   int    `json:"code"`             // exit code; 128+N for a signal; 124, 126, 127 as a shell has them
	Signal string `json:"signal,omitempty"` // the signal that ended it
	Error  *Error `json:"error,omitempty"`  // why it never ran, or why the agent ended it
	// MaxRSS and the CPU times are the process's own, as wait4(2) gives them.
	UserTime   Duration `json:"user_time,omitempty"`
	SystemTime Duration `json:"system_time,omitempty"`
	WallTime   Duration `json:"wall_time,omitempty"` // from spawn to exit, in the guest
	MaxRSS     int64    `json:"max_rss,omitempty"`   // bytes
}

// Change is one difference between the image and the machine's root.
type Change struct {
	Kind string `json:"kind,omitempty"` // "A" added, "M" modified, "D" deleted
	Path string `json:"path,omitempty"`
	Type string `json:"type,omitempty"` // "file", "dir", "symlink", "other"
	Size int64  `json:"size,omitempty"`
	End  bool   `json:"end,omitempty"`
}

// CopyResult answers a copy into the guest.
type CopyResult struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
	// Error says what of the tar was left out (devices, sockets, FIFOs), when the rest is there.
	Error *Error `json:"error,omitempty"`
}

// ShutdownRequest asks the guest to stop its services and power off.
type ShutdownRequest struct {
	Grace  Duration `json:"grace,omitempty"` // for services, before SIGKILL
	Reboot bool     `json:"reboot,omitempty"`
}
