package docker_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/docker"
	"github.com/mvmctl/mvmctl/internal/image"
	"github.com/mvmctl/mvmctl/internal/machine"
)

const patience = 30 * time.Second

// assets are the agent and the root image, built once for a test.
type assets struct{ agent, root, id string }

func makeAssets(t *testing.T) assets {
	t.Helper()
	dir := t.TempDir()
	a := assets{agent: filepath.Join(dir, "mvm-agent")}
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", a.agent, "github.com/mvmctl/mvmctl/cmd/mvm-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the agent: %v\n%s", err, out)
	}
	img, err := image.New(filepath.Join(dir, "cache")).Ensure(t.Context(), "minimal")
	if err != nil {
		t.Fatal(err)
	}
	a.root, a.id = img.Path, img.ID
	return a
}

// guest is a machine that can be started more than once.
type guest struct {
	t      *testing.T
	d      *docker.Driver
	boot   machine.Boot
	id     agentclient.Identity
	mounts []agentproto.Mount
	vm     driver.VM
	mu     sync.Mutex
	said   bytes.Buffer
}

// Write takes what the machine and its driver print.
func (g *guest) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.said.Write(p)
}

func (g *guest) text() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.said.String()
}

func newGuest(t *testing.T, d *docker.Driver, a assets) *guest {
	t.Helper()
	dir := t.TempDir()
	g := &guest{t: t, d: d, boot: machine.Boot{
		Name: "test", ID: machine.NewID(), Driver: d.Name(), CPUs: 1, MemoryBytes: 128 << 20, Agent: a.agent,
		Dir: filepath.Join(dir, "state"), RuntimeDir: filepath.Join(dir, "run"), Timeout: patience,
	}}
	for _, d := range []string{g.boot.Dir, g.boot.RuntimeDir} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	g.boot.Disks = []machine.Disk{
		{Role: machine.RoleRoot, Path: a.root, ReadOnly: true, ID: a.id},
		{Role: machine.RoleConfig, Path: filepath.Join(g.boot.Dir, "config.img"), ReadOnly: true},
	}
	return g
}

// start starts the machine with keys of its own, as each generation has.
func (g *guest) start() error {
	g.t.Helper()
	g.boot.Generation++
	_, host, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		g.t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		g.t.Fatal(err)
	}
	c := agentproto.Config{
		Protocol: agentproto.Version, MachineID: g.boot.ID, Name: "test", Hostname: "box", Generation: g.boot.Generation,
		GuestSeed: key.Seed(), HostKey: host.Public().(ed25519.PublicKey), Random: make([]byte, 64), Access: agentproto.AllAccess(), Mounts: g.mounts,
	}
	g.id = agentclient.Identity{
		HostSeed: host.Seed(), GuestKey: key.Public().(ed25519.PublicKey), MachineID: c.MachineID, Generation: c.Generation,
		Build: "test", Handshake: agentproto.SlowHandshake,
	}
	data, err := json.Marshal(c)
	if err != nil {
		g.t.Fatal(err)
	}
	if err := disk.CreateDrive(g.boot.Disks[1].Path, "mvm-config", 0, []disk.File{{Path: agentproto.ConfigFile, Mode: 0o400, Data: data}}); err != nil {
		g.t.Fatal(err)
	}
	vm, err := g.d.Start(g.t.Context(), g.boot, driver.Output{Console: g, VMM: g})
	if err != nil {
		return err
	}
	g.vm = vm
	g.t.Cleanup(func() {
		_ = vm.Kill()
		_ = vm.Wait()
		if g.t.Failed() {
			g.t.Logf("the machine said:\n%s", g.text())
		}
	})
	return nil
}

func (g *guest) mustStart() {
	g.t.Helper()
	if err := g.start(); err != nil {
		g.t.Fatalf("Start: %v", err)
	}
}

func (g *guest) connect() *agentclient.Client {
	g.t.Helper()
	conn, err := g.vm.Dial(g.t.Context(), driver.AgentPort)
	if err != nil {
		g.t.Fatalf("Dial: %v", err)
	}
	c, err := agentclient.Connect(g.t.Context(), conn, g.id)
	if err != nil {
		g.t.Fatalf("Connect: %v", err)
	}
	g.t.Cleanup(func() { _ = c.Close() })
	return c
}

// sh runs a script in the guest and returns what it prints.
func (g *guest) sh(c *agentclient.Client, script string) string {
	g.t.Helper()
	var out bytes.Buffer
	exit, err := c.Exec(g.t.Context(), agentproto.ExecStart{Process: agentproto.Process{Args: []string{"sh", "-c", script}}}, agentclient.Streams{Stdout: &out, Stderr: &out})
	if err != nil {
		g.t.Fatalf("%s: %v", script, err)
	}
	if exit.Code != 0 {
		g.t.Errorf("%s: exit %d\n%s", script, exit.Code, out.String())
	}
	return strings.TrimSpace(out.String())
}

// wait is vm.Wait with a deadline.
func (g *guest) wait() error {
	g.t.Helper()
	end := make(chan error, 1)
	go func() { end <- g.vm.Wait() }()
	select {
	case err := <-end:
		return err
	case <-time.After(patience):
		g.t.Fatal("Wait does not return")
	}
	return nil
}

func (g *guest) kill() {
	g.t.Helper()
	if err := g.vm.Kill(); err != nil {
		g.t.Errorf("Kill: %v", err)
	}
	if err := g.wait(); err != nil {
		g.t.Errorf("Wait after Kill: %v", err)
	}
}
