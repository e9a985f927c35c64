//go:build unix

package userland

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// session is an interactive shell on a pseudo-terminal.
type session struct {
	t    *testing.T
	tty  *os.File
	cmd  *exec.Cmd
	data chan string
	seen string
}

func startSession(t *testing.T) *session {
	t.Helper()
	cmd := shellProcess(t)
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 100})
	if err != nil {
		t.Skipf("missing: a pseudo-terminal: %v", err)
	}
	s := &session{t: t, tty: tty, cmd: cmd, data: make(chan string, 100)}
	t.Cleanup(func() { tty.Close() })
	go func() {
		defer close(s.data)
		buf := make([]byte, 4096)
		for {
			n, err := tty.Read(buf)
			if n > 0 {
				s.data <- string(buf[:n])
			}
			if err != nil {
				return
			}
		}
	}()
	s.expect(`[#$] $`)
	return s
}

// expect waits until what has come since the last expect matches.
func (s *session) expect(pattern string) string {
	s.t.Helper()
	re := regexp.MustCompile(pattern)
	limit := time.After(20 * time.Second)
	for {
		if m := re.FindStringIndex(s.seen); m != nil {
			text := s.seen[:m[1]]
			s.seen = s.seen[m[1]:]
			return text
		}
		select {
		case chunk, ok := <-s.data:
			if !ok {
				s.t.Fatalf("the shell ended while waiting for %q; got %q", pattern, s.seen)
			}
			s.seen += chunk
		case <-limit:
			s.t.Fatalf("no %q in %q", pattern, s.seen)
		}
	}
}

func (s *session) send(text string) {
	s.t.Helper()
	if _, err := s.tty.WriteString(text); err != nil {
		s.t.Fatal(err)
	}
}

// line sends a line and returns the output up to the next prompt.
func (s *session) line(text string) string {
	s.t.Helper()
	s.send(text + "\r")
	s.expect(regexp.QuoteMeta(text) + `\r\n`)
	return s.expect(`[^ ]+:[^ ]*[#$] $`)
}

// drain waits until the shell has closed the terminal.
func (s *session) drain() {
	s.t.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case chunk, ok := <-s.data:
			if !ok {
				return
			}
			s.seen += chunk
		case <-limit:
			s.cmd.Process.Kill()
			s.t.Fatalf("the shell did not end; it said %q", s.seen)
		}
	}
}

func (s *session) end(want int) {
	s.t.Helper()
	s.drain()
	s.cmd.Wait() // the status says it all
	if got := s.cmd.ProcessState.ExitCode(); got != want {
		s.t.Errorf("status %d, want %d", got, want)
	}
}

func TestInteractivePromptNamesHostAndDirectory(t *testing.T) {
	s := startSession(t)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	mark := "$ "
	if os.Geteuid() == 0 {
		mark = "# "
	}
	if got := s.line("cd /"); !strings.HasSuffix(got, host+":/"+mark) {
		t.Errorf("prompt %q", got)
	}
	if got := s.line("cd"); !strings.HasSuffix(got, host+":~"+mark) {
		t.Errorf("prompt at home %q", got)
	}
	s.send("exit\r")
	s.end(0)
}

func TestInteractiveEditingAndHistory(t *testing.T) {
	s := startSession(t)
	if got := s.line("echo first"); !strings.HasPrefix(got, "first\r\n") {
		t.Errorf("output %q", got)
	}
	s.send("\x1b[A\r") // up: the line before
	s.expect(`\r\nfirst\r\n`)
	s.send("echo abd\x1b[Dc\r") // left, then a letter in between
	s.expect(`\r\nabcd\r\n`)
	s.send("cho x\x01e\r") // to the start of the line
	s.expect(`\r\nx\r\n`)
	s.send("echo wrong\x15echo right\r") // erase the line
	s.expect(`\r\nright\r\n`)
	s.send("for i in 1 2; do\r")
	s.expect(`> $`)
	s.send("echo n$i; done\r")
	s.expect(`n1\r\nn2\r\n`)
	s.send("exit 7\r")
	s.end(7)
}

func TestInteractiveCtrlCAbandonsTheLine(t *testing.T) {
	s := startSession(t)
	s.send("echo should-not-run\x03")
	s.expect(`\^C\r\n`)
	s.expect(`[#$] $`)
	if got := s.line("echo status $?"); !strings.HasPrefix(got, "status 130\r\n") {
		t.Errorf("got %q", got)
	}
	s.send("if true; then\r")
	s.expect(`> $`)
	s.send("\x03")
	s.expect(`\^C\r\n.*[#$] $`)
	if got := s.line("echo fresh"); !strings.HasPrefix(got, "fresh\r\n") {
		t.Errorf("after abandoning two lines: %q", got)
	}
	s.send("\x04")
	s.end(0)
}

func TestInteractiveCtrlCInterruptsTheCommand(t *testing.T) {
	for _, command := range []string{"sleep 100", "cat", "yes >/dev/null", "while :; do :; done", "sleep 100 | cat", "tail -f /dev/null", "sh -c 'echo go; sleep 100'"} {
		t.Run(command, func(t *testing.T) {
			s := startSession(t)
			s.send("echo go; " + command + "\r")
			s.expect(`\ngo\r\n`)
			s.send("\x03")
			s.expect(`[#$] $`)
			if got := s.line("echo alive $?"); !strings.HasPrefix(got, "alive 130\r\n") {
				t.Errorf("got %q", got)
			}
			s.send("\x04")
			s.end(0)
		})
	}
}

func TestInteractiveCtrlDLeavesWithTheLastStatus(t *testing.T) {
	s := startSession(t)
	s.line("trap 'echo bye' EXIT")
	s.line("(exit 6)")
	s.send("\x04")
	s.expect(`bye\r\n`)
	s.end(6)
}

func TestInteractiveInputBelongsToTheCommand(t *testing.T) {
	s := startSession(t)
	// Typed ahead in one go: the second line is read's, not the shell's.
	s.send("read x; echo got [$x]\rsome data\r")
	s.expect(`got \[some data\]\r\n`)
	s.expect(`[#$] $`)
	s.send("tr a-z A-Z\r")
	s.expect(`Z\r\n`)
	s.send("typed\r")
	s.expect(`TYPED\r\n`)
	s.send("\x04")
	s.expect(`[#$] $`)
	s.send("exit\r")
	s.end(0)
}

func TestInteractiveBackgroundJobSurvivesCtrlC(t *testing.T) {
	s := startSession(t)
	s.send("sleep 50 &\r")
	s.expect(`\[1\] \d+\r\n`)
	s.expect(`[#$] $`)
	if got := s.line("kill -0 $! && echo runs"); !strings.HasPrefix(got, "runs\r\n") {
		t.Errorf("got %q", got)
	}
	s.send("kill $!; wait $!; echo was $?\r")
	s.expect(`was 143\r\n`)
	s.expect(`[#$] $`)
	s.send("\x04")
	s.end(0)
}

func TestInteractiveHangupEndsTheShell(t *testing.T) {
	s := startSession(t)
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.drain()
	s.cmd.Wait()
	if ws, ok := s.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !ws.Signaled() || ws.Signal() != syscall.SIGHUP {
		t.Errorf("ended with %v", s.cmd.ProcessState)
	}
}
