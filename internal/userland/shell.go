package userland

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

func shellCommands() []command {
	return []command{
		{name: "sh", usage: "[-c COMMAND | -s | FILE] [-efilnuvx] [-o OPTION] [ARG]...", run: runShell, own: true, raw: true},
	}
}

// shell is one run of sh.
type shell struct {
	c      *call
	runner *interp.Runner
	jobs   *jobTable
	traps  *trapTable

	interactive bool
	outMu       sync.Mutex // for writers that are no files; jobs share them
	funcs       sync.Map   // names of functions seen by rewrite
}

// shellArgs are the parsed arguments of sh.
type shellArgs struct {
	command     string // of -c
	hasCommand  bool
	interactive bool
	stdin       bool
	options     []string // for "set"
	name        string   // $0
	script      string
	params      []string
}

func parseShellArgs(args []string) (shellArgs, error) {
	a := shellArgs{name: "sh"}
	for len(args) > 0 {
		arg := args[0]
		if arg == "--" || arg == "-" {
			args = args[1:]
			break
		}
		if len(arg) < 2 || (arg[0] != '-' && arg[0] != '+') {
			break
		}
		args = args[1:]
		if arg == "--login" || arg == "--norc" || arg == "--noprofile" || arg == "--posix" {
			continue
		}
		for _, f := range arg[1:] {
			switch {
			case f == 'c' && arg[0] == '-':
				a.hasCommand = true
			case f == 's' && arg[0] == '-':
				a.stdin = true
			case f == 'i' && arg[0] == '-':
				a.interactive = true
			case f == 'l' || f == 'h' || f == 'm' || f == 'b' || f == 'v':
				// login, hash, job control, notify, verbose: nothing to do here
			case f == 'o':
				if len(args) == 0 {
					return a, errors.New("-o: option requires an argument")
				}
				a.options = append(a.options, arg[:1]+"o", args[0])
				args = args[1:]
			case strings.ContainsRune("efnuxa", f):
				a.options = append(a.options, arg[:1]+string(f))
			default:
				return a, fmt.Errorf("invalid option -- '%c'", f)
			}
		}
	}
	if a.hasCommand {
		if len(args) == 0 {
			return a, errors.New("-c: option requires an argument")
		}
		a.command, args = args[0], args[1:]
		if len(args) > 0 {
			a.name, args = args[0], args[1:]
		}
	} else if len(args) > 0 && !a.stdin {
		a.script, args = args[0], args[1:]
		a.name = a.script
	}
	a.params = args
	return a, nil
}

func runShell(c *call) int {
	c.trouble = exitUsage
	if len(c.args) == 1 && c.args[0] == "--help" {
		c.printf("usage: %s %s\n", c.name, c.cmd.usage)
		return exitOK
	}
	a, err := parseShellArgs(c.args)
	if err != nil {
		return c.usageError("%s", err)
	}
	if !a.hasCommand && a.script == "" && isTerminal(c.stdio.In) && isTerminal(c.stdio.Err) {
		a.interactive = true
	}
	s := &shell{c: c, jobs: newJobTable(), interactive: a.interactive && !a.hasCommand && a.script == ""}
	s.traps = newTrapTable(c.self != "")
	defer s.traps.close()
	s.runner, err = s.newRunner(a)
	if err != nil {
		return c.usageError("%s", err)
	}
	status := s.run(a)
	s.jobs.waitInside()
	return status
}

