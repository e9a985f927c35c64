package drivertest

import (
	"context"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/driver"
)

// Harness is a driver under test.
type Harness struct {
	// New returns a fresh driver. It is also called in child processes of the test; what it
	// needs to remember across them belongs into a.Cache.
	New func(t testing.TB, a Assets) driver.Driver

	// Patience is how long a guest may take to answer; 0: what MVM_DRIVERTEST_PATIENCE says (for a
	// host that is itself emulated), else 30 s, ten times as much for an emulated guest.
	Patience time.Duration

	// Cycles is how often the leak test starts and stops a machine; 0: 3.
	Cycles int

	// OneDial says that a machine can be dialled only once. It is a gap of the driver and
	// leaves out what the contract says about later connections.
	OneDial bool

	// Flood is how many lines of 360 bytes the console is flooded with, a multiple of 10; 0: 2000. A
	// serial port of a guest in nested virtualisation under emulation takes about 1 KB/s.
	Flood int

	// Runner makes the runner that Boot.Runner names, for a driver whose machines bring their own
	// kernel: it boots the assets' one. It is also called in child processes of the test.
	Runner func(t testing.TB, a Assets) string

	// SeesPanic says that Wait tells a panic of the guest's kernel from a power-off.
	SeesPanic bool
}

// suite is one run of the tests.
type suite struct {
	Harness
	assets Assets
	caps   driver.Capabilities
	driver driver.Driver
	runner string // made by Harness.Runner
}

// boots reports whether a guest is a machine with a kernel of its own.
func (s *suite) boots() bool { return s.caps.NeedsKernel || s.Runner != nil }

// Run runs the suite. It skips, naming what is missing, where the driver cannot run here.
func Run(t *testing.T, h Harness) {
	if job, ok := givenJob(t); ok {
		runJob(t, h, job)
		return
	}
	s := &suite{Harness: h}
	s.assets = makeAssets(t)
	s.prepare(t)
	for _, tt := range conformance() {
		t.Run(tt.name, func(t *testing.T) { tt.run(s, t) })
	}
}

// test is one test of the suite.
type test struct {
	name string
	run  func(*suite, *testing.T)
}

// Names returns the names of the suite's tests, in order.
func Names() []string {
	var out []string
	for _, t := range conformance() {
		out = append(out, t.name)
	}
	return out
}

func conformance() []test {
	return []test{
		{"life", testLife},
		{"exec", testExec},
		{"kill at once", testKillAtOnce},
		{"kill twice, wait by many", testKillTwice},
		{"dial ends with its context", testDialContext},
		{"dial waits and is woken by the end", testDialEnd},
		{"another port", testOtherPort},
		{"second dial", testSecondDial},
		{"wrong key", testWrongKey},
		{"pause and resume", testPause},
		{"power-off from inside", testPowerOff},
		{"kernel panic", testPanic},
		{"VMM killed from outside", testVMMKilled},
		{"start without a disk", testMissingDisk},
		{"start without what boots", testMissingBoot},
		{"start with a swapped disk", testSwappedDisk},
		{"start with an ended context", testStartContext},
		{"console flood", testConsoleFlood},
		{"nothing leaks", testCycles},
		{"inherited descriptors", testInherited},
		{"supervisor killed", testSupervisorKilled},
		{"unprivileged", testUnprivileged},
	}
}

// prepare makes the driver and, when it boots a kernel, what it boots.
func (s *suite) prepare(t *testing.T) {
	t.Helper()
	s.driver = s.New(t, s.assets)
	caps, err := s.driver.Probe(t.Context())
	if err != nil {
		t.Skipf("driver %s cannot run here: %v", s.driver.Name(), err)
	}
	t.Log(Facts{Driver: s.driver.Name(), Capabilities: caps}.line())
	s.caps = caps
	if s.boots() {
		s.assets.addKernel(t)
	}
	if text := os.Getenv("MVM_DRIVERTEST_PATIENCE"); s.Patience == 0 && text != "" {
		if s.Patience, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	if s.Runner != nil {
		s.runner = s.Runner(t, s.assets)
	}
	if s.Patience == 0 {
		s.Patience = 30 * time.Second
		if caps.EmulatedSlow {
			s.Patience *= 10
		}
	}
	if s.Cycles == 0 {
		s.Cycles = 3
	}
	if text := os.Getenv("MVM_DRIVERTEST_FLOOD"); s.Flood == 0 && text != "" {
		if s.Flood, err = strconv.Atoi(text); err != nil {
			t.Fatalf("MVM_DRIVERTEST_FLOOD: %v", err)
		}
	}
	if s.Flood == 0 {
		s.Flood = 2000
	}
}

// Misbehaves starts one machine with a driver that was told to misbehave, dials it and
// authenticates, for at most limit. It returns how that went and how the machine ended; a
// machine that is still there by then is killed. It is for the faults of a driver made for
// tests.
func Misbehaves(t *testing.T, h Harness, limit time.Duration) (connected, ended error) {
	t.Helper()
	s := &suite{Harness: h, assets: makeAssets(t)}
	s.prepare(t)
	g := s.newGuest(t, "")
	vm, err := s.driver.Start(s.patient(t), g.boot, driver.Output{Console: &g.console, VMM: &g.vmm})
	if err != nil {
		return err, err
	}
	defer func() { _ = vm.Kill() }()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	conn, connected := vm.Dial(ctx, driver.AgentPort)
	if connected == nil {
		var c *agentclient.Client
		if c, connected = agentclient.Connect(ctx, conn, g.id); connected == nil {
			_ = c.Close()
		}
	}
	if machineEnded := make(chan error, 1); connected != nil {
		go func() { machineEnded <- vm.Wait() }()
		select {
		case ended = <-machineEnded:
			return connected, ended
		case <-ctx.Done():
		}
	}
	_ = vm.Kill()
	return connected, vm.Wait()
}
