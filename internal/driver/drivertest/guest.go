package drivertest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// guest is one machine with its drives and keys, and what it said.
type guest struct {
	s       *suite
	t       testing.TB
	boot    machine.Boot
	id      agentclient.Identity
	console recorder
	vmm     recorder
	vm      driver.VM
}

// recorder keeps the last of what was written and counts all.
type recorder struct {
	mu    sync.Mutex
	buf   []byte
	total int64
	grown chan struct{} // closed and replaced at each write
}

const recorded = 64 << 10

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buf = append(r.buf, p...)
	if over := len(r.buf) - recorded; over > 0 {
		r.buf = append(r.buf[:0], r.buf[over:]...)
	}
	r.total += int64(len(p))
	if r.grown != nil {
		close(r.grown)
		r.grown = nil
	}
	return len(p), nil
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.buf)
}

func (r *recorder) count() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total
}

// waitFor returns once ok says so about what was written.
func (r *recorder) waitFor(ctx context.Context, ok func(tail []byte, total int64) bool) error {
	for {
		r.mu.Lock()
		if ok(r.buf, r.total) {
			r.mu.Unlock()
			return nil
		}
		if r.grown == nil {
			r.grown = make(chan struct{})
		}
		grown := r.grown
		r.mu.Unlock()
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func containing(s string) func([]byte, int64) bool {
	return func(tail []byte, _ int64) bool { return bytes.Contains(tail, []byte(s)) }
}

// newGuest prepares a machine below dir (a new folder when ""), without starting it.
func (s *suite) newGuest(t testing.TB, dir string) *guest {
	t.Helper()
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp(s.assets.Dir, "m"); err != nil {
			t.Fatal(err)
		}
	}
	g := &guest{s: s, t: t}
	state, run := filepath.Join(dir, "state"), filepath.Join(dir, "run")
	for _, d := range []string{state, run} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	host, guestKey := newKey(t), newKey(t)
	cfg := agentproto.Config{
		Protocol: agentproto.Version, MachineID: machine.NewID(), Name: "test", Hostname: "test", Generation: 3,
		GuestSeed: guestKey.Seed(), HostKey: host.Public().(ed25519.PublicKey), Random: make([]byte, 64),
		Access: agentproto.AllAccess(),
	}
	rand.Read(cfg.Random) // never fails since Go 1.24
	g.id = agentclient.Identity{
		HostSeed: host.Seed(), GuestKey: guestKey.Public().(ed25519.PublicKey),
		MachineID: cfg.MachineID, Generation: cfg.Generation, Build: "drivertest", Handshake: s.handshake(),
	}
	data, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	config, upper := filepath.Join(state, "config.img"), filepath.Join(state, "upper.img")
	if err := disk.CreateDrive(config, "mvm-config", 0, []disk.File{{Path: agentproto.ConfigFile, Mode: 0o400, Data: data}}); err != nil {
		t.Fatal(err)
	}
	if err := disk.CreateEmpty(upper, disk.Options{Size: 64 << 20, Label: "mvm-upper", Journal: true}); err != nil {
		t.Fatal(err)
	}
	g.boot = machine.Boot{
		Name: "test", ID: cfg.MachineID, Generation: cfg.Generation, Driver: s.driver.Name(),
		CPUs: 1, MemoryBytes: 256 << 20,
		Kernel: s.assets.Kernel, Initrd: s.assets.Initrd, Agent: s.assets.Agent, Runner: s.runner,
		Disks: []machine.Disk{
			{Role: machine.RoleRoot, Path: s.assets.Root, ReadOnly: true},
			{Role: machine.RoleUpper, Path: upper},
			{Role: machine.RoleConfig, Path: config, ReadOnly: true},
		},
		Dir: state, RuntimeDir: run, Timeout: s.Patience,
	}
	return g
}

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (s *suite) handshake() time.Duration {
	if s.caps.EmulatedSlow {
		return agentproto.SlowHandshake
	}
	return agentproto.HandshakeTimeout
}

func (s *suite) patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), s.Patience)
	t.Cleanup(cancel)
	return ctx
}