func (s *shell) newRunner(a shellArgs) (*interp.Runner, error) {
	c := s.c
	env := c.env
	if envGet(env, "PATH") == "" {
		env = envSet(env, "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	if envGet(env, "PWD") != c.dir {
		env = envSet(env, "PWD", c.dir)
	}
	var out, errw io.Writer = c.stdio.Out, c.stdio.Err
	if out == nil {
		out = io.Discard
	}
	if errw == nil {
		errw = io.Discard
	}
	in := c.stdio.In
	if isNilFile(in) {
		in = nil
	}
	params := append(append([]string{}, a.options...), "--")
	return interp.New(
		interp.Env(expand.ListEnviron(env...)),
		interp.Dir(c.dir),
		interp.StdIO(in, out, errw),
		interp.Params(append(params, a.params...)...),
		interp.Interactive(s.interactive),
		interp.CallHandler(s.handleCall),
		interp.ExecHandlers(func(interp.ExecHandlerFunc) interp.ExecHandlerFunc { return s.handleExec }),
	)
}

func (s *shell) run(a shellArgs) int {
	switch {
	case a.hasCommand:
		return s.runText(strings.NewReader(a.command), a.name, true)
	case a.script != "":
		f, err := s.c.openScript(a.script)
		if err != nil {
			s.c.errorf("%s: %s", a.script, reason(err))
			if errors.Is(err, os.ErrNotExist) {
				return exitNotFound
			}
			return exitCannotExec
		}
		defer f.Close()
		return s.runText(f, a.name, false)
	case s.interactive && isTerminal(s.c.stdio.In):
		return s.interact()
	}
	return s.runStream(a.name)
}

// openScript finds a script: as a path, or on PATH when that is not a file.
func (c *call) openScript(name string) (io.ReadCloser, error) {
	f, err := c.open(name)
	if err == nil || strings.Contains(name, "/") {
		return f, err
	}
	for dir := range strings.SplitSeq(c.getenv("PATH"), ":") {
		if dir == "" {
			continue
		}
		if f, err := c.open(dir + "/" + name); err == nil {
			return f, nil
		}
	}
	return nil, err
}

// maxScript bounds a program that is parsed as a whole, in bytes.
const maxScript = 64 << 20

// runText runs a whole program. isCommand says that it came with -c.
func (s *shell) runText(r io.Reader, name string, isCommand bool) int {
	file, err := syntax.NewParser().Parse(io.LimitReader(r, maxScript), name)
	if err != nil {
		s.c.errorf("%s", err)
		return exitUsage
	}
	s.rewrite(file)
	if s.c.self != "" {
		markExec(file, isCommand)
	}
	return s.result(s.runner.Run(s.c.ctx, file))
}

// runStream runs statements from standard input as soon as each is complete. It
// reads byte by byte, because the statements may read the same input.
func (s *shell) runStream(name string) int {
	status := exitOK
	parser := syntax.NewParser()
	for stmts, err := range parser.InteractiveSeq(&byteReader{r: s.c.in, last: '\n'}) {
		if err != nil {
			s.c.errorf("%s", err)
			status = exitUsage
			break
		}
		if parser.Incomplete() {
			continue
		}
		for _, stmt := range stmts {
			var stop bool
			if status, stop = s.runStmt(stmt); stop {
				return status
			}
		}
	}
	return s.leave(status, name)
}

// runStmt runs one statement; stop says that the shell is to exit.
func (s *shell) runStmt(stmt *syntax.Stmt) (status int, stop bool) {
	s.rewrite(stmt)
	err := s.runner.Run(s.c.ctx, stmt)
	status = s.result(err)
	return status, s.runner.Exited() || s.c.ctx.Err() != nil
}

// leave runs the EXIT trap of a shell that reached the end of its input.
func (s *shell) leave(status int, name string) int {
	file, err := syntax.NewParser().Parse(strings.NewReader(fmt.Sprintf("(exit %d)", status)), name)
	if err != nil {
		return status
	}
	return s.result(s.runner.Run(s.c.ctx, file))
}

// result turns what the interpreter returns into an exit status.
func (s *shell) result(err error) int {
	var status interp.ExitStatus
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &status):
		return int(status)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return exitInterrupted
	}
	s.c.errorf("%s", err)
	return exitFailure
}

// byteReader returns at most one byte per read, and a newline at the end in any
// case: the parser takes a statement as complete only then.
type byteReader struct {
	r    io.Reader
	last byte
}

func (b *byteReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := b.r.Read(p[:1])
	if n == 0 && errors.Is(err, io.EOF) && b.last != '\n' {
		p[0], n, err = '\n', 1, nil
	}
	if n > 0 {
		b.last = p[0]
	}
	return n, err
}
