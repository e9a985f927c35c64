package userland

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// builtinPrefix starts the names of the shell's own builtins: those that the
// interpreter lacks, and those that rewrite inserts.
const builtinPrefix = "__mvm_"

var errJobKilled = errors.New("job was killed")

// handleCall sees every simple command before it runs and may replace it.
func (s *shell) handleCall(ctx context.Context, args []string) ([]string, error) {
	hc := interp.HandlerCtx(ctx)
	job := s.jobs.of(hc.Env)
	if job.killed() {
		return nil, errJobKilled
	}
	if job != nil {
		// Traps are the shell's own; its jobs leave them to it.
	} else if callback, ok := s.traps.next(); ok {
		return []string{"eval", callback + "\n" + quoteArgs(args)}, nil
	}
	name := args[0]
	if name == "command" && len(args) > 1 && isOwnBuiltin(args[1]) {
		args = args[1:]
		name = args[0]
	}
	switch {
	case name == "trap":
		return s.traps.handle(hc, args), nil
	case name == "eval":
		return s.rewriteEval(args), nil
	case name == "printf" && !(len(args) > 1 && strings.HasPrefix(args[1], "-v")), name == "echo":
		// The interpreter's own know few conversions and options.
		return append([]string{builtinPrefix + name}, args[1:]...), nil
	case isOwnBuiltin(name):
		return append([]string{builtinPrefix + name}, args[1:]...), nil
	}
	return args, nil
}

// isOwnBuiltin reports builtins that the interpreter reserves but does not have.
func isOwnBuiltin(name string) bool {
	switch name {
	case "kill", "wait", "umask", "ulimit", "jobs":
		return true
	}
	return false
}

// handleExec runs every command that is neither a function nor a builtin of the
// interpreter.
func (s *shell) handleExec(ctx context.Context, args []string) error {
	hc := interp.HandlerCtx(ctx)
	job := s.jobs.of(hc.Env)
	if job.killed() {
		return errJobKilled
	}
	p := s.process(hc)
	child := newCall(ctx, s.c.cmd, append([]string{s.c.name}, args...), p)
	if name, ok := strings.CutPrefix(args[0], builtinPrefix); ok {
		if name == "exec" {
			return exitError(s.replace(ctx, child, p, args[1:]))
		}
		child.args = args[1:]
		return exitError(s.builtin(ctx, child, hc, name))
	}
	return exitError(s.runCommand(ctx, child, p, args, job))
}

// runCommand runs a command inside or outside of this process.
func (s *shell) runCommand(ctx context.Context, child *call, p process, args []string, job *job) int {
	st := start{ignoreCancel: s.interactive}
	if s.interactive {
		cmd, ok := lookup(args[0])
		st.ownProcess = !ok || !cmd.quick
	}
	if job == nil {
		return child.runChild(ctx, args, p, st)
	}
	// An interrupt of the line that started the job is not for the job.
	ctx, stop := job.bind(s.c.ctx)
	defer stop()
	status := child.runChild(ctx, args, p, start{
		ownProcess: st.ownProcess || job.simple, ownGroup: s.interactive, started: job.begin,
	})
	if job.simple {
		job.end(status)
	}
	return status
}

// process gives a command its surroundings from the interpreter's state.
func (s *shell) process(hc interp.HandlerContext) process {
	return process{
		dir:   hc.Dir,
		env:   environ(hc.Env),
		stdio: Stdio{In: hc.Stdin, Out: s.shared(hc.Stdout), Err: s.shared(hc.Stderr)},
		self:  s.c.self,
		tty:   s.interactive,
	}
}

// sharedWriter serialises writes to something that is no file. It is compared
// by value: two of one writer are the same stream to os/exec.
type sharedWriter struct {
	w  io.Writer
	mu *sync.Mutex
}

func (w sharedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(p)
}

func (s *shell) shared(w io.Writer) io.Writer {
	if _, ok := w.(*os.File); ok || w == nil || w == io.Discard {
		return w
	}
	return sharedWriter{w, &s.outMu}
}

func exitError(status int) error {
	if status == exitOK {
		return nil
	}
	return interp.ExitStatus(status & 0xff)
}

// environ lists the exported variables.
func environ(env expand.Environ) []string {
	var list []string
	env.Each(func(name string, v expand.Variable) bool {
		// A later one shadows an earlier one, also when it is not exported.
		list = slices.DeleteFunc(list, func(e string) bool {
			return strings.HasPrefix(e, name) && strings.HasPrefix(e[len(name):], "=")
		})
		if v.IsSet() && v.Exported && v.Kind == expand.String {
			list = append(list, name+"="+v.Str)
		}
		return true
	})
	return list
}

// quoteArgs renders a command so that the shell reads the same words again.
func quoteArgs(args []string) string {
	words := make([]string, len(args))
	for i, a := range args {
		q, err := syntax.Quote(a, syntax.LangBash)
		if err != nil {
			q = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		words[i] = q
	}
	return strings.Join(words, " ")
}

// replace is exec: the command takes this process's place where that loses
// nothing, otherwise it runs as a child and its status becomes ours.
func (s *shell) replace(ctx context.Context, child *call, p process, args []string) int {
	if len(args) == 0 {
		return exitOK
	}
	t, err := child.resolve(args[0])
	if err != nil || s.c.self == "" || s.jobs.anyInside() {
		return child.runChild(ctx, args, p, start{})
	}
	if t.local {
		if cmd, _ := lookup(commandName(args[0])); !cmd.own {
			return child.runChild(ctx, args, p, start{})
		}
		if t.path == "" {
			t.path = s.c.self
		}
	}
	if err := execProcess(t.path, args, p); err != nil {
		// Nothing has been replaced, so the ordinary way can say what is wrong.
		return child.runChild(ctx, args, p, start{ownProcess: true})
	}
	return exitOK
}
