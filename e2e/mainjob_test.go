package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
)

// The main job, as the README tells it.
func TestMainJob(t *testing.T) {
	eachDriver(t, false, func(t *testing.T, l *lab) {
		if out := l.must("up", "-d", "--name", "hello", "minimal"); out != "hello\n" {
			t.Errorf("up -d printed %q, want the name alone", out)
		}
		if out := l.must("exec", "hello", "--", "uname", "-a"); !strings.HasPrefix(out, "Linux ") {
			t.Errorf("uname -a: %q", out)
		}
		if v := l.machine("hello"); v == nil || v.State != "running" {
			t.Errorf("ls: %+v", v)
		}
		var detail struct {
			Name      string `json:"name"`
			Isolation string `json:"isolation"`
			Agent     *struct {
				Phase string `json:"phase"`
			} `json:"agent"`
		}
		if err := json.Unmarshal([]byte(l.must("inspect", "--json", "hello")), &detail); err != nil || detail.Agent == nil || detail.Agent.Phase != "ready" {
			t.Errorf("inspect: %+v, %v", detail, err)
		}
		if l.driver == "qemu" && detail.Isolation != "emulated" && detail.Isolation != "vm" {
			t.Errorf("isolation %q", detail.Isolation)
		}
		if out := l.must("logs", "hello"); !strings.Contains(out, "agent") {
			t.Errorf("logs: %q", out)
		}
		if out := l.must("up", "-d", "--name", "hello", "minimal"); out != "hello\n" {
			t.Errorf("up again printed %q", out)
		}
		if r := l.run("rm", "hello"); r.code != 125 || !strings.Contains(r.stderr, "mvmctl down hello") {
			t.Errorf("rm of a running machine: %v", r)
		}
		l.must("down", "hello")
		l.must("down", "hello")
		if v := l.machine("hello"); v == nil || v.State != "exited" {
			t.Errorf("ls after down: %+v", v)
		}
		if r := l.run("exec", "hello", "--", "true"); r.code != 125 || !strings.Contains(r.stderr, "not running") {
			t.Errorf("exec in a stopped machine: %v", r)
		}
		l.must("rm", "hello")
		l.nothingLeft()
	})
}

func TestForegroundRunPrintsCleansUpAndExitsAsItsCommand(t *testing.T) {
	eachDriver(t, false, func(t *testing.T, l *lab) {
		r := l.run("up", "minimal", "--", "sh", "-c", "echo out; echo err >&2; exit 42")
		if r.code != 42 || r.stdout != "out\n" || !strings.Contains(r.stderr, "err\n") {
			t.Errorf("%v", r)
		}
		l.nothingLeft()
		if r := l.run("up", "minimal", "--", "no-such-command"); r.code != 127 {
			t.Errorf("unknown command: %v", r)
		}
		l.nothingLeft()
	})
}

func TestExec(t *testing.T) {
	eachDriver(t, false, func(t *testing.T, l *lab) {
		l.must("up", "-d", "--name", "m", "-e", "GREETING=hi", "minimal")
		for name, tt := range map[string]struct {
			args []string
			in   string
			code int
			out  string
		}{
			"exit code":         {args: []string{"exec", "m", "--", "sh", "-c", "exit 7"}, code: 7},
			"not found":         {args: []string{"exec", "m", "--", "nope"}, code: 127},
			"not executable":    {args: []string{"exec", "m", "--", "/etc/passwd"}, code: 126},
			"signal":            {args: []string{"exec", "m", "--", "sh", "-c", "kill -TERM $$"}, code: 143},
			"timeout":           {args: []string{"exec", "--timeout", "1s", "m", "--", "sleep", "600"}, code: 124},
			"environment":       {args: []string{"exec", "-e", "B=2", "m", "--", "sh", "-c", "echo $GREETING $B"}, out: "hi 2\n"},
			"working directory": {args: []string{"exec", "-w", "/tmp", "m", "--", "sh", "-c", "basename $(pwd)"}, out: "tmp\n"},
			"input":             {args: []string{"exec", "m", "--", "cat"}, in: "one\ntwo\n", out: "one\ntwo\n"},
		} {
			if l.driver == "fake" && name == "not executable" {
				tt.args[3] = "/etc" // a folder: the fake guest's files are elsewhere
			}
			r := l.withInput(tt.in, tt.args...)
			if r.code != tt.code || (tt.out != "" && r.stdout != tt.out) {
				t.Errorf("%s: %v", name, r)
			}
		}
		l.must("rm", "--force", "m")
		l.nothingLeft()
	})
}

