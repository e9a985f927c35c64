package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/term"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// TestExecArguments: flags stand before the command, on either side of the name; what follows
// the command's first word is the command's own.
func TestExecArguments(t *testing.T) {
	tests := []struct {
		args string
		want engine.ExecOptions
	}{
		{"exec web ls", engine.ExecOptions{Args: []string{"ls"}}},
		{"exec web -- ls", engine.ExecOptions{Args: []string{"ls"}}},
		{"exec web ls -l --help", engine.ExecOptions{Args: []string{"ls", "-l", "--help"}}},
		{"exec -it web sh -c x", engine.ExecOptions{Args: []string{"sh", "-c", "x"}, Streams: engine.Streams{TTY: true}}},
		{"exec web -it -- sh", engine.ExecOptions{Args: []string{"sh"}, Streams: engine.Streams{TTY: true}}},
		{"exec -u app web -w /srv -e A=1 -e B=2 -- env", engine.ExecOptions{Args: []string{"env"}, User: "app", Dir: "/srv", Env: map[string]string{"A": "1", "B": "2"}}},
		{"exec web --timeout 2s -- -odd", engine.ExecOptions{Args: []string{"-odd"}, Timeout: 2 * time.Second}},
		{"exec web -- -- x", engine.ExecOptions{Args: []string{"--", "x"}}},
		{"exec web echo --json", engine.ExecOptions{Args: []string{"echo", "--json"}}},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			var got engine.ExecOptions
			name := ""
			eng := &scripted{exec: func(_ context.Context, n string, o engine.ExecOptions) (engine.ExecResult, error) {
				name, got = n, o
				return engine.ExecResult{}, nil
			}}
			if a := (call{eng: eng}).run(t, strings.Fields(tt.args)...); a.code != 0 {
				t.Fatalf("exit code %d, %s", a.code, a.err)
			}
			got.Streams = engine.Streams{TTY: got.Streams.TTY}
			if diff := cmp.Diff(tt.want, got); name != "web" || diff != "" {
				t.Errorf("machine %q, options (-want +got):\n%s", name, diff)
			}
		})
	}
}

// TestExecStreams: three streams pass through untouched, the exit code is the guest's, and
// --stats speaks on standard error only.
func TestExecStreams(t *testing.T) {
	eng := &scripted{exec: func(_ context.Context, _ string, o engine.ExecOptions) (engine.ExecResult, error) {
		in, err := io.ReadAll(o.Streams.Stdin)
		if err != nil {
			return engine.ExecResult{}, err
		}
		fmt.Fprintf(o.Streams.Stdout, "<%s>\x1b[1m", in)
		fmt.Fprint(o.Streams.Stderr, "warn\x00")
		return engine.ExecResult{ExitCode: 42, Exit: agentproto.Exit{
			WallTime: agentproto.Duration(1500 * time.Millisecond), UserTime: agentproto.Duration(20 * time.Millisecond), MaxRSS: 3 << 20,
		}}, nil
	}}
	a := call{eng: eng, in: strings.NewReader("in\n")}.run(t, "exec", "--stats", "web", "cat")
	want := answer{42, "<in\n>\x1b[1m", "warn\x00wall 1.5s  user 20ms  system 0s  max-rss 3 MiB\n"}
	if a != want {
		t.Errorf("got  %#v\nwant %#v", a, want)
	}
}

// TestExecErrors: what the engine says of a command that never ran keeps the shell's exit code.
func TestExecErrors(t *testing.T) {
	eng := &scripted{exec: func(context.Context, string, engine.ExecOptions) (engine.ExecResult, error) {
		return engine.ExecResult{ExitCode: 127}, &machine.Error{Code: "exec.not_found", Message: `"frob" was not found`, Exit: machine.ExitNotFound}
	}}
	if a := (call{eng: eng}).run(t, "exec", "web", "frob"); a.code != 127 || a.err != "mvmctl: \"frob\" was not found\n" {
		t.Errorf("exit code %d, %q", a.code, a.err)
	}
}

// TestExecSignals: the first Ctrl-C is the guest command's, the second cancels, the third does
// not wait.
func TestExecSignals(t *testing.T) {
	signals := make(chan os.Signal, 1)
	var got []string
	eng := &scripted{exec: func(ctx context.Context, _ string, o engine.ExecOptions) (engine.ExecResult, error) {
		signals <- syscall.SIGINT
		got = append(got, <-o.Streams.Signals)
		if ctx.Err() != nil {
			t.Error("the first Ctrl-C cancelled the command")
		}
		signals <- syscall.SIGTERM
		got = append(got, <-o.Streams.Signals)
		signals <- syscall.SIGINT
		<-ctx.Done()
		return engine.ExecResult{}, ctx.Err()
	}}
	a := call{eng: eng, signals: signals}.run(t, "exec", "web", "sleep", "99")
	if diff := cmp.Diff([]string{"SIGINT", "SIGTERM"}, got); diff != "" || a.code != 130 {
		t.Errorf("exit code %d, signals (-want +got):\n%s", a.code, diff)
	}
}

// terminalPair returns both ends of a pseudo-terminal of 100×40 characters.
func terminalPair(t *testing.T) (ptmx, tty *os.File) {
	t.Helper()
	ptmx, tty, err := pty.Open()
	if err != nil {
		t.Skipf("no pseudo-terminal on this host: %v", err)
	}
	t.Cleanup(func() {
		_ = tty.Close()
		_ = ptmx.Close()
	})
	if err := pty.Setsize(ptmx, &pty.Winsize{Rows: 40, Cols: 100}); err != nil {
		t.Fatal(err)
	}
	return ptmx, tty
}

