package qemu

import (
	"context"
	"io"
	"net"
	"os"
	"time"

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

// Wait implements driver.VM.
func (v *runnerVM) Wait() error { return inFlake(v.vm.Wait()) }

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
	ours, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = theirs.Close() }()
	cmd := vmm.Command{
		Name: "microvm-shutdown", Argv: []string{v.runner.program("microvm-shutdown")}, Dir: v.work,
		Stdout: theirs, Stderr: theirs, Env: v.environment(nil), Remedy: rebuild,
	}
	helper, err := cmd.Start()
	if err != nil {
		_ = ours.Close()
		return err
	}
	_ = theirs.Close() // or its reader would never see the end
	return v.attend(ctx, helper, ours)
}

// helperTime is how soon a bin/microvm-shutdown fails that cannot reach its machine.
const helperTime = 2 * time.Second

// attend looks after the runner's program, which has only asked for the machine's end, or waits for it
// too, or for ever. What it says goes into the VMM's log; that it failed is returned when it did so at
// once, and is in the log when it did later.
func (v *runnerVM) attend(ctx context.Context, helper *vmm.Child, said *os.File) error {
	failed := make(chan error, 1)
	go func() {
		var words vmm.Tail
		read := make(chan struct{})
		go func() {
			defer close(read)
			vmm.CopyAll(io.MultiWriter(&words, v.out.VMM), said)
		}()
		select {
		case <-helper.Exited:
		case <-v.child.Exited:
		}
		_ = helper.KillGroup() // what it has left in the background keeps its output open
		<-helper.Exited
		late := time.AfterFunc(vmm.DrainTime, func() { _ = said.Close() })
		<-read
		late.Stop()
		_ = said.Close()
		if v.child.Ended() || helper.Well() {
			failed <- nil
		} else {
			failed <- helperError(helper, words.String())
		}
	}()
	timer := time.NewTimer(helperTime)
	defer timer.Stop()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	case <-timer.C:
	}
	go func() {
		if err := <-failed; err != nil {
			v.log.Warn("asking the guest to stop", "error", err)
		}
	}()
	return nil
}

func helperError(helper *vmm.Child, words string) error {
	e := machine.Errorf("runner.shutdown", "look at the runner's bin/microvm-shutdown; `mvmctl down --force` ends the machine", "the runner's bin/microvm-shutdown %s", helper.End())
	if e.Detail = words; words != "" {
		e.Message += ": " + vmm.LastLine(words)
	}
	return e
}