func (l *lab) withInput(in string, args ...string) result {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	cmd := l.command(ctx, nil, args...)
	cmd.Stdin = strings.NewReader(in)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	_ = cmd.Run()
	return result{stdout: out.String(), stderr: errOut.String(), code: cmd.ProcessState.ExitCode()}
}

// Every byte goes through exec unchanged, both ways, with a digest taken at each end.
func TestBulkThroughExec(t *testing.T) {
	eachDriver(t, false, func(t *testing.T, l *lab) {
		size := int64(64 << 20)
		if l.driver == "qemu" {
			size = 8 << 20 // the bench moves 256 MiB; emulated AES is slow
		}
		l.must("up", "-d", "--name", "m", "minimal")
		ctx, cancel := context.WithTimeout(context.Background(), commandTime)
		defer cancel()
		up := l.command(ctx, nil, "exec", "m", "--", "sha256sum")
		sent := sha256.New()
		up.Stdin = io.TeeReader(io.LimitReader(pattern{}, size), sent)
		out, err := up.Output()
		if want := hex.EncodeToString(sent.Sum(nil)); err != nil || !strings.HasPrefix(string(out), want) {
			t.Errorf("into the guest: %v, guest says %q, sent %s", err, out, want)
		}
		down := l.command(ctx, nil, "exec", "m", "--", "sh", "-c", fmt.Sprintf("head -c %d /dev/urandom > /tmp/x; sha256sum /tmp/x >&2; cat /tmp/x", size))
		got := sha256.New()
		var said bytes.Buffer
		down.Stdout, down.Stderr = got, &said
		if err := down.Run(); err != nil || !strings.HasPrefix(said.String(), hex.EncodeToString(got.Sum(nil))) {
			t.Errorf("out of the guest: %v, guest says %q, got %x", err, said.String(), got.Sum(nil))
		}
		l.must("rm", "--force", "m")
		l.nothingLeft()
	})
}

// pattern is an endless stream of bytes that do not repeat with any buffer's size.
type pattern struct{}

func (pattern) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(i*7 + i>>8)
	}
	return len(p), nil
}

func TestCopy(t *testing.T) {
	eachDriver(t, false, func(t *testing.T, l *lab) {
		l.must("up", "-d", "--name", "m", "minimal")
		src := filepath.Join(l.dir, "src")
		if err := os.MkdirAll(filepath.Join(src, "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string]string{"a.txt": "alpha", "sub/b": strings.Repeat("b", 1<<20)} {
			if err := os.WriteFile(filepath.Join(src, name), []byte(content), 0o640); err != nil {
				t.Fatal(err)
			}
		}
		l.must("cp", src+"/a.txt", "m:/tmp/renamed")
		if l.driver != "fake" { // whose commands see the host's files
			if out := l.must("exec", "m", "--", "cat", "/tmp/renamed"); out != "alpha" {
				t.Errorf("file into the guest: %q", out)
			}
		}
		if l.driver != "fake" { // whose copies are confined to the machine's own folder
			l.must("cp", "m:/proc/cpuinfo", l.dir)
			if got, err := os.ReadFile(filepath.Join(l.dir, "cpuinfo")); err != nil || !bytes.Contains(got, []byte("processor")) {
				t.Errorf("the kernel's file out of the guest: %d bytes, %v", len(got), err)
			}
			if r := l.run("cp", "m:/dev/zero", l.dir); r.code != 125 || !strings.Contains(r.stderr, "not copied") {
				t.Errorf("copy of a device: %v", r)
			}
		}
		l.must("cp", src, "m:/tmp/")
		l.must("cp", "m:/tmp/src", l.dir+"/back")
		for _, name := range []string{"a.txt", "sub/b"} {
			want, _ := os.ReadFile(filepath.Join(src, name))
			got, err := os.ReadFile(filepath.Join(l.dir, "back", name))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s came back with %d bytes, %v", name, len(got), err)
			}
		}
		if info, err := os.Stat(filepath.Join(l.dir, "back/a.txt")); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("mode: %v, %v", info, err)
		}
		tarred := l.run("cp", "m:/tmp/src", "-")
		if h, err := tar.NewReader(strings.NewReader(tarred.stdout)).Next(); err != nil || strings.TrimSuffix(h.Name, "/") != "src" {
			t.Errorf("tar on standard output: %v, %v", h, err)
		}
		if r := l.run("cp", "m:/no/such", l.dir); r.code != 125 {
			t.Errorf("copy of what is not there: %v", r)
		}
		l.must("rm", "--force", "m")
		l.nothingLeft()
	})
}

