package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// inDocker is a lab whose machines are containers of a Docker engine of its own.
func inDocker(t *testing.T, faulty bool) (l *lab, docker func(args ...string) string) {
	t.Helper()
	socket := startDocker(t)
	l = newLab(t, "docker", faulty)
	l.env = append(l.env, "DOCKER_HOST=unix://"+socket, "MVM_CACHE_DIR="+filepath.Join(l.dir, "cache"))
	return l, func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "docker", args...)
		cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+socket, "DOCKER_CONFIG="+l.dir)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("docker %q: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
}

// TestDockerMachine takes a machine in a container through its life.
func TestDockerMachine(t *testing.T) {
	l, docker := inDocker(t, false)
	l.must("up", "-d", "--name", "box", "--require-isolation", "container", "-p", "0:8099", "minimal")
	l.must("exec", "box", "--", "sh", "-c", "mkdir /srv/a; echo one > /srv/a/f")
	if out := l.must("diff", "box"); out != "A /srv/a\nA /srv/a/f\n" {
		t.Errorf("diff: %q", out)
	}
	served := l.command(t.Context(), nil, "exec", "box", "--", "sh", "-c", "echo pong | nc -l -p 8099")
	if err := served.Start(); err != nil {
		t.Fatal(err)
	}
	port := l.machine("box").Ports[0].HostPort
	var said string
	for deadline := time.Now().Add(longWait); said == "" && time.Now().Before(deadline); <-time.After(10 * time.Millisecond) { // until nc listens
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue // it is refused as soon as the guest refuses
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		data, _ := io.ReadAll(conn)
		_ = conn.Close()
		said = string(data)
	}
	_ = served.Wait()
	if said != "pong\n" {
		t.Errorf("through the published port: %q", said)
	}

	l.must("down", "box")
	if out := docker("ps", "-q"); out != "" {
		t.Errorf("runs after down: %s", out)
	}
	l.must("commit", "box", "mine:1")
	l.must("up", "-d", "--name", "copy", "mine:1")
	if out := l.must("exec", "copy", "--", "cat", "/srv/a/f"); out != "one\n" {
		t.Errorf("in the image that was committed: %q", out)
	}
	l.must("rm", "--force", "copy")

	l.must("up", "-d", "--name", "box")
	if out := l.must("exec", "box", "--", "cat", "/srv/a/f"); out != "one\n" {
		t.Errorf("after down and up: %q", out)
	}
	supervisor := l.status("box").Supervisor.Pid
	if err := syscall.Kill(supervisor, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	docker("wait", docker("ps", "-aq", "--filter", "label=io.mvmctl.name=box")) // it ends by itself
	if v := l.machine("box"); v == nil || v.State != "crashed" {
		t.Errorf("after its supervisor was killed: %+v", v)
	}
	l.must("up", "-d", "--name", "box")
	l.must("down", "box")
	l.must("reset", "--force", "box")
	if out := docker("ps", "-aq"); out != "" {
		t.Errorf("left after reset: %s", out)
	}
	l.must("up", "-d", "--name", "box")
	if r := l.run("exec", "box", "--", "cat", "/srv/a/f"); r.code == 0 {
		t.Errorf("after reset: %v", r)
	}
	l.must("rm", "--force", "box")
	if r := l.run("up", "--name", "once", "minimal", "--", "sh", "-c", "echo said; exit 7"); r.code != 7 || r.stdout != "said\n" {
		t.Errorf("a program of its own: %v", r)
	}
	l.must("rm", "once")
	if out := docker("ps", "-aq"); out != "" {
		t.Errorf("left after rm: %s", out)
	}
	l.must("image", "rm", "mine:1")
	l.must("cache", "prune")
	if out := docker("images", "-q"); out != "" {
		t.Errorf("left after a prune: %s", out)
	}
	l.nothingLeft()
}

// TestDockerRefusals: what a container cannot be is refused in words, and nothing is left of it.
func TestDockerRefusals(t *testing.T) {
	l, docker := inDocker(t, false)
	for code, args := range map[string][]string{
		"backend.init":     {"--init", "image"},
		"policy.isolation": {"--require-isolation", "vm"},
		"input.range":      {"--cpus", "64"},
	} {
		r := l.run(append([]string{"up", "-d", "--json", "--name", "no", "minimal"}, args...)...)
		if !strings.Contains(r.stderr, `"code":"`+code+`"`) {
			t.Errorf("%q: %v", args, r)
		}
	}
	if out := docker("ps", "-aq"); out != "" {
		t.Errorf("left: %s", out)
	}
	l.nothingLeft()
	if r := l.with([]string{"DOCKER_HOST=unix:///nowhere"}, "up", "-d", "--name", "no", "minimal"); r.code != 125 || !strings.Contains(r.stderr, "systemctl start docker") {
		t.Errorf("without an engine: %v", r)
	}
	l.nothingLeft()
}

// TestDockerVolumes: what outlives a machine in a container, what is copied into one, and what is
// refused rather than lost.
func TestDockerVolumes(t *testing.T) {
	l, docker := inDocker(t, false)
	settings, secret := filepath.Join(l.dir, "settings"), filepath.Join(l.dir, "secret")
	for file, text := range map[string]string{settings + "/sub/app.conf": "one", secret: "key"} {
		if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	volumes := []string{"-v", "data:/data", "-v", settings + ":/etc/app", "-v", settings + "/sub/app.conf:/etc/one.conf", "-v", secret + ":/run/keys/key:secret"}
	up := func(name string) {
		t.Helper()
		l.must(append([]string{"up", "-d", "--name", name, "minimal"}, volumes...)...)
	}
	l.must("volume", "create", "data")
	up("a")
	script := "cat /etc/app/sub/app.conf /etc/one.conf /run/keys/key; echo kept > /data/f; for f in /etc/app/x /etc/one.conf /run/keys/key; do echo x > $f && echo written; done 2>/dev/null; stat -c %a /etc/app/sub/app.conf"
	if out := l.must("exec", "a", "--", "sh", "-c", script); out != "oneonekey600\n" {
		t.Errorf("what was copied in: %q", out)
	}
	if out, err := exec.CommandContext(t.Context(), "grep", "-rl", "key", l.dir+"/run", l.dir+"/state/machines").Output(); err == nil && strings.Contains(string(out), "volume") {
		t.Errorf("the secret is in %s", out)
	}
	if r := l.run("up", "-d", "--name", "b", "minimal", "-v", "data:/data"); r.code != 125 || !strings.Contains(r.stderr, `"a" runs and has volume`) {
		t.Errorf("a volume for two: %v", r)
	}
	if out := l.must("volume", "ls"); !strings.Contains(out, "docker") {
		t.Errorf("volume ls: %s", out)
	}
	l.must("down", "a")
	if err := os.WriteFile(settings+"/sub/app.conf", []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.must("start", "a", "-d")
	if out := l.must("exec", "a", "--", "cat", "/etc/app/sub/app.conf", "/etc/one.conf", "/data/f"); out != "twotwokept\n" {
		t.Errorf("after the next start: %q", out)
	}
	l.must("down", "a")
	if r := l.run("start", "a", "-d", "-v", "other:/data"); r.code != 125 || !strings.Contains(r.stderr, "made with other volumes") {
		t.Errorf("other volumes: %v", r)
	}
	l.must("rm", "a")
	up("b")
	if out := l.must("exec", "b", "--", "cat", "/data/f"); out != "kept\n" {
		t.Errorf("in another machine: %q", out)
	}
	l.must("down", "b")
	if r := l.with([]string{"MVM_HYPERVISOR="}, "up", "-d", "--hypervisor", "fake", "--name", "c", "minimal", "-v", "data:/data"); r.code != 125 || !strings.Contains(r.stderr, "kept by the backend docker") {
		t.Errorf("on another backend: %v", r)
	}
	if r := l.run("volume", "rm", "data"); r.code != 125 {
		t.Errorf("removed while attached: %v", r)
	}
	for _, name := range []string{"r1", "r2"} {
		l.must("up", "-d", "--name", name, "minimal", "-v", "data:/data:ro")
		if out := l.must("exec", name, "--", "sh", "-c", "cat /data/f; echo x > /data/f || echo refused"); !strings.HasPrefix(out, "kept\nrefused") {
			t.Errorf("a volume that is only read: %q", out)
		}
	}
	l.must("rm", "--force", "b", "r1", "r2")

	// The owner of the engine deletes it: it is never made again, empty, in silence.
	l.must("volume", "rm", "other")
	docker("volume", "rm", docker("volume", "ls", "-q", "--filter", "label=io.mvmctl.volume"))
	if r := l.run("up", "-d", "--json", "--name", "c", "minimal", "-v", "data:/data"); !strings.Contains(r.stderr, "volume.gone") {
		t.Errorf("a volume that is gone: %v", r)
	}
	l.must("volume", "rm", "data")
	up("d")
	l.must("rm", "--force", "d")
	l.must("volume", "rm", "data")
	if out := docker("volume", "ls", "-q") + docker("ps", "-aq"); out != "" {
		t.Errorf("left: %s", out)
	}
	l.nothingLeft()
}

// TestDockerCrash: a command that is killed at each of its steps is finished or undone by the next,
// also what of it is in the engine.
func TestDockerCrash(t *testing.T) {
	l, docker := inDocker(t, true)
	for _, point := range []string{"up.intent", "up.disks", "up.spawned", "sup.vmm", "sup.ready", "sup.cleaned"} {
		l.with([]string{"MVM_CRASH=" + point}, "up", "-d", "--name", "box", "minimal")
		// A command whose supervisor died has taken the start back itself.
		if r := l.run("rm", "--force", "box"); r.code != 0 && !strings.Contains(r.stderr, "there is no machine") {
			t.Errorf("%s: rm: %v", point, r)
		}
		if out := docker("ps", "-aq"); out != "" {
			t.Errorf("%s: left after rm: %s", point, out)
		}
		l.nothingLeft()
	}
	for point, command := range map[string]string{"sup.paused": "pause", "sup.resumed": "resume", "heal.thawed": "down"} {
		if r := l.with([]string{"MVM_CRASH=" + point}, "up", "-d", "--name", "box", "minimal"); r.code != 0 {
			t.Fatalf("%s: up: %v", point, r)
		}
		if command != "pause" {
			l.must("pause", "box")
		}
		if command == "down" {
			l.killSupervisor("box")
		}
		if r := l.with([]string{"MVM_CRASH=" + point}, command, "box"); r.code == 0 {
			t.Errorf("%s: %s: %v", point, command, r)
		}
		// Nobody but the engine has the container now, which may stand still.
		l.tellsTheTruth("box")
		l.must("down", "box")
		if out := docker("ps", "-q"); out != "" {
			t.Errorf("%s: runs after down: %s", point, out)
		}
		l.must("up", "-d", "--name", "box")
		l.must("exec", "box", "--", "true")
		l.must("rm", "--force", "box")
		l.nothingLeft()
	}
	l.must("up", "-d", "--name", "box", "minimal")
	l.with([]string{"MVM_CRASH=rm.intent"}, "rm", "--force", "box")
	l.must("up", "-d", "--name", "box", "minimal")
	l.must("rm", "--force", "box")
	if out := docker("ps", "-aq"); out != "" {
		t.Errorf("left after a removal that was killed: %s", out)
	}
	l.nothingLeft()
}

// TestExecBeatsDockerExec: a warm exec in a container takes at most half of what the engine's own
// takes in the same container.
func TestExecBeatsDockerExec(t *testing.T) {
	l, docker := inDocker(t, false)
	l.must("up", "-d", "--name", "box", "minimal")
	container := docker("ps", "-q")
	const rounds = 15
	var ours, theirs []time.Duration
	for range rounds {
		begin := time.Now()
		l.must("exec", "box", "--", "true")
		ours = append(ours, time.Since(begin))
		begin = time.Now()
		docker("exec", container, "/run/mvm/bin/true")
		theirs = append(theirs, time.Since(begin))
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	a, b := ours[rounds/2], theirs[rounds/2]
	t.Logf("medians of %d: mvmctl exec %v, docker exec %v", rounds, a, b)
	if a > b/2 {
		t.Errorf("mvmctl exec takes %v, docker exec %v", a, b)
	}
	l.must("rm", "--force", "box")
}
