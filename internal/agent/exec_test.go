//go:build unix

package agent_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/agent"
	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
)

func TestHelloAndStatus(t *testing.T) {
	g := boot(t)
	c := g.connect()
	h := c.Hello()
	if h.MachineID != g.config.MachineID || h.Generation != 7 || h.Build != "agent-test" || h.Protocol != agentproto.Version {
		t.Errorf("hello = %+v", h)
	}
	s, err := c.Status(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	if s.Phase != "ready" || s.Worker != "idle" || s.Streams != 0 || s.Build != "agent-test" || s.Kernel == "" {
		t.Errorf("status = %+v", s)
	}
	if runtime.GOOS == "linux" && (s.Memory.Total == 0 || s.Memory.AgentRSS == 0) {
		t.Errorf("memory = %+v", s.Memory)
	}
}

func TestExecEnds(t *testing.T) {
	c := boot(t).connect()
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("not a program"), 0o644); err != nil {
		t.Fatal(err)
	}
	proc := func(args ...string) agentproto.Process { return agentproto.Process{Args: args} }
	in := func(p agentproto.Process, dir, user string) agentproto.Process {
		p.Dir, p.User = dir, user
		return p
	}
	for _, tt := range []struct {
		name           string
		start          agentproto.ExecStart
		stdin          string // "-": none
		stdout, stderr string
		code           int
		signal, errc   string
	}{
		{name: "exit 0", start: sh("exit 0"), stdin: "-"},
		{name: "exit 3", start: sh("exit 3"), stdin: "-", code: 3},
		{name: "exit 255", start: sh("exit 255"), stdin: "-", code: 255},
		{name: "exit 124 is the command's own", start: sh("exit 124"), stdin: "-", code: 124},
		{name: "output on both streams", start: sh("echo out; echo err >&2"), stdin: "-", stdout: "out\n", stderr: "err\n"},
		{name: "killed", start: sh("kill -KILL $$"), stdin: "-", code: 137, signal: "SIGKILL"},
		{name: "terminated", start: sh("kill -TERM $$"), stdin: "-", code: 143, signal: "SIGTERM"},
		{name: "no input is an empty one", start: sh("cat; echo end"), stdin: "-", stdout: "end\n"},
		{name: "input with its end", start: sh("cat; echo end"), stdin: "text", stdout: "textend\n"},
		{name: "empty input", start: sh("cat; echo end"), stdin: "", stdout: "end\n"},
		{name: "input nobody reads", start: sh("exit 5"), stdin: strings.Repeat("x", 1<<20), code: 5},
		{name: "not found", start: agentproto.ExecStart{Process: proc("no-such-command")}, stdin: "-", code: 127, errc: agentproto.CodeNotFound},
		{name: "not found, with input", start: agentproto.ExecStart{Process: proc("no-such-command")}, stdin: strings.Repeat("x", 1<<20), code: 127, errc: agentproto.CodeNotFound},
		{name: "no such file", start: agentproto.ExecStart{Process: proc("/no/such/file")}, stdin: "-", code: 127, errc: agentproto.CodeNotFound},
		{name: "not executable", start: agentproto.ExecStart{Process: proc(plain)}, stdin: "-", code: 126, errc: agentproto.CodeNotExecutable},
		{name: "a folder", start: agentproto.ExecStart{Process: proc("/")}, stdin: "-", code: 126, errc: agentproto.CodeNotExecutable},
		{name: "no command", start: agentproto.ExecStart{}, stdin: "-", code: 125, errc: agentproto.CodeInvalid},
		{name: "no such user", start: agentproto.ExecStart{Process: in(proc("true"), "", "nobody-of-that-name")}, stdin: "-", code: 125, errc: agentproto.CodeUser},
		{name: "no such folder", start: agentproto.ExecStart{Process: in(proc("true"), "/no/such/dir", "")}, stdin: "-", code: 125, errc: agentproto.CodeDir},
		{name: "in a folder", start: agentproto.ExecStart{Process: in(proc("pwd"), "/usr", "")}, stdin: "-", stdout: "/usr\n"},
		{name: "with environment", start: agentproto.ExecStart{Process: agentproto.Process{
			Args: []string{"/bin/sh", "-c", `echo "$A"`}, Env: map[string]string{"A": "b c"},
		}}, stdin: "-", stdout: "b c\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var in io.Reader
			if tt.stdin != "-" {
				in = strings.NewReader(tt.stdin)
			}
			stdout, stderr, exit := run(t, c, tt.start, in)
			if stdout != tt.stdout || stderr != tt.stderr {
				t.Errorf("output %q and %q, want %q and %q", stdout, stderr, tt.stdout, tt.stderr)
			}
			if exit.Code != tt.code || exit.Signal != tt.signal || errorCode(exit) != tt.errc {
				t.Errorf("exit %+v (%v), want code %d, signal %q, error %q", exit, exit.Error, tt.code, tt.signal, tt.errc)
			}
			if exit.Error != nil && exit.Error.Remedy == "" {
				t.Errorf("no remedy for %v", exit.Error)
			}
		})
	}
}

