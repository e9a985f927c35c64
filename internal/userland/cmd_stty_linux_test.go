package userland

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/creack/pty"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// onTerminal runs a command of ours on a new terminal of 30 × 100.
func onTerminal(t *testing.T) (run func(argv ...string) string, tty *os.File) {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Skipf("missing: a pseudo-terminal: %v", err)
	}
	t.Cleanup(func() { master.Close(); slave.Close() })
	if err := pty.Setsize(master, &pty.Winsize{Rows: 30, Cols: 100}); err != nil {
		t.Fatal(err)
	}
	return func(argv ...string) string {
		t.Helper()
		var out strings.Builder
		code := Run(t.Context(), argv, "/", []string{"TERM=xterm-256color"}, Stdio{In: slave, Out: &out, Err: &out})
		if code != 0 {
			t.Errorf("%q: status %d, %s", argv, code, out.String())
		}
		return out.String()
	}, slave
}

// What stty sets is what the system's own stty would have set.
func TestSttySetsWhatTheSystemsSets(t *testing.T) {
	theirs, err := exec.LookPath("stty")
	if err != nil {
		t.Skip("missing: stty")
	}
	for _, args := range [][]string{
		{"raw"},
		{"raw", "-echo"},
		{"-icanon", "-echo", "min", "0", "time", "5"},
		{"intr", "^X", "erase", "^H", "susp", "undef"},
		{"-ixon", "-isig", "-onlcr"},
		{"raw", "-raw", "-istrip"},
		{"raw", "sane"},
		{"cbreak"},
	} {
		settings := func(set func(tty *os.File)) *unix.Termios {
			run, tty := onTerminal(t)
			run("stty", "sane")
			set(tty)
			got, err := unix.IoctlGetTermios(int(tty.Fd()), ioctlGetTermios)
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		ours := settings(func(tty *os.File) {
			if code := Run(t.Context(), append([]string{"stty"}, args...), "/", nil, Stdio{In: tty, Err: os.Stderr}); code != 0 {
				t.Errorf("stty %q: status %d", args, code)
			}
		})
		want := settings(func(tty *os.File) {
			cmd := exec.CommandContext(t.Context(), theirs, args...)
			cmd.Stdin = tty
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s %q: %v, %s", theirs, args, err, out)
			}
		})
		ours.Cflag &^= unix.HUPCL | unix.CLOCAL
		want.Cflag &^= unix.HUPCL | unix.CLOCAL
		if diff := cmp.Diff(want, ours); diff != "" {
			t.Errorf("stty %q:\n%s", args, diff)
		}
	}
}

func TestSttyShowsAndRestores(t *testing.T) {
	run, _ := onTerminal(t)
	run("stty", "sane")
	if got := run("stty", "size"); got != "30 100\n" {
		t.Errorf("size %q", got)
	}
	saved := strings.TrimSpace(run("stty", "-g"))
	before := run("stty", "-a")
	if !strings.Contains(before, "rows 30; columns 100;") || !strings.Contains(before, "intr = ^C;") || !strings.Contains(before, " icanon ") {
		t.Errorf("-a: %s", before)
	}
	run("stty", "raw", "-echo", "intr", "^X")
	if got := run("stty"); !strings.Contains(got, "intr = ^X;") || !strings.Contains(got, "-icanon") || !strings.Contains(got, "-echo") {
		t.Errorf("what differs: %s", got)
	}
	run("stty", saved)
	if got := run("stty", "-a"); got != before {
		t.Errorf("restored:\n%s\nwant\n%s", got, before)
	}
	run("stty", "rows", "50", "cols", "132")
	if got := run("stty", "size"); got != "50 132\n" {
		t.Errorf("size %q", got)
	}
	if got := run("tput", "cols"); got != "132\n" {
		t.Errorf("tput cols %q", got)
	}
	for _, argv := range [][]string{{"stty", "nonsense"}, {"stty", "rows"}, {"stty", "rows", "x"}, {"stty", "min", "256"}, {"stty", "intr", ""}} {
		_, tty := onTerminal(t)
		if code := Run(t.Context(), argv, "/", nil, Stdio{In: tty}); code != 1 {
			t.Errorf("%q: status %d", argv, code)
		}
	}
	var errs strings.Builder
	if code := Run(t.Context(), []string{"stty", "size"}, "/", nil, Stdio{Err: &errs}); code != 1 || !strings.Contains(errs.String(), "Inappropriate ioctl") {
		t.Errorf("without a terminal: status %d, %s", code, errs.String())
	}
}

func TestTput(t *testing.T) {
	for _, c := range []struct {
		term string
		args []string
		out  string
		code int
	}{
		{"xterm-256color", []string{"bold"}, "\x1b[1m", 0},
		{"xterm-256color", []string{"setaf", "1"}, "\x1b[31m", 0},
		{"xterm-256color", []string{"setab", "9"}, "\x1b[101m", 0},
		{"xterm-256color", []string{"setaf", "200"}, "\x1b[38;5;200m", 0},
		{"xterm-256color", []string{"cup", "2", "10"}, "\x1b[3;11H", 0},
		{"xterm-256color", []string{"cuf", "4"}, "\x1b[4C", 0},
		{"xterm-256color", []string{"colors"}, "256\n", 0},
		{"vt100", []string{"cols"}, "80\n", 0},
		{"vt100", []string{"lines"}, "24\n", 0},
		{"dumb", []string{"bold"}, "", 1},
		{"dumb", []string{"colors"}, "-1\n", 0},
		{"", []string{"bold"}, "", 2},
		{"", []string{"-T", "xterm", "sgr0"}, "\x1b[m", 0},
		{"", []string{"-Txterm", "sgr0"}, "\x1b[m", 0},
		{"xterm", []string{"nonsense"}, "", 4},
		{"xterm", []string{"setaf", "-1"}, "", 4},
		{"xterm", nil, "", 2},
	} {
		var out strings.Builder
		code := Run(t.Context(), append([]string{"tput"}, c.args...), "/", []string{"TERM=" + c.term}, Stdio{Out: &out})
		if out.String() != c.out || code != c.code {
			t.Errorf("TERM=%s tput %q: %q, %d, want %q, %d", c.term, c.args, out.String(), code, c.out, c.code)
		}
	}
}
