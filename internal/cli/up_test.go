package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// upSpec runs one `up` and returns the Spec that reached the engine.
func upSpec(t *testing.T, c call, args ...string) (machine.Spec, engine.UpOptions) {
	t.Helper()
	if c.eng == nil {
		c.eng = &scripted{}
	}
	var spec machine.Spec
	var opts engine.UpOptions
	c.eng.up = func(_ context.Context, s machine.Spec, o engine.UpOptions) (engine.UpResult, error) {
		spec, opts = s, o
		return engine.UpResult{Name: "web"}, nil
	}
	if a := c.run(t, args...); a.code != 0 {
		t.Fatalf("%q: exit code %d, %s", args, a.code, a.err)
	}
	return spec, opts
}

// TestUpSpec: what the command line says is what the engine is asked for, and what it does not
// say stays unsaid.
func TestUpSpec(t *testing.T) {
	local := func(guest, host int) machine.Port {
		return machine.Port{Host: "127.0.0.1", HostPort: host, GuestPort: guest, Proto: "tcp"}
	}
	tests := []struct {
		args string
		want machine.Spec
	}{
		{"up minimal", machine.Spec{Image: "minimal", Ephemeral: true, Attach: true}},
		{"run minimal -- echo --help", machine.Spec{Image: "minimal", Ephemeral: true, Attach: true, Command: []string{"echo", "--help"}}},
		{"up minimal --name web", machine.Spec{Image: "minimal", Name: "web", Attach: true}},
		{"up minimal --name web --rm", machine.Spec{Image: "minimal", Name: "web", Ephemeral: true, Attach: true}},
		{"up -d minimal", machine.Spec{Image: "minimal"}},
		{"up -d minimal -- sleep 9", machine.Spec{Image: "minimal", Command: []string{"sleep", "9"}}},
		{"up -d --cpus 4 -m 1.5G --disk 32M minimal --timeout 90s", machine.Spec{Image: "minimal", CPUs: 4, Memory: 3 << 29, Disk: 32 << 20, Timeout: 90 * time.Second}},
		{"up -d minimal -p 8080:80 -p 0:22", machine.Spec{Image: "minimal", Ports: []machine.Port{local(80, 8080), local(22, 0)}}},
		{"up -d minimal -e A=1 -e B -e C -e A=2", machine.Spec{Image: "minimal", Env: map[string]string{"A": "2", "B": "from me"}}},
		{"up -d minimal --label a=1 -l b", machine.Spec{Image: "minimal", Labels: map[string]string{"a": "1", "b": ""}}},
		{"up -d minimal --hypervisor fake --require-isolation vm --kernel 6.1 --sealed", machine.Spec{Image: "minimal", Driver: "fake", Require: "vm", Kernel: "6.1", Sealed: true}},
		{"up -d minimal --hypervisor auto --require-isolation none --kernel default --dev", machine.Spec{Image: "minimal"}},
		{"up -d minimal -u app:app -w /srv -- ./x", machine.Spec{Image: "minimal", User: "app:app", Dir: "/srv", Command: []string{"./x"}}},
		{"run -t minimal -- sh", machine.Spec{Image: "minimal", Ephemeral: true, Attach: true, TTY: true, Command: []string{"sh"}}},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			got, _ := upSpec(t, call{env: []string{"B=from me"}}, strings.Fields(tt.args)...)
			if len(got.Labels) == 0 {
				got.Labels = nil
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
		})
	}
}