func errorCode(e agentproto.Exit) string {
	if e.Error == nil {
		return ""
	}
	return e.Error.Code
}

func TestExecSignals(t *testing.T) {
	c := boot(t).connect()
	for _, name := range []string{"SIGINT", "SIGTERM", "SIGUSR1"} {
		t.Run(name, func(t *testing.T) {
			signals := make(chan string)
			exit, err := c.Exec(deadline(t), sh("exec sleep 60"), agentclient.Streams{
				Signals: signals,
				Started: func(int) { go func() { signals <- name }() },
			})
			if err != nil || exit.Signal != name {
				t.Errorf("exit %+v, %v", exit, err)
			}
		})
	}
}

// A program that does not read its input must not keep a signal from getting through.
func TestExecSignalPassesBlockedInput(t *testing.T) {
	c := boot(t).connect()
	signals := make(chan string)
	in := &countingReader{r: endless{}}
	go func() {
		// More than the pipe and all windows hold can never be taken.
		eventuallyQuiet(in)
		signals <- "SIGINT"
	}()
	exit, err := c.Exec(deadline(t), sh("exec sleep 60"), agentclient.Streams{Stdin: in, Signals: signals})
	if err != nil || exit.Signal != "SIGINT" {
		t.Fatalf("exit %+v, %v", exit, err)
	}
	if n := in.count(); n > 2<<20 {
		t.Errorf("%d bytes of input were taken for a program that reads none", n)
	}
}

// endless is input without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

type countingReader struct {
	r  io.Reader
	mu sync.Mutex
	n  int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += n
	return n, err
}

func (c *countingReader) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// eventuallyQuiet returns when nothing has been read for a moment.
func eventuallyQuiet(c *countingReader) {
	for last := -1; last != c.count() || last == 0; time.Sleep(50 * time.Millisecond) {
		last = c.count()
	}
}

func TestExecTimeoutKillsTheWholeGroup(t *testing.T) {
	c := boot(t).connect()
	pidFile := filepath.Join(t.TempDir(), "pid")
	// The grandchild ignores SIGTERM and keeps the output open.
	start := sh(`sh -c 'trap "" TERM; echo $$ > %s; while :; do sleep 1; done' & wait`, pidFile)
	start.Timeout = agentproto.Duration(300 * time.Millisecond)
	began := time.Now()
	_, _, exit := run(t, c, start, nil)
	if exit.Code != 124 || errorCode(exit) != agentproto.CodeExecTimeout {
		t.Errorf("exit %+v", exit)
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("it took %v", d)
	}
	goneFrom(t, pidFile)
}

// goneFrom waits until the process whose number is in file does not run any more.
func goneFrom(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, fmt.Sprintf("process %d is gone", pid), func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		// An orphan's zombie is its new parent's business.
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}

