package linuxenv

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"sync"
	"syscall"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// RunPath is where a session runs programs.
const RunPath = "/run"

// The kinds of frames of a running program: a request begins with the command, and its standard
// input follows; the answer has output, and ends with how the program ended.
const (
	frameCommand = 'c'
	frameStdin   = 'i'
	frameStdout  = 'o'
	frameStderr  = 'e'
	frameExit    = 'x'
)

// Program is a program to run on Linux. Its words reach it as they are: there is no shell.
type Program struct {
	Args   []string  // the program, a path or a name to look for in PATH, and its arguments
	Env    []string  // KEY=VALUE; of the virtual machine only these and a PATH
	Dir    string    // "": the caller's own; in the virtual machine "/"
	Stdin  io.Reader // nil: empty
	Stdout io.Writer // nil: nowhere
	Stderr io.Writer
}

// command is a Program as the session carries it: words of Linux are bytes, which need not be UTF-8.
type command struct {
	Args [][]byte `json:"args"`
	Env  [][]byte `json:"env,omitempty"`
	Dir  []byte   `json:"dir,omitempty"`
}

func toBytes(words []string) [][]byte {
	out := make([][]byte, len(words))
	for i, w := range words {
		out[i] = []byte(w)
	}
	return out
}

func toStrings(words [][]byte) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = string(w)
	}
	return out
}

