package linuxenv

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

const (
	// Command is the hidden command of this program that Serve is behind, in the virtual machine.
	Command = "linux-side"

	programDir = "/usr/local/lib/mvmctl" // in the virtual machine

	greeting    = "mvmctl-linux/1 " // begins the line with which the other side greets
	maxNoise    = 64 << 10          // of what a login shell may print before it
	connectTime = 60 * time.Second  // for a session; a busy emulated virtual machine takes some seconds
	streamBytes = 1 << 20           // that may be under way on one stream
	maxStreams  = 250
)

// installScript puts what comes on its standard input in place. It is the same text always; its
// arguments are the folder and a digest in hex.
const installScript = `set -eu; umask 022; top=$1; sum=$2; mkdir -p "$top"
tmp=$(mktemp -d "$top/new.XXXXXX"); trap 'rm -rf "$tmp"' EXIT
cat >"$tmp/mvmctl"; echo "$sum  $tmp/mvmctl" | sha256sum -c --status; chmod 755 "$tmp" "$tmp/mvmctl"
find "$top" -mindepth 1 -maxdepth 1 ! -name "${tmp##*/}" -mtime +30 -exec rm -rf {} +
[ -e "$top/$sum" ] || mv -T "$tmp" "$top/$sum"`

// Session is one process of ours in the virtual machine. It ends with this process, however that
// ends, and everything that it serves ends with it.
type Session struct {
	Tool  Tool
	cmd   *exec.Cmd
	in    *os.File // to its standard input
	out   *os.File // from its standard output
	cc    *http.ClientConn
	words *tail

	ended    chan struct{} // closed once limactl has ended
	endErr   error         // valid then
	closing  sync.Once
	Greeting string // version of the other side
}

// Connect opens a session in the running virtual machine, putting this program there first if it is
// not there yet. words, which may be nil, gets what limactl, ssh and the other side print.
func (v *VM) Connect(ctx context.Context, words io.Writer) (*Session, error) {
	t, err := v.Find(ctx)
	if err != nil {
		return nil, err
	}
	s, err := v.State(ctx, t)
	if err != nil {
		return nil, err
	}
	if err := v.running(s); err != nil {
		return nil, err
	}
	if err := v.settle(ctx, words); err != nil {
		return nil, err
	}
	program, sum, err := v.program()
	if err != nil {
		return nil, err
	}
	session, err := v.open(ctx, t, sum, words)
	if err == nil || ctx.Err() != nil {
		return session, err
	}
	if there, cerr := v.installed(ctx, t, sum); cerr != nil || there {
		return nil, err // the first error says more
	}
	if err := v.install(ctx, t, program, sum, words); err != nil {
		return nil, err
	}
	return v.open(ctx, t, sum, words)
}

// running says what to do about a virtual machine that does not run.
func (v *VM) running(s State) error {
	switch s.Status {
	case StatusRunning:
		return v.check(s)
	case StatusNone:
		return machine.Errorf("lima.none", "make it: `mvmctl doctor --fix --hypervisor lima` (it downloads some 300 MB)", "there is no Lima instance %s", v.opts.Instance)
	case StatusStopped:
		return machine.Errorf("lima.stopped", "start it: `limactl start "+v.opts.Instance+"`", "the Lima instance %s is stopped", v.opts.Instance)
	}
	return machine.Errorf("lima.instance", "look at `limactl list`", "the Lima instance %s is %s", v.opts.Instance, s.Status)
}

// program returns this program for Linux and its digest.
func (v *VM) program() (path, sum string, err error) {
	if v.opts.Program == nil {
		return "", "", machine.Errorf("lima.program", "just build", "there is no mvmctl for Linux to put into the virtual machine")
	}
	if path, err = v.opts.Program(); err != nil {
		return "", "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", "", machine.Errorf("lima.program", "install mvmctl anew, with its program for Linux beside it", "the mvmctl for Linux cannot be read: %w", err)
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", "", fmt.Errorf("reading mvmctl for Linux: %w", err)
	}
	return path, hex.EncodeToString(h.Sum(nil)), nil
}

