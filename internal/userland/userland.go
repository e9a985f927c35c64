package userland

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Stdio are the three streams of a command. A nil In reads as empty; a nil Out
// or Err is discarded.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// Exit statuses that are shared by all commands.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2 // grep, sort, test, ls: trouble as opposed to "no"
	exitCannotExec  = 126
	exitNotFound    = 127
	exitBrokenPipe  = 141 // what a shell reports for death by SIGPIPE
	exitInterrupted = 130 // what a shell reports for death by SIGINT
)

// command is one entry of the table of commands.
type command struct {
	name  string
	usage string // arguments, as printed after the name
	run   func(*call) int
	// own says that a shell always starts a process for it, because it
	// changes state of its process or replaces it.
	own bool
	// quick says that it ends by itself soon, without reading its input. An
	// interactive shell starts a process for all others, so that the
	// terminal's interrupt reaches them the normal way.
	quick bool
	// raw says that the command looks at all its arguments itself, also --help.
	raw bool
}

// commands lists every command of this system in no special order.
func commands() []command {
	return slices.Concat(shellCommands(), fileCommands(), textCommands(), systemCommands(), netCommands(), platformCommands())
}

// lookup finds a command by its name.
func lookup(name string) (command, bool) {
	for _, c := range commands() {
		if c.name == name {
			return c, true
		}
	}
	return command{}, false
}

// Names returns the names of all commands, sorted, with "sh" among them.
func Names() []string {
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	slices.Sort(names)
	return names
}

// Has reports whether name is a command of this package, or the name "-sh" of a
// login shell.
func Has(name string) bool {
	_, ok := lookup(name)
	return ok || name == "-sh"
}

// Run runs one command inside this process and returns its exit status (0 to
// 255). argv[0] is the command's name; an unknown one gives 127. dir is the
// working directory, absolute; env is a list of NAME=value. Run returns soon
// after ctx ends, except while it is blocked in a read or write of a stream
// that the caller gave. It never panics and never ends the process.
func Run(ctx context.Context, argv []string, dir string, env []string, io Stdio) (exit int) {
	return runCommand(ctx, argv, process{dir: dir, env: env, stdio: io})
}

// process is what a command gets from its surroundings.
type process struct {
	dir   string
	env   []string
	stdio Stdio
	// self is the path of a binary that calls Main, or empty when this process
	// is not one: then every command runs inside the process.
	self string
	// tty says that a person is at the terminal.
	tty bool
}

func runCommand(ctx context.Context, argv []string, p process) (exit int) {
	if len(argv) == 0 {
		return exitNotFound
	}
	cmd, ok := lookup(argv[0])
	c := newCall(ctx, cmd, argv, p)
	if !ok {
		c.errorf("not found")
		return exitNotFound
	}
	defer func() {
		// A bug in one command must not take the agent down with it.
		if r := recover(); r != nil {
			fmt.Fprintf(c.err, "%s: internal error: %v\n", c.name, r)
			exit = exitFailure
		}
	}()
	if !cmd.raw && len(c.args) == 1 && c.args[0] == "--help" {
		fmt.Fprintf(c.out, "usage: %s %s\n", c.name, cmd.usage)
		return c.finish(exitOK)
	}
	return c.finish(cmd.run(c))
}

// finish turns what went wrong with the streams into an exit status.
func (c *call) finish(status int) int {
	err := c.out.Flush()
	switch {
	case c.ctx.Err() != nil && !isBrokenPipe(err):
		return exitInterrupted
	case err == nil:
		return status & 0xff
	case isBrokenPipe(err):
		return exitBrokenPipe
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return exitInterrupted
	}
	c.errorf("write error: %s", reason(err))
	if status == exitOK {
		return exitFailure
	}
	return status & 0xff
}
