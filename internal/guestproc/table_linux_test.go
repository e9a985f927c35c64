package guestproc

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// subreaperEnv makes the test binary run one test as a subreaper, in a process of its own:
// a table that reaps everything would take the children of other tests.
const subreaperEnv = "GUESTPROC_TEST_SUBREAPER"

// asSubreaper reports whether this is the inner process; the outer one runs the same test there.
func asSubreaper(t *testing.T) bool {
	t.Helper()
	if os.Getenv(subreaperEnv) != "" {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			t.Fatal(err)
		}
		return true
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), subreaperEnv+"=1")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("as subreaper: %v\n%s", err, out)
	}
	return false
}

func gone(pid int) bool { return syscall.Kill(pid, 0) == syscall.ESRCH }

func TestSubreaperTakesOrphans(t *testing.T) {
	if !asSubreaper(t) {
		return
	}
	tab := running(t)
	// The inner shell ends at once; its sleep becomes ours and ends later, by our signal.
	p, out := startReading(t, tab, sh("sh -c 'sleep 1000 & echo $!'"))
	orphan := readPid(t, out)
	wait(t, p)
	st, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", orphan))
	if f := strings.Fields(string(st)); err != nil || len(f) < 4 || f[3] != strconv.Itoa(os.Getpid()) {
		t.Fatalf("the orphan is not our child: %q, %v", st, err)
	}
	if err := syscall.Kill(orphan, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(limit); !gone(orphan); {
		if time.Now().After(deadline) {
			t.Fatal("the orphan stays a zombie")
		}
		wait(t, start(t, tab, sh(":"))) // another exit, another sweep
	}
}

func TestSubreaperKeepsExitCodes(t *testing.T) {
	if !asSubreaper(t) {
		return
	}
	tab := running(t)
	for i := range 100 {
		p := start(t, tab, sh(fmt.Sprintf("sh -c 'sleep 0 & sleep 0 &'; exit %d", i)))
		if got := wait(t, p); got.Code != i {
			t.Fatalf("exit %d came as %+v", i, got)
		}
	}
}

func TestPlainProcessLeavesForeignChildrenAlone(t *testing.T) {
	tab := running(t)
	foreign := exec.Command("/bin/sh", "-c", "exit 5")
	if err := foreign.Start(); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		wait(t, start(t, tab, sh(":")))
	}
	if err := foreign.Wait(); foreign.ProcessState.ExitCode() != 5 {
		t.Errorf("somebody else's child was reaped: %v", err)
	}
}

func TestKillRest(t *testing.T) {
	tab := running(t)
	// One background process in the group and one in a group of its own in the same session.
	s := sh("sleep 1000 & set -m; sleep 1000 & exit 4")
	s.KillRest = true
	p, out := startReading(t, tab, s)
	if got := wait(t, p); got.Code != 4 {
		t.Errorf("got %+v", got)
	}
	closedByAll(t, out)
}

func TestWithoutKillRestBackgroundLives(t *testing.T) {
	tab := running(t)
	p, out := startReading(t, tab, sh("sleep 1000 & echo $!"))
	pid := readPid(t, out)
	wait(t, p)
	if gone(pid) {
		t.Error("the background process was killed")
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	closedByAll(t, out)
}

func TestStopReachesOtherGroupsOfTheSession(t *testing.T) {
	tab := running(t)
	p, out := startReading(t, tab, sh("set -m; (trap '' TERM; sleep 1000; sleep 1000) & echo $!; wait"))
	readPid(t, out)
	p.Stop(syscall.SIGTERM, 50*time.Millisecond)
	closedByAll(t, out)
}

// A child that takes longer than its leader to stop is given the rest of the grace.
func TestStopWaitsForTheGroup(t *testing.T) {
	tab := running(t)
	for _, killRest := range []bool{false, true} {
		s := sh("(trap 'sleep 0.1; echo saved; exit' TERM; echo ready; while :; do sleep 0.01; done) & wait")
		s.KillRest = killRest
		p, out := startReading(t, tab, s)
		if line, _ := out.ReadString('\n'); line != "ready\n" {
			t.Fatalf("got %q", line)
		}
		p.Stop(syscall.SIGTERM, limit)
		if line, _ := out.ReadString('\n'); line != "saved\n" {
			t.Errorf("KillRest %v: the child was not given time: got %q", killRest, line)
		}
	}
}

func TestStopBeatsForkingSession(t *testing.T) {
	tab := running(t)
	script := "trap '' TERM; f() { while :; do sleep 0.001; (sleep 1000) & done; }; f & echo ready; wait; exit"
	p, out := startReading(t, tab, sh(script))
	if line, _ := out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("got %q", line)
	}
	p.Stop(syscall.SIGTERM, 30*time.Millisecond)
	closedByAll(t, out)
}

func TestTTY(t *testing.T) {
	tab := running(t)
	master, slave := openPTY(t)
	s := sh("tty; ps -o tpgid= -p $$ >/dev/null; echo done >/dev/tty")
	s.TTY = slave
	p := start(t, tab, s)
	_ = slave.Close()
	r := bufio.NewReader(master)
	line, err := r.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "/dev/pts/") {
		t.Fatalf("tty says %q, %v", line, err)
	}
	line, err = r.ReadString('\n')
	if err != nil || line != "done\r\n" {
		t.Fatalf("writing to /dev/tty: %q, %v", line, err)
	}
	wait(t, p)
}

func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("missing: /dev/ptmx (%v)", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func TestCredentialAndChroot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("missing: root, to change user and root")
	}
	tab := running(t)
	s := sh("id -u; id -g; id -G")
	s.Cred = &syscall.Credential{Uid: 4321, Gid: 4322, Groups: []uint32{7, 8}}
	_, out := startReading(t, tab, s)
	got, _ := io.ReadAll(out)
	if string(got) != "4321\n4322\n4322 7 8\n" {
		t.Errorf("got %q", got)
	}
	s = sh("pwd")
	s.Root = t.TempDir() // has no /bin/sh: the path is looked up inside
	if _, err := tab.Start(s); err == nil {
		t.Error("a program outside the new root was found")
	}
}

func TestKillWithParent(t *testing.T) {
	if os.Getenv(subreaperEnv) == "child" {
		tab := New()
		tab.KillWithParent()
		s := sh("exec sleep 1000") // the signal is for our child, not for its children
		s.Stdout = os.NewFile(3, "pipe")
		if _, err := tab.Start(s); err != nil {
			t.Fatal(err)
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKillWithParent$")
	cmd.Env = append(os.Environ(), subreaperEnv+"=child")
	cmd.ExtraFiles = []*os.File{w}
	err = cmd.Run()
	_ = w.Close()
	if st, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || st.Signal() != syscall.SIGKILL {
		t.Fatalf("the parent ended otherwise: %v", err)
	}
	closedByAll(t, r)
}
