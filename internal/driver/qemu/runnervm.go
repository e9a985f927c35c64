package qemu

import (
	"context"
	"net"
	"os"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// runnerVM is a machine that a runner of microvm.nix started. The runner becomes its QEMU, so the
// process is the same; what it leaves beside itself is in its process group.
type runnerVM struct {
	*vm
	runner runnerPackage
	work   string // its working folder
	name   string
}

var (
	_ driver.VM           = (*runnerVM)(nil)
	_ driver.ProcessOwner = (*runnerVM)(nil)
	_ driver.Agentless    = (*runnerVM)(nil)
	_ driver.Pauser       = (*runnerVM)(nil)
)

// Agentless implements driver.Agentless.
func (v *runnerVM) Agentless() bool { return !v.runner.takesArgs }

// Dial implements driver.VM.
func (v *runnerVM) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	if v.Agentless() {
		return nil, driver.ErrNoSuchPort
	}
	return v.vm.Dial(ctx, port)
}

// Pause implements driver.Pauser.
func (v *runnerVM) Pause(ctx context.Context) error {
	if v.unmonitored {
		return v.noMonitor()
	}
	return v.vm.Pause(ctx)
}

// Resume implements driver.Pauser.
func (v *runnerVM) Resume(ctx context.Context) error {
	if v.unmonitored {
		return v.noMonitor()
	}
	return v.vm.Resume(ctx)
}

// noMonitor is the error of what only a QEMU can do that takes our arguments: the monitor of the
// runner's own is its bin/microvm-shutdown's.
func (v *runnerVM) noMonitor() error {
	return machine.Errorf("backend.pause", "docs/nix.md says how a microvm.nix flake gets mvmctl's monitor, with the agent", "this machine's runner takes no monitor, so it cannot be paused")
}

// Shutdown implements driver.VM: by the runner's own program, which knows what its guest heeds, or
// else by the power button.
func (v *runnerVM) Shutdown(ctx context.Context) error {
	if !v.runner.canShutdown {
		if v.Agentless() {
			return machine.Errorf("runner.shutdown", "set microvm.socket in the flake", "this runner has no bin/microvm-shutdown")
		}
		return v.vm.Shutdown(ctx)
	}
	if v.child.Ended() {
		return nil
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = null.Close() }()
	cmd := vmm.Command{
		Name: "microvm-shutdown", Argv: []string{v.runner.program("microvm-shutdown")}, Dir: v.work,
		Stdout: null, Stderr: null, Env: v.environment(nil), Remedy: "build the runner again: mvmctl up with --recreate",
	}
	helper, err := cmd.Start()
	if err != nil {
		return err
	}
	// It waits for the machine's end, or has not reached it and waits for ever.
	go func() {
		select {
		case <-v.done:
			_ = helper.KillGroup()
		case <-helper.Exited:
		}
	}()
	return nil
}