// exit is how a program ended.
type exit struct {
	Code     int    `json:"code"`
	NotFound bool   `json:"not_found,omitempty"`
	Error    string `json:"error,omitempty"` // it could not be started
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/nix/var/nix/profiles/default/bin"

// Env runs programs on Linux.
type Env struct {
	// Session of the virtual machine to run them in; nil: on this host, which must be Linux then.
	Session *Session
}

// Native reports whether programs of Linux run on this host itself.
func Native() bool { return native }

// Run runs a program to its end and returns its exit code. When ctx ends, it and what it started
// end too. The error is exec.ErrNotFound in its chain for a program that is not there.
func (e Env) Run(ctx context.Context, p Program) (int, error) {
	switch {
	case len(p.Args) == 0 || p.Args[0] == "":
		return 0, errors.New("no program to run")
	case e.Session != nil:
		return e.Session.run(ctx, p)
	case !native:
		return 0, machine.Errorf("lima.none", "mvmctl doctor --fix --hypervisor lima", "this host does not run programs of Linux itself")
	}
	return runHere(ctx, p)
}

// runHere runs a program as a process of this host.
func runHere(ctx context.Context, p Program) (int, error) {
	cmd := exec.CommandContext(ctx, p.Args[0], p.Args[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = p.Env, p.Dir, p.Stdout, p.Stderr
	// Its own group, so that what it starts ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = endGrace
	var in io.WriteCloser
	var err error
	if p.Stdin != nil { // not exec's own copying: that would hold an end up for input that nobody sends
		if in, err = cmd.StdinPipe(); err != nil {
			return 0, err
		}
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	if in != nil {
		go func() {
			_, _ = io.Copy(in, p.Stdin)
			_ = in.Close()
		}()
	}
	err = cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	if errors.Is(err, exec.ErrWaitDelay) { // something that it started holds its output
		err = nil
	}
	if ended, ok := errors.AsType[*exec.ExitError](err); ok && ctx.Err() == nil {
		if ws, ok := ended.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return ended.ExitCode(), nil
	}
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	return 0, err
}

// run runs a program in the virtual machine.
func (s *Session) run(ctx context.Context, p Program) (int, error) { return s.runAt(ctx, RunPath, p) }

func (s *Session) runAt(ctx context.Context, path string, p Program) (int, error) {
	head, err := json.Marshal(command{Args: toBytes(p.Args), Env: toBytes(p.Env), Dir: []byte(p.Dir)})
	if err != nil {
		return 0, err
	}
	body, in := io.Pipe()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() { _ = body.Close() }()
	go func() {
		err := WriteFrame(in, frameCommand, head)
		if err == nil && p.Stdin != nil {
			_, err = io.Copy(frameWriter{in, frameStdin}, p.Stdin)
		}
		_ = in.CloseWithError(err)
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, path, body)
	if err != nil {
		return 0, err
	}
	resp, err := s.Do(req)
	if err != nil {
		return 0, s.lost(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	return s.follow(ctx, p, resp.Body)
}

// follow passes on what a program says until it has ended.
func (s *Session) follow(ctx context.Context, p Program, answer io.Reader) (int, error) {
	for {
		kind, data, err := ReadFrame(answer)
		if err != nil {
			return 0, s.lost(ctx, err)
		}
		var to io.Writer
		switch kind {
		case frameExit:
			code, told, err := ended(p.Args[0], data)
			if !told {
				return 0, s.lost(ctx, err)
			}
			return code, err
		case frameStdout:
			to = p.Stdout
		case frameStderr:
			to = p.Stderr
		default:
			return 0, s.lost(ctx, fmt.Errorf("a frame of kind %d", kind))
		}
		if to != nil {
			if _, err := to.Write(data); err != nil {
				return 0, err
			}
		}
	}
}

// ended decodes how a program ended. told is false when that cannot be made out.
func ended(program string, data []byte) (code int, told bool, err error) {
	var x exit
	if err := json.Unmarshal(data, &x); err != nil {
		return 0, false, err
	}
	switch {
	case x.NotFound:
		return 0, true, fmt.Errorf("%s: %w", program, exec.ErrNotFound)
	case x.Error != "":
		return 0, true, errors.New(clip(machine.Printable(x.Error), 400))
	case x.Code < 0 || x.Code > 255:
		return 0, false, fmt.Errorf("an exit code of %d", x.Code)
	}
	return x.Code, true, nil
}

// lost explains a session that ended under a request.
func (s *Session) lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return machine.Errorf("lima.lost", "look at the virtual machine: `limactl list`; then try again", "the session in the virtual machine ended: %s: %w", s.LastWords(), err)
}

// frameWriter makes frames of what is written. It is safe for concurrent use when w is.
type frameWriter struct {
	w    io.Writer
	kind byte
}

// Write implements io.Writer.
func (f frameWriter) Write(p []byte) (int, error) {
	for n := 0; n < len(p); n += MaxFrame {
		if err := WriteFrame(f.w, f.kind, p[n:min(len(p), n+MaxFrame)]); err != nil {
			return n, err
		}
	}
	return len(p), nil
}

// Stream is the answer to a request as a stream of frames, safe for concurrent use: each write is
// on its way at once.
type Stream struct {
	mu sync.Mutex
	w  http.ResponseWriter
}

// NewStream begins an answer.
func NewStream(w http.ResponseWriter) *Stream {
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	return &Stream{w: w}
}

// Write implements io.Writer.
func (s *Stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, http.NewResponseController(s.w).Flush()
}

// serveRun runs a program for the other side.
func serveRun(w http.ResponseWriter, r *http.Request) {
	kind, data, err := ReadFrame(r.Body)
	var c command
	if err == nil && kind != frameCommand {
		err = errors.New("no command")
	}
	if err == nil {
		err = json.NewDecoder(bytes.NewReader(data)).Decode(&c)
	}
	if err == nil && (len(c.Args) == 0 || len(c.Args[0]) == 0) {
		err = errors.New("no program to run")
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	out := NewStream(w)
	stdin, feed := io.Pipe()
	go func() {
		for {
			_, data, err := ReadFrame(r.Body)
			if err == nil {
				_, err = feed.Write(data)
			}
			if err != nil {
				_ = feed.CloseWithError(io.EOF)
				return
			}
		}
	}()
	dir := string(c.Dir)
	if dir == "" {
		dir = "/"
	}
	code, err := runHere(r.Context(), Program{
		Args: toStrings(c.Args), Env: append([]string{defaultPath, "HOME=/root"}, toStrings(c.Env)...), Dir: dir, Stdin: stdin,
		Stdout: frameWriter{out, frameStdout}, Stderr: frameWriter{out, frameStderr},
	})
	_ = stdin.Close()
	x := exit{Code: code}
	if err != nil {
		x.Error, x.NotFound = err.Error(), errors.Is(err, exec.ErrNotFound)
	}
	if data, err = json.Marshal(x); err == nil {
		_ = WriteFrame(out, frameExit, data)
	}
}
