package docker_test

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver/docker"
)

// dockerd is an engine of our own.
type dockerd struct {
	dir, socket string
	cmd         *exec.Cmd
	done        chan struct{} // closed when it has said its last word
}

// startEngine starts dockerd, and ends it with the test.
func startEngine(t testing.TB) *dockerd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("dockerd needs root")
	}
	if _, err := exec.LookPath("dockerd"); err != nil {
		t.Skip("no dockerd")
	}
	dir, err := os.MkdirTemp("", "mvmd") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the socket has a group of its own
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte("{}"), 0o600); err != nil { // not the host's
		t.Fatal(err)
	}
	e := &dockerd{dir: dir, socket: filepath.Join(dir, "s")}
	t.Cleanup(func() {
		e.stop(t)
		_ = syscall.Unmount(filepath.Join(dir, "data"), syscall.MNT_DETACH) // one that was killed leaves its mount of itself
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("an engine leaves something: %v", err)
		}
	})
	e.start(t)
	return e
}

func (e *dockerd) start(t testing.TB) {
	t.Helper()
	in := func(name string) string { return filepath.Join(e.dir, name) }
	// Not the test's context: the clean-up ends it in order.
	e.cmd = exec.CommandContext(context.Background(), "dockerd", "--host", "unix://"+e.socket, "--group", "nogroup",
		"--data-root", in("data"), "--exec-root", in("exec"), "--pidfile", in("pid"), "--config-file", in("config.json"),
		"--storage-driver", "vfs", "--bridge", "none", "--iptables=false", "--ip-forward=false")
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := e.cmd.StderrPipe()
	if err == nil {
		err = e.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan bool, 1)
	e.done = make(chan struct{})
	var last []string // of what it said, to be read once it has ended
	go func(done chan struct{}) {
		defer close(done)
		listens := regexp.MustCompile(`API listen on `)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if listens.MatchString(lines.Text()) {
				ready <- true
				_, _ = io.Copy(io.Discard, out)
				return
			}
			last = append(last, lines.Text())[max(0, len(last)-5):]
		}
		ready <- false
	}(e.done)
	select {
	case ok := <-ready:
		if !ok {
			t.Fatalf("dockerd does not start; it said last:\n%s", strings.Join(last, "\n"))
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("dockerd does not say that it is ready")
	}
}

// stop ends it in order.
func (e *dockerd) stop(t testing.TB) {
	t.Helper()
	_ = e.cmd.Process.Signal(syscall.SIGTERM)
	stop := time.AfterFunc(time.Minute, func() { _ = e.cmd.Process.Kill() })
	defer stop.Stop()
	<-e.done
	_ = e.cmd.Wait() // SIGTERM is no failure
}

// kill ends it with SIGKILL, and waits for the containerd that it started to follow: the next one
// would take a dying one for its own.
func (e *dockerd) kill(t testing.TB) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(e.dir, "exec", "containerd", "containerd.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	_ = e.cmd.Process.Kill()
	<-e.done
	_ = e.cmd.Wait()
	for deadline := time.Now().Add(10 * time.Second); syscall.Kill(pid, 0) == nil; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("containerd outlives its dockerd")
		}
	}
}

func (e *dockerd) driver() *docker.Driver { return driverFor(e.socket) }

func driverFor(socket string) *docker.Driver {
	return docker.New(docker.Options{Getenv: func(k string) string {
		if k == "DOCKER_HOST" {
			return "unix://" + socket
		}
		return ""
	}})
}

// docker runs the docker command against the engine.
func (e *dockerd) docker(t testing.TB, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("docker"); err != nil {
		t.Skip("no docker command")
	}
	cmd := exec.CommandContext(t.Context(), "docker", args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + e.dir, "DOCKER_HOST=unix://" + e.socket}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("docker %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}
