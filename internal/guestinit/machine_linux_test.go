package guestinit_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/image"
	"github.com/mvmctl/mvmctl/internal/initrd"
	"github.com/mvmctl/mvmctl/internal/kernel"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// bootLimit is how long one emulated machine may take for everything, on a busy host.
const bootLimit = 2 * time.Minute

// rig is what all machines of a test run share.
type rig struct {
	dir, qemu, kernel, initrd, root string
}

// newRig builds the agent and an initramfs for the kernel that this host has.
func newRig(t *testing.T) *rig {
	t.Helper()
	if testing.Short() {
		t.Skip("missing: time to boot emulated machines, with -short")
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("missing: this test knows the QEMU machine of amd64 only")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("missing: qemu-system-x86_64")
	}
	p, err := paths.Find(os.Getenv, os.Getuid())
	if err != nil {
		t.Skipf("missing: a cache folder: %v", err)
	}
	k, err := kernel.New(p.Cache).Find(t.Context(), "")
	if err != nil {
		t.Skipf("missing: a guest kernel: %v", err)
	}
	r := &rig{dir: t.TempDir(), qemu: qemu, kernel: k.VMLinux}
	if !k.PVH {
		r.kernel = k.BzImage
	}
	agent := filepath.Join(r.dir, "mvm-agent")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", agent,
		"github.com/mvmctl/mvmctl/cmd/mvm-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the agent: %v\n%s", err, out)
	}
	modules, err := k.ModuleFiles(kernel.WantedModules())
	var missing *kernel.MissingModulesError
	if err != nil && !errors.As(err, &missing) {
		t.Fatal(err)
	}
	if r.initrd, err = initrd.Build(t.Context(), r.dir, initrd.Input{Agent: agent, KernelID: k.ID, Modules: modules}); err != nil {
		t.Fatal(err)
	}
	img, err := image.New(r.dir).Ensure(t.Context(), "minimal")
	if err != nil {
		t.Fatal(err)
	}
	r.root = img.Path
	return r
}

// drive is one disk of a machine.
type drive struct {
	serial, path string
	readOnly     bool
}

// guest is a running machine.
type guest struct {
	t       *testing.T
	dir     string
	console lockedBuffer
	ended   chan struct{}
	err     error // of QEMU, once ended is closed
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// boot starts a machine. Its drives are attached in the given order.
func (r *rig) boot(t *testing.T, words string, drives ...drive) *guest {
	t.Helper()
	dir, err := os.MkdirTemp("", "gi") // a socket's name must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	g := &guest{t: t, dir: dir, ended: make(chan struct{})}
	args := []string{
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-machine", "q35", "-accel", "tcg",
		"-cpu", "max,aes=off,la57=off", "-m", "256", "-serial", "stdio", "-kernel", r.kernel, "-initrd", r.initrd,
		"-append", strings.TrimSpace("console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests mvm.slow " + words),
		"-object", "rng-builtin,id=rng", "-device", "virtio-rng-pci,rng=rng",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,server=on,wait=off,path=" + g.socket(),
		"-device", "virtserialport,chardev=agent,name=mvm.agent",
	}
	for i, d := range drives {
		ro := map[bool]string{true: "on", false: "off"}[d.readOnly]
		args = append(args, "-drive", fmt.Sprintf("if=none,id=d%d,format=raw,file=%s,readonly=%s", i, d.path, ro),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=d%d,serial=%s", i, d.serial))
	}
	ctx, cancel := context.WithTimeout(context.Background(), bootLimit)
	cmd := exec.CommandContext(ctx, r.qemu, args...)
	cmd.Stdout, cmd.Stderr = &g.console, &g.console
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	go func() {
		g.err = cmd.Wait()
		close(g.ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-g.ended
		if t.Failed() {
			t.Logf("console:\n%s", g.console.String())
		}
	})
	return g
}

func (g *guest) socket() string { return filepath.Join(g.dir, "s") }

// wantPowerOff waits for the machine to end by itself.
func (g *guest) wantPowerOff() {
	g.t.Helper()
	<-g.ended // within bootLimit: QEMU is killed then
	if g.err != nil {
		g.t.Fatalf("the machine did not power off: %v", g.err)
	}
}

// identity is a machine's keys, both sides.
type identity struct {
	config agentproto.Config
	host   agentclient.Identity
}

func newIdentity(t *testing.T) identity {
	t.Helper()
	hostKey, host, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	guestKey, guest, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	id := identity{config: agentproto.Config{
		Protocol: agentproto.Version, MachineID: "0123456789abcdef", Name: "m", Hostname: "box", Generation: 1,
		GuestSeed: guest.Seed(), HostKey: hostKey, Random: make([]byte, 64), Access: agentproto.AllAccess(),
	}}
	id.host = agentclient.Identity{
		HostSeed: host.Seed(), GuestKey: guestKey, MachineID: id.config.MachineID, Generation: 1,
		Build: "test", Handshake: bootLimit,
	}
	return id
}

func (id identity) drive(t *testing.T) drive {
	t.Helper()
	data, err := json.Marshal(id.config)
	if err != nil {
		t.Fatal(err)
	}
	return configDrive(t, data)
}

func configDrive(t *testing.T, data []byte) drive {
	t.Helper()
	return makeDrive(t, "mvm-config", disk.File{Path: agentproto.ConfigFile, Mode: 0o400, Data: data})
}

func makeDrive(t *testing.T, label string, files ...disk.File) drive {
	t.Helper()
	path := filepath.Join(t.TempDir(), label)
	if err := disk.CreateDrive(path, label, 0, files); err != nil {
		t.Fatal(err)
	}
	return drive{label, path, true}
}

func upperDrive(t *testing.T) drive {
	t.Helper()
	path := filepath.Join(t.TempDir(), "upper")
	if err := disk.CreateEmpty(path, disk.Options{Size: 64 << 20, Label: "mvm-upper", Journal: true}); err != nil {
		t.Fatal(err)
	}
	return drive{"mvm-upper", path, false}
}

// connect waits for the agent.
func (g *guest) connect(id identity) *agentclient.Client {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), bootLimit)
	defer cancel()
	for {
		select {
		case <-g.ended:
			g.t.Fatalf("the machine ended before its agent answered: %v", g.err)
		default:
		}
		conn, err := net.Dial("unix", g.socket())
		if err != nil { // QEMU has not come to it yet
			if ctx.Err() != nil {
				g.t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
			continue
		}
		c, err := agentclient.Connect(ctx, conn, id.host)
		if err != nil {
			g.t.Fatalf("connecting: %v", err)
		}
		g.t.Cleanup(func() { _ = c.Close() })
		return c
	}
}

// run runs a shell script in the guest as user and returns its output, errors included.
func (g *guest) run(c *agentclient.Client, user, script string) (string, agentproto.Exit) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), bootLimit)
	defer cancel()
	var out lockedBuffer
	exit, err := c.Exec(ctx, agentproto.ExecStart{Process: agentproto.Process{Args: []string{"sh", "-c", script}, User: user}},
		agentclient.Streams{Stdout: &out, Stderr: &out})
	if err != nil {
		g.t.Fatalf("%s: %v", script, err)
	}
	return out.String(), exit
}