func TestExecCancelledClientHangsUp(t *testing.T) {
	c := boot(t).connect()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(deadline(t))
	// The program sees SIGHUP and may still write down its last words.
	start := sh(`trap 'echo bye > %[1]s/hup; exit 0' HUP; echo $$ > %[1]s/pid; echo ready; while :; do sleep 0.05; done`, dir)
	_, err := c.Exec(ctx, start, agentclient.Streams{Stdout: writerFunc(func(p []byte) (int, error) {
		cancel()
		return len(p), nil
	})})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	goneFrom(t, filepath.Join(dir, "pid"))
	if _, err := os.Stat(filepath.Join(dir, "hup")); err != nil {
		t.Errorf("the program did not get SIGHUP: %v", err)
	}
	eventually(t, "the agent is idle", func() bool {
		s, err := c.Status(deadline(t))
		return err == nil && s.Worker == "idle" && s.Streams == 0
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestExecVanishedConnectionHangsUp(t *testing.T) {
	g := boot(t)
	c := g.connect()
	pid := filepath.Join(t.TempDir(), "pid")
	_, err := c.Exec(deadline(t), sh(`echo $$ > %s; echo ready; exec sleep 60`, pid), agentclient.Streams{
		Stdout: writerFunc(func(p []byte) (int, error) {
			c.Close()
			return len(p), nil
		}),
	})
	if agentproto.CodeOf(err) != agentproto.CodeLost {
		t.Errorf("error %v, want %s", err, agentproto.CodeLost)
	}
	goneFrom(t, pid)
	select {
	case <-c.Closed():
	case <-time.After(patience):
		t.Error("Closed is not closed")
	}
}

// A background child that keeps the output open must not keep the command from ending, and
// what the command wrote must all arrive.
func TestExecDoesNotWaitForBackgroundChildren(t *testing.T) {
	c := boot(t).connect()
	pid := filepath.Join(t.TempDir(), "pid")
	began := time.Now()
	out, _, exit := run(t, c, sh(`sleep 30 & echo $! > %s; head -c 50000 /dev/zero; echo done`, pid), nil)
	if len(out) != 50005 || exit.Code != 0 {
		t.Errorf("%d bytes, exit %+v", len(out), exit)
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("it took %v", d)
	}
	data, _ := os.ReadFile(pid)
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n, 0); err != nil {
		t.Errorf("the background child was ended too: %v", err)
	}
	syscall.Kill(n, syscall.SIGKILL)
}

// patterned yields size bytes that repeat with no power of two.
func patterned(size int64) io.Reader {
	block := make([]byte, 65521)
	for i := range block {
		block[i] = byte(i * 7 >> 3)
	}
	return io.LimitReader(&repeated{block: block}, size)
}

type repeated struct {
	block []byte
	at    int
}

func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, r.block[r.at:])
	r.at = (r.at + n) % len(r.block)
	return n, nil
}

func digest(t *testing.T, r io.Reader) string {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Fatal(err)
	}
	return sum(h)
}

func sum(h hash.Hash) string { return fmt.Sprintf("%x", h.Sum(nil)) }

// 64 MiB through a program and back, while the process's memory stays flat.
func TestExecBulkBothWays(t *testing.T) {
	const size = 64 << 20
	c := boot(t).connect()
	var peak uint64
	stop := make(chan struct{})
	var watching sync.WaitGroup
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	watching.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak = max(peak, m.HeapInuse)
			}
		}
	})
	h := sha256.New()
	exit, err := c.Exec(deadline(t), sh("exec cat"), agentclient.Streams{Stdin: patterned(size), Stdout: h})
	close(stop)
	watching.Wait()
	if err != nil || exit.Code != 0 {
		t.Fatalf("exit %+v, %v", exit, err)
	}
	if got, want := sum(h), digest(t, patterned(size)); got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
	if grown := int64(peak) - int64(before.HeapInuse); grown > 24<<20 {
		t.Errorf("the heap grew by %d MiB for %d MiB of data", grown>>20, size>>20)
	}
}

// Streams whose readers have stopped must not keep others from flowing.
func TestStalledReadersStarveNobody(t *testing.T) {
	c := boot(t).connect()
	ctx, cancel := context.WithCancel(deadline(t))
	defer cancel()
	var stalled sync.WaitGroup
	var full sync.WaitGroup
	for range 16 {
		full.Add(1)
		once := sync.OnceFunc(full.Done)
		stalled.Go(func() {
			c.Exec(ctx, sh("exec cat /dev/zero"), agentclient.Streams{Stdout: writerFunc(func(p []byte) (int, error) {
				once()
				<-ctx.Done() // never takes more
				return 0, ctx.Err()
			})})
		})
	}
	full.Wait()
	for range 20 {
		if _, err := c.Status(deadline(t)); err != nil {
			t.Fatalf("Status: %v", err)
		}
	}
	out, _, exit := run(t, c, sh("head -c 4000000 /dev/zero"), nil)
	if len(out) != 4000000 || exit.Code != 0 {
		t.Errorf("another exec: %d bytes, %+v", len(out), exit)
	}
	cancel()
	stalled.Wait()
}

func TestTooManyStreamsAreRefusedAndStatusStillWorks(t *testing.T) {
	c := boot(t).connect()
	ctx, cancel := context.WithCancel(deadline(t))
	defer cancel()
	var started, all sync.WaitGroup
	for range agentproto.MaxStreams {
		started.Add(1)
		all.Go(func() {
			c.Exec(ctx, sh("exec sleep 60"), agentclient.Streams{Started: func(int) { started.Done() }})
		})
	}
	started.Wait()
	_, err := c.Exec(deadline(t), sh("true"), agentclient.Streams{})
	if agentproto.CodeOf(err) != agentproto.CodeBusy {
		t.Errorf("one more exec: %v, want %s", err, agentproto.CodeBusy)
	}
	s, err := c.Status(deadline(t))
	if err != nil || s.Streams != agentproto.MaxStreams || s.Worker != "busy" {
		t.Errorf("status %+v, %v", s, err)
	}
	cancel()
	all.Wait()
}

