package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// TestDockerEngineGoes: a machine's engine is stopped, asked for while it is away, and started again,
// with and without its own promise to keep containers.
func TestDockerEngineGoes(t *testing.T) {
	for _, live := range []bool{false, true} {
		t.Run(map[bool]string{false: "plain", true: "live-restore"}[live], func(t *testing.T) {
			e := newEngine(t)
			if live {
				e.args = append(e.args, "--live-restore")
			}
			e.start()
			l := newLab(t, "docker", false)
			l.env = append(l.env, "DOCKER_HOST=unix://"+e.socket, "MVM_CACHE_DIR="+filepath.Join(l.dir, "cache"))
			l.must("up", "-d", "--name", "box", "minimal", "-v", "data:/data")
			l.must("up", "-d", "--name", "gone", "minimal")
			l.must("exec", "box", "--", "sh", "-c", "echo kept > /root/f; echo kept > /data/f; sync")
			supervisor := l.status("box").Supervisor
			e.stop()
			waitDead(t, supervisor)

			// Nothing waits for an engine that is not there, and nothing is called running.
			if v := l.machine("box"); v == nil || v.State != string(machine.StateFailed) && v.State != string(machine.StateExited) {
				t.Errorf("ls without the engine: %+v", v)
			}
			for words, args := range map[string][]string{
				"is not running":  {"exec", "box", "--", "true"},
				"backend.missing": {"up", "-d", "--json", "--name", "box"},
			} {
				if r := l.run(args...); r.code != 125 || !strings.Contains(r.stderr, words) {
					t.Errorf("%q without the engine: %v", args, r)
				}
			}
			l.must("down", "box")
			if r := l.run("rm", "--json", "gone"); r.code != 125 || !strings.Contains(r.stderr, "backend.missing") {
				t.Errorf("rm without the engine: %v", r)
			}
			if r := l.run("volume", "rm", "data"); r.code != 125 {
				t.Errorf("volume rm without the engine: %v", r)
			}
			l.must("rm", "--force", "gone")

			e.start()
			l.must("up", "-d", "--name", "box")
			if out := l.must("exec", "box", "--", "cat", "/root/f", "/data/f"); out != "kept\nkept\n" {
				t.Errorf("after the restart: %q", out)
			}
			if out := e.docker("ps", "-aq"); strings.Count(out, "\n") != 0 {
				t.Errorf("what was deleted without the engine is left: %s", out)
			}
			l.must("rm", "--force", "box")
			l.must("volume", "rm", "data")
			if out := e.docker("ps", "-aq") + e.docker("volume", "ls", "-q"); out != "" {
				t.Errorf("left: %s", out)
			}
			l.nothingLeft()
		})
	}
}

// alive reports whether a process runs; one that has ended and that nobody has waited for does not.
func alive(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && len(line) > 0
}

// waitDead waits for a supervisor's end: its lock says it to the next command, and its process to us.
func waitDead(t *testing.T, p machine.Process) {
	t.Helper()
	for deadline := time.Now().Add(longWait); alive(p.Pid); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the supervisor does not notice that the engine is gone")
		}
	}
}

// TestDockerByHand: what the owner of an engine removes behind our back.
func TestDockerByHand(t *testing.T) {
	l, docker := inDocker(t, false)
	l.must("up", "-d", "--name", "box", "minimal")
	l.must("down", "box")
	docker("rmi", "-f", docker("images", "-q", "mvmctl"))
	l.must("up", "-d", "--name", "box")
	l.must("up", "-d", "--name", "other", "minimal")
	supervisor := l.status("box").Supervisor
	docker("rm", "-f", docker("ps", "-aq", "--filter", "label=io.mvmctl.name=box"))
	waitDead(t, supervisor)
	if v := l.machine("box"); v == nil || v.State != string(machine.StateFailed) {
		t.Errorf("without its container: %+v", v)
	}
	if r := l.run("up", "-d", "--json", "--name", "box"); r.code != 125 || !strings.Contains(r.stderr, "backend.disk_gone") {
		t.Errorf("up without its container: %v", r)
	}
	l.must("exec", "other", "--", "true")
	l.must("reset", "--force", "box")
	l.must("up", "-d", "--name", "box")
	l.must("rm", "--force", "box", "other")
	if out := docker("ps", "-aq"); out != "" {
		t.Errorf("left: %s", out)
	}
	l.nothingLeft()
}

// TestDockerDenied: an engine whose socket is another user's.
func TestDockerDenied(t *testing.T) {
	l, _ := inDocker(t, false)
	for _, dir := range []string{programs.dir, l.dir} {
		if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // for the other user
			t.Fatal(err)
		}
	}
	home := filepath.Join(l.dir, "theirs")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	if err := os.Chown(home, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	env := []string{"HOME=" + home, "MVM_STATE_DIR=" + home + "/s", "MVM_DATA_DIR=" + home + "/d", "MVM_CONFIG_DIR=" + home + "/c", "MVM_RUNTIME_DIR=" + home + "/r", "MVM_CACHE_DIR=" + home + "/k"}
	cmd := l.command(t.Context(), env, "up", "-d", "--json", "--name", "no", "minimal")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Run(); err == nil || !strings.Contains(said.String(), `"code":"backend.denied"`) || !strings.Contains(said.String(), "usermod -aG docker") {
		t.Errorf("as another user: %v\n%s", err, said.String())
	}
}

// TestDockerHangs: an engine that takes connections and never answers ends no command's patience but
// its own, and is no obstacle to deleting a machine.
func TestDockerHangs(t *testing.T) {
	l, docker := inDocker(t, false)
	l.must("up", "-d", "--name", "box", "minimal", "-v", "data:/data")
	l.must("down", "box")
	container := docker("ps", "-aq")

	// The machine's engine is where it was, and another program answers there, or rather does not.
	socket := l.socket(t)
	if err := os.Rename(socket, socket+".real"); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	back := sync.OnceFunc(func() {
		_ = ln.Close()
		if err := os.Rename(socket+".real", socket); err != nil {
			t.Error(err)
		}
	})
	defer back()

	const bound = time.Minute // 10 s each, on a busy machine
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	var all sync.WaitGroup
	for _, args := range [][]string{
		{"up", "-d", "--json", "--name", "box"},
		{"up", "-d", "--json", "--name", "new", "minimal"},
		{"volume", "rm", "data"},
		{"cache", "prune"},
		{"diff", "box"},
	} {
		all.Go(func() {
			begin := time.Now()
			out, err := l.command(ctx, nil, args...).CombinedOutput()
			if ctx.Err() != nil || err == nil && args[0] != "cache" { // which leaves out what does not answer
				t.Errorf("%q with an engine that hangs: %v after %v\n%s", args, err, time.Since(begin), out)
			}
		})
	}
	all.Wait()
	l.must("ls")
	l.must("down", "box")
	l.must("rm", "--force", "box")
	back()
	l.must("volume", "rm", "data")
	if out := docker("ps", "-aq"); out != "" {
		t.Errorf("left of %s: %s", container, out)
	}
	l.nothingLeft()
}

// socket is where the lab's engine listens.
func (l *lab) socket(t *testing.T) string {
	t.Helper()
	for _, kv := range l.env {
		if s, ok := strings.CutPrefix(kv, "DOCKER_HOST=unix://"); ok {
			return s
		}
	}
	t.Fatal("this lab has no engine")
	return ""
}