// isRaw reports whether the terminal passes every byte on at once.
func isRaw(t *testing.T, tty *os.File) bool {
	t.Helper()
	state, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	// A State has no fields to see: it is raw when making it raw changes nothing.
	before := fmt.Sprint(*state)
	if _, err := term.MakeRaw(int(tty.Fd())); err != nil {
		t.Fatal(err)
	}
	after, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if err := term.Restore(int(tty.Fd()), state); err != nil {
		t.Fatal(err)
	}
	return before == fmt.Sprint(*after)
}

// TestTerminal: a command on a terminal gets one in the guest, raw while it runs, with the
// right size before and after a change; the terminal is itself again however it ends.
func TestTerminal(t *testing.T) {
	for _, end := range []string{"normally", "with an error", "with a panic", "by SIGTERM", "by a forced stop"} {
		t.Run(end, func(t *testing.T) {
			ptmx, tty := terminalPair(t)
			if isRaw(t, tty) {
				t.Fatal("the terminal is raw before the test")
			}
			signals := make(chan os.Signal, 1)
			never := make(chan struct{})
			t.Cleanup(func() { close(never) })
			eng := &scripted{exec: func(ctx context.Context, _ string, o engine.ExecOptions) (engine.ExecResult, error) {
				if !o.Streams.TTY || o.Streams.Term != "xterm" || o.Streams.Size != (engine.Size{Rows: 40, Cols: 100}) {
					t.Errorf("streams are %+v", o.Streams)
				}
				if !isRaw(t, tty) {
					t.Error("the terminal is not raw while the command runs")
				}
				if err := pty.Setsize(ptmx, &pty.Winsize{Rows: 50, Cols: 120}); err != nil {
					t.Error(err)
				}
				signals <- syscall.SIGWINCH
				if got := <-o.Streams.Resize; got != (engine.Size{Rows: 50, Cols: 120}) {
					t.Errorf("new size is %v", got)
				}
				switch end {
				case "with an error":
					return engine.ExecResult{}, io.ErrUnexpectedEOF
				case "with a panic":
					panic("oops")
				case "by SIGTERM":
					signals <- syscall.SIGTERM
					<-ctx.Done()
				case "by a forced stop":
					signals <- syscall.SIGHUP
					<-ctx.Done()
					signals <- syscall.SIGINT
					<-never
				}
				return engine.ExecResult{}, ctx.Err()
			}}
			c := call{eng: eng, in: tty, out: tty, env: []string{"TERM=xterm"}, signals: signals}
			a := c.run(t, "exec", "web", "sh")
			want := map[string]int{"normally": 0, "with an error": 125, "with a panic": 125, "by SIGTERM": 143, "by a forced stop": 130}[end]
			if a.code != want {
				t.Errorf("exit code %d, want %d; %s", a.code, want, a.err)
			}
			if isRaw(t, tty) {
				t.Error("the terminal is still raw")
			}
		})
	}
}

// TestNoTerminal: without a terminal on both sides, or with --no-tty, the guest gets none.
func TestNoTerminal(t *testing.T) {
	_, tty := terminalPair(t)
	for _, tt := range []struct {
		name string
		c    call
		flag string
		want bool
	}{
		{"both", call{in: tty, out: tty}, "-i", true},
		{"input is a pipe", call{out: tty}, "-i", false},
		{"output is a pipe", call{in: tty}, "-i", false},
		{"--no-tty", call{in: tty, out: tty}, "--no-tty", false},
		{"-t with pipes", call{}, "-t", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := false
			tt.c.eng = &scripted{exec: func(_ context.Context, _ string, o engine.ExecOptions) (engine.ExecResult, error) {
				got = o.Streams.TTY
				return engine.ExecResult{}, nil
			}}
			if a := tt.c.run(t, "exec", tt.flag, "web", "sh"); a.code != 0 || got != tt.want {
				t.Errorf("exit code %d, terminal %v, want %v", a.code, got, tt.want)
			}
		})
	}
}

// TestConsole: a shell by default, one line of shell with --command, and Ctrl-] leaves it.
func TestConsole(t *testing.T) {
	var got engine.ExecOptions
	eng := &scripted{console: func(_ context.Context, _ string, o engine.ExecOptions) (engine.ExecResult, error) {
		got = o
		return engine.ExecResult{ExitCode: 3}, nil
	}}
	if a := (call{eng: eng}).run(t, "console", "web"); a.code != 3 || got.Args != nil || !got.Streams.TTY {
		t.Errorf("exit code %d, arguments %q, terminal %v", a.code, got.Args, got.Streams.TTY)
	}
	if a := (call{eng: eng}).run(t, "console", "web", "--command", "echo $HOME"); a.code != 3 || !cmp.Equal(got.Args, []string{"sh", "-c", "echo $HOME"}) {
		t.Errorf("exit code %d, arguments %q", a.code, got.Args)
	}

	ptmx, tty := terminalPair(t)
	eng.console = func(ctx context.Context, _ string, o engine.ExecOptions) (engine.ExecResult, error) {
		if _, err := ptmx.Write([]byte("ls\x1dmore")); err != nil {
			t.Error(err)
		}
		in, err := io.ReadAll(o.Streams.Stdin)
		if err != nil || string(in) != "ls" {
			t.Errorf("the guest read %q, %v", in, err)
		}
		<-ctx.Done()
		return engine.ExecResult{}, ctx.Err()
	}
	a := call{eng: eng, in: tty, out: tty}.run(t, "console", "web")
	if a.code != 0 || isRaw(t, tty) {
		t.Errorf("after Ctrl-]: exit code %d, %q", a.code, a.err)
	}
}