// 300 commands leave no goroutine (checked by boot) and no file behind.
func TestExecLeavesNothingBehind(t *testing.T) {
	c := boot(t).connect()
	run(t, c, sh("true"), nil)
	before := openFiles(t)
	for i := range 300 {
		ctx, cancel := context.WithCancel(context.Background())
		start := sh("echo x; exit 4")
		start.TTY = i%3 == 0
		if i%5 == 0 {
			cancel() // at once, in the middle of it or too late
		}
		c.Exec(ctx, start, agentclient.Streams{Stdin: strings.NewReader("y")})
		cancel()
	}
	eventually(t, "all files are closed", func() bool { return openFiles(t) <= before })
}

func TestExecOnATerminal(t *testing.T) {
	c := boot(t).connect()
	start := sh(`test -t 0 && test -t 1 && test -t 2 && echo "$TERM" && stty size && tty`)
	start.TTY, start.Rows, start.Cols, start.Term = true, 33, 111, "vt100"
	out, _, exit := run(t, c, start, nil)
	lines := strings.Split(strings.TrimSpace(out), "\r\n")
	if exit.Code != 0 || len(lines) != 3 || lines[0] != "vt100" || lines[1] != "33 111" || !strings.HasPrefix(lines[2], "/dev/") {
		t.Errorf("exit %+v, output %q", exit, out)
	}

	// The end of input reaches a program that reads lines.
	start = sh("cat; echo end")
	start.TTY = true
	if out, _, _ := run(t, c, start, strings.NewReader("abc\n")); !strings.HasSuffix(out, "end\r\n") {
		t.Errorf("output %q", out)
	}
}

func TestExecIsDeniedInASealedMachine(t *testing.T) {
	c := boot(t, func(o *agent.Options) { o.Config.Access = agentproto.Access{} }).connect()
	ctx := deadline(t)
	_, execErr := c.Exec(ctx, sh("true"), agentclient.Streams{})
	_, consoleErr := c.Console(ctx, agentproto.ExecStart{}, agentclient.Streams{})
	_, copyInErr := c.CopyIn(ctx, "/tmp", bytes.NewReader(nil))
	copyOutErr := c.CopyOut(ctx, "/tmp", io.Discard)
	_, forwardErr := c.Forward(ctx, "", 80)
	for what, err := range map[string]error{
		"exec": execErr, "console": consoleErr, "copy in": copyInErr, "copy out": copyOutErr, "forward": forwardErr,
	} {
		var e *agentproto.Error
		if !errors.As(err, &e) || e.Code != agentproto.CodeDenied || !strings.Contains(e.Remedy, "--dev") {
			t.Errorf("%s: %v, want %s with a remedy", what, err, agentproto.CodeDenied)
		}
	}
	if _, err := c.Status(ctx); err != nil {
		t.Errorf("Status: %v", err)
	}
}

// A bug in a handler ends that request alone; the log has what happened.
func TestABugInAHandlerEndsThatRequest(t *testing.T) {
	g := boot(t, func(o *agent.Options) { o.Timings = func() []agentproto.Timing { panic("a bug") } })
	c := g.connect()
	if _, err := c.Status(deadline(t)); err == nil {
		t.Error("status came from a handler that panicked")
	}
	x, err := c.Exec(deadline(t), sh("true"), agentclient.Streams{})
	if err != nil || x.Code != 0 {
		t.Errorf("afterwards: %+v, %v", x, err)
	}
}

// TERM is the host's where it is the name of a terminal.
func TestTermOfAProgram(t *testing.T) {
	c := boot(t).connect()
	for term, want := range map[string]string{"tmux-256color": "tmux-256color", "../../etc/x": "xterm-256color", "a b": "xterm-256color", "": "xterm-256color"} {
		start := sh("echo $TERM")
		start.TTY, start.Term = true, term
		var out bytes.Buffer
		if x, err := c.Exec(deadline(t), start, agentclient.Streams{Stdout: &out}); err != nil || x.Code != 0 || strings.TrimSpace(out.String()) != want {
			t.Errorf("%q: %q, %+v, %v", term, out.String(), x, err)
		}
	}
}
