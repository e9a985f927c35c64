package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/catalog"
	"github.com/mvmctl/mvmctl/internal/config"
	"github.com/mvmctl/mvmctl/internal/doctor"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// IO is the process as a command sees it.
type IO struct {
	In       io.Reader
	Out, Err io.Writer
	Env      []string
	Dir      string           // where mvm.toml is looked for; "" is the working directory
	Signals  <-chan os.Signal // what the process is sent; nil for none
	Listen   func()           // starts to fill Signals; nil: they are filled already
	// Terminal tells whether a stream is a terminal: nil asks the operating system when the
	// stream is a file, and says no otherwise.
	Terminal func(stream any) bool
}

// Stdio returns the process's own streams and environment, and what begins to receive its
// signals. SIGPIPE is received too, so that a write to a closed pipe is an error and not the end
// of a process that still has a machine to clean up. They are received until the process ends:
// giving each of them back costs more than most commands' own work.
func Stdio() IO {
	signals := make(chan os.Signal, 16)
	return IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.Environ(), Signals: signals, Listen: func() {
		signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGWINCH, syscall.SIGPIPE)
	}}
}

// Deps are what the composition root hands in. Nothing of it is called before a command needs
// it; a nil function means the program lacks that part.
type Deps struct {
	// Engine makes the engine. It must not probe, dial or start anything.
	Engine func(config.Config) (Engine, error)
	// Builder makes the builder of images, under the same condition.
	Builder func(config.Config) (Builder, error)
	// Catalog reads the catalogs of images.
	Catalog func() (catalog.Catalog, error)
	// Supervise runs a machine's supervisor: the hidden command `supervise`.
	Supervise func(ctx context.Context, args []string) error
	// Doctor says what the host looks like; what it leaves nil the engine answers.
	Doctor func(config.Config) doctor.Host
	// UserConfig returns the path of the user's config.toml.
	UserConfig func() (string, error)
	Version    VersionInfo
}

// VersionInfo is what `mvmctl version` prints.
type VersionInfo struct {
	Version    string
	Commit     string
	Date       string
	Components func(ctx context.Context) []Component // nil: none
}

// Component is one part of the program with a version of its own.
type Component struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// app is one run of the program.
type app struct {
	io     IO
	deps   Deps
	out    io.Writer // io.Out, whose first write error ends the command
	cancel context.CancelCauseFunc

	mu       sync.Mutex
	grab     func(os.Signal) bool // takes a signal for the guest; nil: nobody does
	restore  []func()             // puts the terminal back
	signals  int                  // interrupting signals so far
	last     os.Signal            // of any kind
	lastAt   time.Time
	progress func() // removes the progress line
	json     bool   // errors are printed as JSON
}

// Run runs one command line (without the program's name) and returns the exit code. The first
// interrupting signal cancels the command, which then cleans up; the second makes Run return
// at once.
func Run(ctx context.Context, args []string, streams IO, deps Deps) int {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a := &app{io: streams, deps: deps, cancel: cancel, json: wantsJSON(args)}
	a.out = &answers{w: streams.Out, broken: cancel}
	if streams.Listen != nil && !onlyReads(args) {
		streams.Listen()
	}
	done := make(chan int, 1)
	go func() { done <- a.report(ctx, a.guarded(ctx, args)) }()
	for {
		select {
		case code := <-done:
			return code
		case s := <-streams.Signals:
			if forced := a.signal(s); forced {
				a.restoreTerminal()
				a.say("mvmctl: stopped at once; `mvmctl ls` shows what still runs\n")
				return exitOfSignal(s)
			}
		}
	}
}

// guarded runs the command; a panic becomes an error, after the terminal is itself again.
func (a *app) guarded(ctx context.Context, args []string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &machine.Error{
				Code: "internal.panic", Message: fmt.Sprintf("internal error: %v", r),
				Remedy: "please report this with the lines below", Detail: string(debug.Stack()),
			}
		}
		a.restoreTerminal()
	}()
	return a.execute(ctx, args)
}

// wantsJSON looks for --json before anything is parsed: also a mistake on the command line is
// to be reported as JSON.
func wantsJSON(args []string) bool {
	for _, arg := range args {
		switch arg {
		case "--":
			return false
		case "--json", "--json=true":
			return true
		}
	}
	return false
}

// env returns a variable of the caller's environment.
func (a *app) env(name string) (string, bool) {
	for _, v := range slices.Backward(a.io.Env) {
		if v, found := strings.CutPrefix(v, name+"="); found {
			return v, true
		}
	}
	return "", false
}

// engine makes the engine for the settings in force.
func (a *app) engine(c config.Config) (Engine, error) {
	if a.deps.Engine == nil {
		return nil, machine.Errorf("internal.engine", "install a complete build of mvmctl", "this program has no engine")
	}
	return a.deps.Engine(c)
}

// settledEngine is engine for the commands that have no settings of their own. Whatever lies in
// the working directory is none of their business: a wrong mvm.toml there must not keep a machine
// from being stopped.
func (a *app) settledEngine() (Engine, error) {
	c, err := a.settingsBut("")
	if err != nil {
		return nil, err
	}
	return a.engine(c)
}

// answers is standard output. Its first write error cancels the command: there is no use in
// going on when nobody can be told, and what was made for it is undone.
type answers struct {
	w      io.Writer
	broken context.CancelCauseFunc
}

func (w *answers) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if err != nil {
		err = &outputError{err}
		w.broken(err)
	}
	return n, err
}

// outputError says that standard output cannot be written.
type outputError struct{ err error }

func (e *outputError) Error() string { return "writing the output: " + e.err.Error() }
func (e *outputError) Unwrap() error { return e.err }