// TestUpAgain: `start NAME`, and `up NAME` where no image has that name, mean the machine that
// exists; `run` always means an image.
func TestUpAgain(t *testing.T) {
	web := view("web", machine.StateExited)
	eng := &scripted{
		views:  []machine.View{view("minimal", machine.StateExited), web},
		images: []engine.ImageInfo{{Name: "base", Names: []string{"base", "minimal"}}},
	}
	tests := []struct {
		args        string
		name, image string
		attach      bool
	}{
		{"start web", "web", "", true},
		{"up web", "web", "", true},
		{"up --name web", "web", "", true},
		{"up -d web", "web", "", false},
		{"run web", "", "web", true},
		{"up minimal", "", "minimal", true},
		{"start minimal", "minimal", "", true},
		{"up minimal --name web", "web", "minimal", true},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			got, _ := upSpec(t, call{eng: eng}, strings.Fields(tt.args)...)
			if got.Name != tt.name || got.Image != tt.image || got.Attach != tt.attach {
				t.Errorf("name %q, image %q, attach %v; want %q, %q, %v", got.Name, got.Image, got.Attach, tt.name, tt.image, tt.attach)
			}
			if got.Name != "" && got.Ephemeral {
				t.Error("a named machine would be removed at its end")
			}
		})
	}
}

// TestPrecedence (once broken in the predecessor: defaults hid what a file said): a flag wins
// over the environment, that over mvm.toml, that over config.toml; the default is left to the
// engine.
func TestPrecedence(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c := call{dir: dir, userConfig: write("config.toml", "cpus = 2\nmemory = \"1G\"\ndisk = \"64M\"\nkernel = \"6.1\"\n"), env: []string{"MVM_MEMORY=3G", "MVM_CPUS=4"}}
	write("mvm.toml", "cpus = 3\ndisk = 134217728\n")
	got, _ := upSpec(t, c, "up", "-d", "minimal", "--cpus", "5")
	want := machine.Spec{Image: "minimal", CPUs: 5, Memory: 3 << 30, Disk: 128 << 20, Kernel: "6.1", Labels: map[string]string{}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
}

// TestUpOutput: standard output is the guest's alone in the foreground, and the name alone
// with -d.
func TestUpOutput(t *testing.T) {
	eng := &scripted{up: func(_ context.Context, _ machine.Spec, o engine.UpOptions) (engine.UpResult, error) {
		r := engine.UpResult{
			Name: "brave-otter", Driver: "qemu", Isolation: "emulated", Notes: []string{"no kvm"},
			Ports:  []machine.Port{{Host: "127.0.0.1", HostPort: 43210, GuestPort: 80, Proto: "tcp"}},
			Phases: []machine.Phase{{Name: "boot", Duration: 1234 * time.Millisecond}},
		}
		o.Progress(engine.Progress{Step: "booting"})
		o.Notice("hello\x1b[2J")
		o.Started(r)
		if !o.Detach {
			fmt.Fprint(o.Streams.Stdout, "out")
			fmt.Fprint(o.Streams.Stderr, "err")
			r.ExitCode = 7
		}
		return r, nil
	}}
	const port = "127.0.0.1:43210 -> 80\n"
	tests := []struct {
		args     string
		code     int
		out, err string
	}{
		{"run minimal", 7, "out", "mvmctl: hello\\x1b[2J\n" + port + "err"},
		{"run minimal --timings", 7, "out", "mvmctl: hello\\x1b[2J\n" + port + "note: it runs on qemu, isolation emulated\nnote: no kvm\nerrPHASE  TOOK\nboot   1.23s\n"},
		{"up -d minimal", 0, "brave-otter\n", "mvmctl: hello\\x1b[2J\n" + port},
		{"up -d minimal --progress plain", 0, "brave-otter\n", "[  0.00s] booting\nmvmctl: hello\\x1b[2J\n" + port},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			a := call{eng: eng}.run(t, strings.Fields(tt.args)...)
			if a.code != tt.code || a.out != tt.out || a.err != tt.err {
				t.Errorf("exit code %d, want %d\nstandard output %q\nwant            %q\nstandard error %q\nwant           %q", a.code, tt.code, a.out, tt.out, a.err, tt.err)
			}
		})
	}
	a := call{eng: eng}.run(t, "up", "-d", "--json", "minimal")
	if !strings.Contains(a.out, `"name": "brave-otter"`) || !strings.Contains(a.out, `"host_port": 43210`) {
		t.Errorf("with --json, standard output is %s", a.out)
	}
}