// shell returns a command that runs fixed words in the virtual machine. No word may come from a
// user: limactl joins them to one line for a shell.
func (v *VM) shell(ctx context.Context, t Tool, words ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, t.Path, append([]string{"shell", "--workdir", "/", v.opts.Instance}, words...)...)
	own(cmd)
	// A connection of its own: a shared one carries ten sessions and no more, takes all of them with
	// it when its owner dies, and does not notice a virtual machine that has gone.
	cmd.Env = append(v.environment(false), "SSH=ssh -T -o ControlMaster=no -o ControlPath=none -o ServerAliveInterval=15 -o ServerAliveCountMax=4")
	return cmd
}

// ProgramID changes when the program for the virtual machine does. It reads none of it.
func (v *VM) ProgramID() string {
	if v.opts.Program == nil {
		return ""
	}
	path, err := v.opts.Program()
	if err != nil {
		return ""
	}
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%d-%d", info.Size(), info.ModTime().UnixNano())
}

func (v *VM) installed(ctx context.Context, t Tool, sum string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	var words limited
	cmd := v.shell(ctx, t, "sh", "-c", `if [ -x "$1" ]; then echo there; else echo absent; fi`, "sh", programDir+"/"+sum+"/mvmctl")
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil {
		return false, said(ctx, err, words.String())
	}
	return strings.HasSuffix(strings.TrimSpace(string(out)), "there"), nil
}

func (v *VM) install(ctx context.Context, t Tool, program, sum string, to io.Writer) error {
	f, err := os.Open(program)
	if err != nil {
		return machine.Errorf("lima.program", "install mvmctl anew", "reading mvmctl for Linux: %w", err)
	}
	defer func() { _ = f.Close() }()
	var words limited
	cmd := v.shell(ctx, t, "sudo", "-n", "sh", "-c", installScript, "sh", programDir, sum)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = f, &words, &words
	if to != nil {
		_, _ = fmt.Fprintf(to, "lima: putting mvmctl into the virtual machine %s\n", v.opts.Instance)
	}
	if err := cmd.Run(); err != nil {
		return machine.Errorf("lima.session", "look at the virtual machine: `limactl shell "+v.opts.Instance+"`", "putting mvmctl into the virtual machine: %w", said(ctx, err, words.String()))
	}
	return nil
}

// open starts the process and waits for its greeting.
func (v *VM) open(ctx context.Context, t Tool, sum string, to io.Writer) (*Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, connectTime, errors.New("the virtual machine does not answer"))
	defer cancel()
	s := &Session{Tool: t, words: &tail{to: to}, ended: make(chan struct{})}
	theirIn, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		_, _ = theirIn.Close(), in.Close()
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	s.in, s.out = in, out
	// Its life is the session's and not bounded by this call's context.
	s.cmd = v.shell(context.Background(), t, "sudo", "-n", programDir+"/"+sum+"/mvmctl", Command)
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = theirIn, theirOut, s.words
	err = s.cmd.Start()
	_, _ = theirIn.Close(), theirOut.Close()
	if err != nil {
		_, _ = in.Close(), out.Close()
		return nil, machine.Errorf("lima.session", "run `limactl --version`", "starting limactl: %w", err)
	}
	go s.reap()
	stop := context.AfterFunc(ctx, func() { _ = s.out.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	r := bufio.NewReaderSize(out, 32<<10)
	if s.Greeting, err = awaitGreeting(r); err == nil {
		err = s.speak(ctx, r)
	}
	if err != nil {
		cause := context.Cause(ctx)
		_ = s.Close()
		if errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded) {
			return nil, cause
		}
		if cause == nil {
			cause = errors.New(s.LastWords())
		}
		return nil, machine.Errorf("lima.session", "look at the virtual machine: `limactl shell "+v.opts.Instance+"`", "opening a session in the virtual machine: %w", cause)
	}
	return s, nil
}

// awaitGreeting reads past what a login shell prints.
func awaitGreeting(r *bufio.Reader) (build string, err error) {
	for room := maxNoise; room > 0; {
		line, err := r.ReadSlice('\n')
		room -= len(line)
		if _, build, ok := bytes.Cut(line, []byte(greeting)); ok && err == nil {
			return clip(machine.Printable(strings.TrimSpace(string(build))), 80), nil
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return "", err
		}
	}
	return "", errors.New("the virtual machine's shell prints too much")
}