func TestPublishedPorts(t *testing.T) {
	eachDriver(t, false, func(t *testing.T, l *lab) {
		l.must("up", "-d", "--name", "m", "-p", "0:7", "minimal", "--", "sh", "-c", "while true; do nc -l -p 7 -e cat || nc -l 7; done")
		v := l.machine("m")
		if v == nil || len(v.Ports) != 1 || v.Ports[0].HostPort == 0 {
			t.Fatalf("ports: %+v", v)
		}
		taken := strconv.Itoa(v.Ports[0].HostPort)
		if r := l.run("up", "-d", "--name", "n", "-p", taken+":7", "minimal"); r.code != 125 || !strings.Contains(r.stderr, `is published by machine "m"`) {
			t.Errorf("a port that is taken: %v", r)
		}
		if l.machine("n") != nil {
			t.Error("the machine that could not be published was left")
		}
		l.must("rm", "--force", "m")
		if c, err := net.DialTimeout("tcp", "127.0.0.1:"+taken, time.Second); err == nil {
			_ = c.Close()
			t.Error("the port is still published")
		}
		l.nothingLeft()
	})
}

// A console is a terminal: it has a prompt, obeys its size, and there is one.
func TestConsole(t *testing.T) {
	eachDriver(t, false, func(t *testing.T, l *lab) {
		l.must("up", "-d", "--name", "m", "minimal")
		ctx, cancel := context.WithTimeout(context.Background(), commandTime)
		defer cancel()
		cmd := l.command(ctx, []string{"TERM=xterm"}, "console", "m")
		tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 101})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tty.Close() }()
		screen := &screen{r: tty}
		screen.waitFor(t, "# ")
		if _, err := tty.WriteString("echo $((40+2))-yes\n"); err != nil {
			t.Fatal(err)
		}
		screen.waitFor(t, "42-yes")
		if r := l.run("console", "m"); r.code != 125 || !strings.Contains(r.stderr, "console") {
			t.Errorf("a second console: %v", r)
		}
		if _, err := tty.WriteString("exit 3\n"); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, tty)
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 3 {
			t.Errorf("the console's exit code is %d, want the shell's 3", code)
		}
		l.must("rm", "--force", "m")
		l.nothingLeft()
	})
}

// screen collects what a terminal shows.
type screen struct {
	r    io.Reader
	seen bytes.Buffer
}

func (s *screen) waitFor(t *testing.T, want string) {
	t.Helper()
	buf := make([]byte, 4096)
	for !strings.Contains(s.seen.String(), want) {
		n, err := s.r.Read(buf)
		s.seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("waiting for %q: %v; seen %q", want, err, s.seen.String())
		}
	}
}

func TestDiffShowsWhatTheMachineChanged(t *testing.T) {
	l := newLab(t, "qemu", false)
	l.must("up", "-d", "--name", "m", "minimal")
	l.must("exec", "m", "--", "sh", "-c", "echo x > /root/new; echo y >> /etc/passwd; rm /etc/profile; mkdir -p /srv/a/b")
	out := l.must("diff", "m")
	for _, line := range []string{"A /root/new", "M /etc/passwd", "D /etc/profile", "A /srv/a/b"} {
		if !strings.Contains(out, line+"\n") {
			t.Errorf("diff lacks %q:\n%s", line, out)
		}
	}
	// What it wrote is still there after it was off.
	l.must("down", "m")
	l.must("up", "-d", "--name", "m")
	if out := l.must("exec", "m", "--", "cat", "/root/new"); out != "x\n" {
		t.Errorf("after a restart: %q", out)
	}
	l.must("rm", "--force", "m")
	l.nothingLeft()
}

func TestWaitGivesTheExitCode(t *testing.T) {
	eachDriver(t, false, func(t *testing.T, l *lab) {
		l.must("up", "-d", "--name", "m", "minimal", "--", "sh", "-c", "echo said; exit 5")
		if out := l.must("wait", "m"); out != "5\n" {
			t.Errorf("wait printed %q", out)
		}
		if out := l.must("logs", "m"); !strings.Contains(out, "said\n") {
			t.Errorf("logs: %q", out)
		}
		if v := l.machine("m"); v == nil || v.State != "exited" || v.ExitCode == nil || *v.ExitCode != 5 {
			t.Errorf("ls: %+v", v)
		}
		l.must("rm", "m")
		l.nothingLeft()
	})
}