// TestInterrupt: the first Ctrl-C cancels and waits for the clean-up, and the exit code is
// 130; SIGTERM likewise, 143. The second one does not wait.
func TestInterrupt(t *testing.T) {
	for _, tt := range []struct {
		signal syscall.Signal
		code   int
	}{{syscall.SIGINT, 130}, {syscall.SIGTERM, 143}, {syscall.SIGHUP, 129}} {
		t.Run(tt.signal.String(), func(t *testing.T) {
			signals := make(chan os.Signal, 1)
			cleaned := false
			eng := &scripted{up: func(ctx context.Context, _ machine.Spec, _ engine.UpOptions) (engine.UpResult, error) {
				signals <- tt.signal
				<-ctx.Done()
				cleaned = true
				return engine.UpResult{ExitCode: 130}, context.Cause(ctx)
			}}
			a := call{eng: eng, signals: signals}.run(t, "run", "minimal")
			if a.code != tt.code || !cleaned || !strings.HasPrefix(a.err, "mvmctl: interrupted by SIG") {
				t.Errorf("exit code %d, cleaned %v, %q; want %d", a.code, cleaned, a.err, tt.code)
			}
		})
	}
	t.Run("twice", func(t *testing.T) {
		signals := make(chan os.Signal, 1)
		never := make(chan struct{})
		t.Cleanup(func() { close(never) })
		eng := &scripted{up: func(ctx context.Context, _ machine.Spec, _ engine.UpOptions) (engine.UpResult, error) {
			signals <- syscall.SIGINT
			<-ctx.Done()
			signals <- syscall.SIGINT
			<-never // a clean-up that hangs
			return engine.UpResult{}, nil
		}}
		a := call{eng: eng, signals: signals}.run(t, "run", "minimal")
		if a.code != 130 || !strings.Contains(a.err, "stopped at once") {
			t.Errorf("exit code %d, %q", a.code, a.err)
		}
	})
	t.Run("twice by timeout(1)", func(t *testing.T) {
		signals := make(chan os.Signal) // unbuffered: the second has been taken before the clean-up goes on
		cleaned := false
		eng := &scripted{up: func(ctx context.Context, _ machine.Spec, _ engine.UpOptions) (engine.UpResult, error) {
			signals <- syscall.SIGTERM
			signals <- syscall.SIGTERM
			<-ctx.Done()
			cleaned = true
			return engine.UpResult{ExitCode: 130}, context.Cause(ctx)
		}}
		a := call{eng: eng, signals: signals}.run(t, "run", "minimal")
		if a.code != 143 || !cleaned {
			t.Errorf("exit code %d, cleaned %v, %q", a.code, cleaned, a.err)
		}
	})
	t.Run("clean-up fails", func(t *testing.T) {
		signals := make(chan os.Signal, 1)
		eng := &scripted{up: func(ctx context.Context, _ machine.Spec, _ engine.UpOptions) (engine.UpResult, error) {
			signals <- syscall.SIGINT
			<-ctx.Done()
			return engine.UpResult{}, machine.Errorf("supervisor.hung", "mvmctl down --force web", "machine %q did not stop", "web")
		}}
		a := call{eng: eng, signals: signals}.run(t, "run", "minimal")
		if a.code != 125 || !strings.Contains(a.err, "did not stop") {
			t.Errorf("exit code %d, %q", a.code, a.err)
		}
	})
}