// start starts the machine and kills it at the end of the test.
func (g *guest) start() {
	g.t.Helper()
	began := 0
	vm, err := g.s.driver.Start(g.s.patient(g.t), g.boot, driver.Output{Console: &g.console, VMM: &g.vmm, Began: func(pid int) { began = pid }})
	if err != nil {
		g.t.Fatalf("Start: %v", err)
	}
	g.vm = vm
	if p, ok := vm.(driver.ProcessOwner); ok && began != 0 && began != p.Pid() {
		g.t.Errorf("the VMM began as process %d and is process %d", began, p.Pid())
	}
	g.t.Cleanup(func() {
		if err := vm.Kill(); err != nil {
			g.t.Errorf("Kill at the end: %v", err)
		}
		_ = vm.Wait()
		if g.t.Failed() {
			g.t.Logf("console:\n%q\nVMM:\n%q", g.console.String(), g.vmm.String())
		}
	})
}

// started is a machine that runs.
func (s *suite) started(t testing.TB) *guest {
	t.Helper()
	g := s.newGuest(t, "")
	g.start()
	return g
}

// connect dials and authenticates. A byte pipe may hold bytes of an earlier session, so what
// agentclient.Connect calls worth another try is tried again.
func (g *guest) connect() *agentclient.Client {
	g.t.Helper()
	ctx := g.s.patient(g.t)
	for attempt := 1; ; attempt++ {
		conn, err := g.vm.Dial(ctx, driver.AgentPort)
		if err != nil {
			g.t.Fatalf("Dial: %v", err)
		}
		c, err := agentclient.Connect(ctx, conn, g.id)
		if err == nil {
			g.t.Cleanup(func() { _ = c.Close() })
			return c
		}
		var known *agentproto.Error
		again := errors.As(err, &known) && (known.Code == agentproto.CodeLost || known.Code == agentproto.CodeProtocol)
		if !again || attempt == 3 || g.s.OneDial {
			g.t.Fatalf("Connect, attempt %d: %v", attempt, err)
		}
		g.t.Logf("Connect, attempt %d: %v", attempt, err)
	}
}

// exec runs a command and returns its output and exit.
func (g *guest) exec(c *agentclient.Client, stdin io.Reader, args ...string) (string, agentproto.Exit) {
	g.t.Helper()
	var out bytes.Buffer
	exit, err := c.Exec(g.s.patient(g.t), agentproto.ExecStart{Process: agentproto.Process{Args: args}}, agentclient.Streams{Stdin: stdin, Stdout: &out, Stderr: &out})
	if err != nil {
		g.t.Fatalf("exec %q: %v", args, err)
	}
	return out.String(), exit
}

// shutdown asks the agent to power off and waits for the VMM.
func (g *guest) shutdown(c *agentclient.Client) {
	g.t.Helper()
	err := c.Shutdown(g.s.patient(g.t), agentproto.ShutdownRequest{Grace: agentproto.Duration(time.Second)})
	var known *agentproto.Error
	if err != nil && (!errors.As(err, &known) || known.Code != agentproto.CodeLost) { // the power may go before the answer
		g.t.Fatalf("Shutdown: %v", err)
	}
	if err := g.wait(); err != nil {
		g.t.Errorf("Wait after a shutdown: %v", err)
	}
}

// wait is vm.Wait with a deadline.
func (g *guest) wait() error {
	g.t.Helper()
	end := make(chan error, 1)
	go func() { end <- g.vm.Wait() }()
	select {
	case err := <-end:
		return err
	case <-g.s.patient(g.t).Done():
		g.t.Fatal("Wait does not return")
	}
	return nil
}

func (g *guest) pid() (int, error) {
	p, ok := g.vm.(driver.ProcessOwner)
	if !ok {
		return 0, errNoPid
	}
	return p.Pid(), nil
}
