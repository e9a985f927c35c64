package docker_test

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// TestDiskStays: what a machine writes is there at its next start, with the limits of then, and
// gone once the machine is removed.
func TestDiskStays(t *testing.T) {
	e := startEngine(t)
	a := makeAssets(t)
	g := newGuest(t, e.driver(), a)
	g.mustStart()
	g.sh(g.connect(), "echo kept > /root/note")
	g.kill()
	if got := e.docker(t, "ps", "-q"); got != "" {
		t.Errorf("runs after Kill: %s", got)
	}
	g.boot.MemoryBytes = 192 << 20
	g.mustStart()
	c := g.connect()
	if got := g.sh(c, "cat /root/note; hostname"); got != "kept\nbox" {
		t.Errorf("after the second start: %q", got)
	}
	if got := e.docker(t, "inspect", "--format", "{{.HostConfig.Memory}}", "mvmctl-"+g.boot.ID); got != "201326592" {
		t.Errorf("memory limit %s", got)
	}
	if n := strings.Count(g.text(), "making an image"); n != 1 {
		t.Errorf("the image was made %d times", n)
	}
	g.kill()
	for range 2 {
		if err := g.d.Remove(t.Context(), g.boot.ID, g.boot.Dir); err != nil {
			t.Fatalf("Remove: %v", err)
		}
	}
	if got := e.docker(t, "ps", "-aq"); got != "" {
		t.Errorf("left after Remove: %s", got)
	}
	if _, err := os.Stat(filepath.Join(g.boot.Dir, "docker")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left after Remove: %v", err)
	}
	g.mustStart()
	if got := g.sh(g.connect(), "test -e /root/note || echo empty"); got != "empty" {
		t.Errorf("after Remove: %q", got)
	}
	if n, err := g.d.Prune(t.Context(), false); n != 0 || err != nil {
		t.Errorf("Prune with a machine: %d, %v", n, err)
	}
	g.kill()
	if err := g.d.Remove(t.Context(), g.boot.ID, g.boot.Dir); err != nil {
		t.Fatal(err)
	}
	if n, err := g.d.Prune(t.Context(), true); n != 1 || err != nil {
		t.Errorf("Prune that only counts: %d, %v", n, err)
	}
	if n, err := g.d.Prune(t.Context(), false); n != 1 || err != nil {
		t.Errorf("Prune without a machine: %d, %v", n, err)
	}
	if got := e.docker(t, "images", "-q"); got != "" {
		t.Errorf("left after Prune: %s", got)
	}
}