// TestOutputGone: writing to a closed pipe ends the command without a word, as SIGPIPE would,
// but after its clean-up; any other failure to write is an error.
func TestOutputGone(t *testing.T) {
	eng := func(cleaned *bool) *scripted {
		return &scripted{up: func(ctx context.Context, _ machine.Spec, o engine.UpOptions) (engine.UpResult, error) {
			_, err := fmt.Fprintln(o.Streams.Stdout, "hello")
			<-ctx.Done()
			*cleaned = true
			return engine.UpResult{}, err
		}}
	}
	for _, tt := range []struct {
		err  error
		code int
		says string
	}{{syscall.EPIPE, 141, ""}, {syscall.ENOSPC, 125, "mvmctl: writing the output: no space left on device\n"}} {
		cleaned := false
		a := call{eng: eng(&cleaned), out: brokenWriter{tt.err}}.run(t, "run", "minimal")
		if a.code != tt.code || !cleaned || !strings.HasPrefix(a.err, tt.says) || tt.says == "" && a.err != "" {
			t.Errorf("%v: exit code %d, cleaned %v, %q", tt.err, a.code, cleaned, a.err)
		}
	}
	if a := (call{eng: &scripted{views: []machine.View{view("a", machine.StateRunning)}}, out: brokenWriter{syscall.EPIPE}}).run(t, "ls"); a.code != 141 || a.err != "" {
		t.Errorf("ls | head: exit code %d, %q", a.code, a.err)
	}
}

type brokenWriter struct{ err error }

func (w brokenWriter) Write([]byte) (int, error) { return 0, w.err }

// TestErrors: an error of the engine keeps its code, remedy, log and detail, with foreign
// control characters shown, not obeyed.
func TestErrors(t *testing.T) {
	boom := &machine.Error{
		Code: "boot.failed", Message: "the guest \x1b]0;pwned\x07 did not start", Remedy: "mvmctl logs web", Log: "/state/console.log",
		Detail: "line one\nline \x9b2J two\n", Exit: 0,
	}
	eng := &scripted{up: func(context.Context, machine.Spec, engine.UpOptions) (engine.UpResult, error) {
		return engine.UpResult{}, fmt.Errorf("booting: %w", boom)
	}}
	a := call{eng: eng}.run(t, "up", "-d", "minimal")
	want := "mvmctl: the guest \\x1b]0;pwned\\x07 did not start\n  mvmctl logs web\n  log: /state/console.log\n  | line one\n  | line \\x9b2J two\n"
	if a.code != 125 || a.err != want {
		t.Errorf("exit code %d\n got %q\nwant %q", a.code, a.err, want)
	}
	a = call{eng: eng}.run(t, "up", "-d", "--json", "minimal")
	if want := `"code":"boot.failed"`; a.code != 125 || !strings.Contains(a.err, want) || !strings.Contains(a.err, `"log":"/state/console.log"`) || strings.ContainsAny(a.err, "\x1b\x07") {
		t.Errorf("with --json: exit code %d, %q", a.code, a.err)
	}

	eng.up = func(context.Context, machine.Spec, engine.UpOptions) (engine.UpResult, error) { panic("oops") }
	a = call{eng: eng}.run(t, "up", "-d", "minimal")
	if a.code != 125 || !strings.HasPrefix(a.err, "mvmctl: internal error: oops\n") || !strings.Contains(a.err, "| goroutine") {
		t.Errorf("panic: exit code %d, %q", a.code, a.err)
	}

	eng.up = func(context.Context, machine.Spec, engine.UpOptions) (engine.UpResult, error) {
		return engine.UpResult{}, fmt.Errorf("waiting: %w", context.DeadlineExceeded)
	}
	if a = (call{eng: eng}).run(t, "up", "-d", "minimal"); a.code != 124 {
		t.Errorf("deadline: exit code %d, %q", a.code, a.err)
	}
	eng.up = func(context.Context, machine.Spec, engine.UpOptions) (engine.UpResult, error) {
		return engine.UpResult{}, errors.Join(boom, io.ErrUnexpectedEOF)
	}
	if a = (call{eng: eng}).run(t, "up", "-d", "minimal"); a.code != 125 || !strings.Contains(a.err, "mvmctl logs web") || !strings.Contains(a.err, "mvmctl: unexpected EOF\n") {
		t.Errorf("joined errors: exit code %d, %q", a.code, a.err)
	}
}