// speak starts HTTP/2 on the pipes.
func (s *Session) speak(ctx context.Context, r io.Reader) error {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true) // ssh encrypts
	conn := &pipes{Reader: r, Writer: s.in, close: s.hangUp, deadline: s.out.SetReadDeadline}
	t := &http.Transport{
		DisableCompression: true, MaxResponseHeaderBytes: 64 << 10, Protocols: &protocols,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerConnection: 2 * maxStreams * streamBytes, MaxReceiveBufferPerStream: streamBytes, MaxReadFrameSize: 128 << 10,
		},
		DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}
	cc, err := t.NewClientConn(ctx, "http", "linux:http")
	if err != nil {
		return err
	}
	s.cc = cc
	return nil
}

// reap waits for limactl's end. What may be left of it then, an ssh that outlived it, ends as its
// input does.
func (s *Session) reap() {
	s.endErr = s.cmd.Wait()
	close(s.ended)
	_ = s.hangUp()
}

// hangUp closes our ends: the other side ends then.
func (s *Session) hangUp() error {
	s.closing.Do(func() { _, _ = s.in.Close(), s.out.Close() })
	return nil
}

// Pid is limactl's.
func (s *Session) Pid() int { return s.cmd.Process.Pid }

// Ended is closed once limactl has ended.
func (s *Session) Ended() <-chan struct{} { return s.ended }

// Err says how limactl ended; valid once Ended is closed.
func (s *Session) Err() error { return s.endErr }

// LastWords is the last line that limactl, ssh or the other side printed.
func (s *Session) LastWords() string {
	if w := s.words.last(); w != "" {
		return w
	}
	select {
	case <-s.ended:
		if s.endErr != nil {
			return "limactl: " + s.endErr.Error()
		}
	default:
	}
	return "the session ended"
}

// Do makes a request. The path of its URL is all that counts of it.
func (s *Session) Do(req *http.Request) (*http.Response, error) {
	req.URL.Scheme, req.URL.Host = "http", "linux"
	return s.cc.RoundTrip(req)
}

// Close ends the session and returns once its process on this host has ended, which is after
// everything that it served in the virtual machine has.
func (s *Session) Close() error {
	if s.cc != nil {
		_ = s.cc.Close()
	}
	_ = s.hangUp()
	timer := time.NewTimer(endGrace)
	defer timer.Stop()
	select {
	case <-s.ended:
		return nil
	case <-timer.C:
	}
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) // its session: limactl and ssh
	<-s.ended
	return machine.Errorf("lima.session", "look at the virtual machine: `limactl list`", "the session in the virtual machine did not end by itself")
}

// pipes are the two ends of pipes as one connection.
type pipes struct {
	io.Reader
	io.Writer
	close    func() error
	deadline func(time.Time) error
}

// Close implements net.Conn.
func (p *pipes) Close() error { return p.close() }

// LocalAddr implements net.Conn.
func (p *pipes) LocalAddr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// RemoteAddr implements net.Conn.
func (p *pipes) RemoteAddr() net.Addr { return p.LocalAddr() }

// SetDeadline implements net.Conn.
func (p *pipes) SetDeadline(t time.Time) error { return p.deadline(t) }

// SetReadDeadline implements net.Conn.
func (p *pipes) SetReadDeadline(t time.Time) error { return p.deadline(t) }

// SetWriteDeadline implements net.Conn. The end of the process ends a write.
func (p *pipes) SetWriteDeadline(time.Time) error { return nil }

// tail passes on what was said, and keeps the end of it.
type tail struct {
	to  io.Writer
	mu  sync.Mutex
	buf []byte
}

const maxTail = 4 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	t.buf = append(t.buf, p[max(0, len(p)-maxTail):]...)
	t.buf = t.buf[max(0, len(t.buf)-maxTail):]
	t.mu.Unlock()
	if t.to != nil {
		_, _ = t.to.Write(p)
	}
	return len(p), nil
}

func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.buf)), "\n")
	return clip(machine.Printable(strings.TrimSpace(lines[len(lines)-1])), 400)
}