// TestConfined: a machine has no more rights than it needs.
func TestConfined(t *testing.T) {
	e := startEngine(t)
	g := newGuest(t, e.driver(), makeAssets(t))
	g.mustStart()
	c := g.connect()
	status := g.sh(c, "cat /proc/self/status")
	for _, want := range []string{
		"CapBnd:\t00000000800405fb\n", // capabilities(), by number
		"NoNewPrivs:\t1\n", "Seccomp:\t2\n",
	} {
		if !strings.Contains(status, want) {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
	if got := g.sh(c, "ls /sys/class/net"); got != "lo" {
		t.Errorf("network devices: %q", got)
	}
	if got := g.sh(c, "echo x > /run/mvm/mvm-agent || echo refused"); !strings.Contains(got, "refused") {
		t.Errorf("the agent can be overwritten: %q", got)
	}
	if got := e.docker(t, "inspect", "--format", "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} {{.HostConfig.NetworkMode}} {{.HostConfig.Privileged}}", "mvmctl-"+g.boot.ID); got != "134217728 134217728 1000000000 4096 none false" {
		t.Errorf("limits: %s", got)
	}
	if got := e.docker(t, "inspect", "mvmctl-"+g.boot.ID); strings.Contains(got, "guest_seed") || strings.Contains(got, "protocol") {
		t.Error("the configuration, which holds a key, can be read in the engine")
	}
	if got := g.sh(c, "tr '\\0' ' ' < /proc/1/cmdline; ls /dev | tr '\\n' ' '"); strings.Contains(got, "sda") || !strings.Contains(got, "container") {
		t.Errorf("process 1 and devices: %q", got)
	}
}

// TestStoppedByOthers: what the owner of the engine does to a machine behind our back.
func TestStoppedByOthers(t *testing.T) {
	e := startEngine(t)
	g := newGuest(t, e.driver(), makeAssets(t))
	name := "mvmctl-" + g.boot.ID
	g.mustStart()
	g.sh(g.connect(), "echo kept > /root/note")
	e.docker(t, "kill", name)
	if err := g.wait(); machine.CodeOf(err) != "boot.vmm_died" || !strings.Contains(err.Error(), "killed from outside") {
		t.Errorf("after docker kill: %v", err)
	}
	g.mustStart()
	if got := g.sh(g.connect(), "cat /root/note"); got != "kept" {
		t.Errorf("after docker kill: %q", got)
	}
	e.docker(t, "stop", "-t", "20", name) // the agent ends in order
	if err := g.wait(); err != nil {
		t.Errorf("after docker stop: %v", err)
	}

	// The image goes; the machine has its own hold on what it needs.
	e.docker(t, "rmi", "-f", e.docker(t, "images", "-q", "mvmctl"))
	g.mustStart()
	if got := g.sh(g.connect(), "cat /root/note"); got != "kept" {
		t.Errorf("after docker rmi: %q", got)
	}
	other := newGuest(t, g.d, assets{agent: g.boot.Agent, root: g.boot.Disks[0].Path, id: g.boot.Disks[0].ID})
	other.mustStart()
	if !strings.Contains(other.text(), "making an image") {
		t.Error("the image that was removed was not made again")
	}
	other.kill()

	// The container goes, and with it all that the machine has written.
	e.docker(t, "rm", "-f", name)
	if err := g.wait(); err == nil {
		t.Error("Wait says nil of a machine whose container was removed")
	}
	if err := g.start(); machine.CodeOf(err) != "backend.disk_gone" {
		t.Errorf("without its container: %v", err)
	}
	if err := g.d.Remove(t.Context(), g.boot.ID, g.boot.Dir); err != nil {
		t.Errorf("Remove: %v", err)
	}
	g.mustStart()
	g.connect()
}

// TestEngineRestarted: machines end with their engine, and start again with what they wrote.
func TestEngineRestarted(t *testing.T) {
	e := startEngine(t)
	g := newGuest(t, e.driver(), makeAssets(t))
	g.mustStart()
	g.sh(g.connect(), "echo kept > /root/note")
	e.stop(t)
	if err := g.wait(); err != nil && machine.CodeOf(err) != "backend.engine_lost" {
		t.Errorf("after the engine was stopped: %v", err)
	}
	if err := g.start(); machine.CodeOf(err) != "backend.missing" {
		t.Errorf("without an engine: %v", err)
	}
	if _, err := g.d.Probe(t.Context()); machine.CodeOf(err) != "backend.missing" {
		t.Errorf("Probe without an engine: %v", err)
	}
	e.start(t)
	g.mustStart()
	if got := g.sh(g.connect(), "cat /root/note"); got != "kept" {
		t.Errorf("after the restart: %q", got)
	}
}

// TestEngineKilled: an engine that is killed leaves its containers running; ours do not.
func TestEngineKilled(t *testing.T) {
	e := startEngine(t)
	g := newGuest(t, e.driver(), makeAssets(t))
	g.mustStart()
	g.sh(g.connect(), "echo kept > /root/note; sync")
	owner, ok := g.vm.(driver.ProcessOwner)
	if !ok {
		t.Fatal("the machine's process is not known")
	}
	e.kill(t)
	if err := g.wait(); machine.CodeOf(err) != "backend.engine_lost" {
		t.Errorf("after the engine was killed: %v", err)
	}
	if p, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(owner.Pid()), "cmdline")); err == nil && strings.Contains(string(p), "mvm-agent") {
		t.Error("the guest outlived its machine")
	}
	e.start(t)
	g.mustStart()
	if got := g.sh(g.connect(), "cat /root/note"); got != "kept" {
		t.Errorf("after the restart: %q", got)
	}
}

// TestChanges: what a machine has written, as a list and as the tree that commit makes an image of.
func TestChanges(t *testing.T) {
	e := startEngine(t)
	g := newGuest(t, e.driver(), makeAssets(t))
	g.mustStart()
	g.sh(g.connect(), "mkdir /srv/new; echo hello > /srv/new/file; ln -s file /srv/new/link; echo more >> /etc/group; echo x > /dev/shm/x; sync")
	want := []driver.Change{
		{Kind: "M", Path: "/etc/group", Type: "file"},
		{Kind: "A", Path: "/srv/new", Type: "dir"},
		{Kind: "A", Path: "/srv/new/file", Type: "file", Size: 6},
		{Kind: "A", Path: "/srv/new/link", Type: "symlink"},
	}
	var got []driver.Change
	collect := func(c driver.Change) error {
		if c.Path == "/etc/group" {
			c.Size = 0
		}
		if strings.HasPrefix(c.Path, "/srv") || strings.HasPrefix(c.Path, "/run/mvm") || strings.HasPrefix(c.Path, "/dev") || c.Path == "/etc/group" {
			got = append(got, c)
		}
		return nil
	}
	if err := g.d.Changes(t.Context(), g.boot.ID, g.boot.Dir, collect); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	g.kill()
	r, err := g.d.Export(t.Context(), g.boot.ID, g.boot.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	names := map[string]bool{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names[strings.Trim(h.Name, "/")] = true
	}
	for name, there := range map[string]bool{"srv/new/file": true, "srv/new/link": true, "etc/group": true, "run/mvm": false, ".dockerenv": false, "dev/console": false} {
		if names[name] != there {
			t.Errorf("%s in the export: %v, want %v", name, names[name], there)
		}
	}
	if other, err := g.d.Export(t.Context(), machine.NewID(), t.TempDir()); err == nil {
		_ = other.Close()
		t.Error("a machine that never was can be exported")
	}
}

// TestEngineRemembered: a machine stays with the engine that has its container.
func TestEngineRemembered(t *testing.T) {
	e := startEngine(t)
	g := newGuest(t, e.driver(), makeAssets(t))
	g.mustStart()
	g.sh(g.connect(), "echo kept > /root/note")
	g.kill()
	g.d = driverFor(filepath.Join(t.TempDir(), "another"))
	g.mustStart()
	if got := g.sh(g.connect(), "cat /root/note"); got != "kept" {
		t.Errorf("with another engine chosen: %q", got)
	}
	g.kill()
	if err := g.d.Remove(t.Context(), g.boot.ID, g.boot.Dir); err != nil {
		t.Error(err)
	}
	if got := e.docker(t, "ps", "-aq"); got != "" {
		t.Errorf("left after Remove: %s", got)
	}
}

// TestKilledWhileMaking: a start that was killed before the container came to be is no lost disk.
func TestKilledWhileMaking(t *testing.T) {
	e := startEngine(t)
	g := newGuest(t, e.driver(), makeAssets(t))
	own := filepath.Join(g.boot.Dir, "docker")
	if err := os.Mkdir(own, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(own, "container"), []byte("making\n"+e.socket+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.mustStart()
	g.connect()
	g.kill()
	if err := os.WriteFile(filepath.Join(own, "container"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := g.start(); machine.CodeOf(err) != "state.corrupt" {
		t.Errorf("with a marker that makes no sense: %v", err)
	}
}

// TestEngineHangs: a machine can be killed although its engine does not answer.
func TestEngineHangs(t *testing.T) {
	e := startEngine(t)
	g := newGuest(t, e.driver(), makeAssets(t))
	g.mustStart()
	g.connect()
	if err := e.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.cmd.Process.Signal(syscall.SIGCONT) }()
	g.kill()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := g.d.Probe(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Probe: %v", err)
	}
	if err := e.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	g.mustStart()
	g.connect()
}

// TestMemory: a program that takes all memory of its machine is ended, and the machine goes on.
func TestMemory(t *testing.T) {
	e := startEngine(t)
	g := newGuest(t, e.driver(), makeAssets(t))
	g.mustStart()
	c := g.connect()
	hog := agentproto.ExecStart{Process: agentproto.Process{Args: []string{"sh", "-c", "cat /dev/zero | tail -n 1"}}}
	if exit, err := c.Exec(t.Context(), hog, agentclient.Streams{}); err != nil || exit.Code != 137 {
		t.Errorf("a program without bounds: %+v, %v", exit, err)
	}
	if got := g.sh(c, "echo alive"); got != "alive" {
		t.Errorf("afterwards: %q", got)
	}
}

// TestSecretsOfAnotherSession: the folder in which a machine's secrets are while it runs is that of a
// login session, and the next start may be from a session of another kind.
func TestSecretsOfAnotherSession(t *testing.T) {
	e := startEngine(t)
	g := newGuest(t, e.driver(), makeAssets(t))
	drive := filepath.Join(t.TempDir(), "secret.img")
	g.boot.Disks = append(g.boot.Disks, machine.Disk{Role: machine.RoleOfVolume(0), Path: drive, ReadOnly: true})
	g.mounts = []agentproto.Mount{{Serial: machine.Disk{Role: machine.RoleOfVolume(0)}.Serial(), Path: "/run/keys/key", Entry: "file", ReadOnly: true, Memory: true}}
	for _, key := range []string{"one", "two"} {
		if err := disk.CreateDrive(drive, "mvm-volume", 0, []disk.File{{Path: "file", Mode: 0o400, Data: []byte(key)}}); err != nil {
			t.Fatal(err)
		}
		g.boot.RuntimeDir = t.TempDir()
		g.mustStart()
		if got := g.sh(g.connect(), "cat /run/keys/key"); got != key {
			t.Errorf("the secret is %q, want %q", got, key)
		}
		g.kill()
		if left, err := os.ReadDir(filepath.Join(g.boot.RuntimeDir, "docker")); len(left) != 0 {
			t.Errorf("left after the end: %v, %v", left, err)
		}
	}
}

// TestRefused: what a container cannot do is said before anything is made.
func TestRefused(t *testing.T) {
	g := newGuest(t, driverFor("/nowhere"), assets{})
	g.boot.Disks = append(g.boot.Disks, machine.Disk{Role: "volume0", Path: "/x"})
	if err := g.start(); machine.CodeOf(err) != "backend.volume" {
		t.Errorf("with a volume that goes nowhere: %v", err)
	}
	g.mounts = []agentproto.Mount{{Serial: "mvm-volume0", Path: "/data", Keep: true}}
	if err := g.start(); machine.CodeOf(err) != "volume.elsewhere" {
		t.Errorf("with a disk image: %v", err)
	}
	g = newGuest(t, driverFor("/nowhere"), assets{})
	g.boot.Disks = nil
	if _, err := g.d.Start(t.Context(), g.boot, driver.Output{}); machine.CodeOf(err) == "" {
		t.Errorf("without disks: %v", err)
	}
}
