package krun

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// agentSocket is what a machine has in its runtime folder while it runs.
const agentSocket = "krun.agent"

// readyTimeout is how long libkrun may take until the machine has processors: some 50 ms on an idle
// host.
const readyTimeout = 30 * time.Second

// launch starts one runner and the machine in it. On error nothing of it is left.
func launch(ctx context.Context, h host, b machine.Boot, out driver.Output, kernelArgs []string, log *slog.Logger) (*vm, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkBoot(b, h); err != nil {
		return nil, err
	}
	f, err := openFiles(b, h.arch)
	if err != nil {
		return nil, err
	}
	defer f.close()
	socket := filepath.Join(b.RuntimeDir, agentSocket)
	d, err := describe(b, h, socket, f.serials, kernelArgs...)
	if err != nil {
		return nil, err
	}
	data, err := d.Encode()
	if err != nil {
		return nil, err
	}
	if err := removeSocket(socket); err != nil { // libkrun does not bind a socket whose path exists
		return nil, machine.Errorf("state.readonly", "look at the folder's owner and mode", "removing what an earlier boot left: %w", err)
	}
	v := newVM(socket, out, log)
	if err := v.start(h.runner, data, f.open); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := v.awaitProcessor(ctx); err != nil {
		return nil, v.failedStart(ctx, b, err)
	}
	return v, nil
}

func removeSocket(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// start starts the runner, the readers of what it and the guest say, and the one who waits for its
// end.
func (v *vm) start(runner string, data []byte, inherit []*os.File) (err error) {
	var theirs []*os.File
	defer func() {
		for _, f := range theirs { // or their readers would never see the end
			_ = f.Close()
		}
		if err != nil {
			v.closeOurs()
		}
	}()
	told, err := description(data)
	if err != nil {
		return err
	}
	theirs = append(theirs, told)
	pipe := func() (r, w *os.File, err error) {
		if r, w, err = os.Pipe(); err != nil {
			return nil, nil, fmt.Errorf("making a pipe: %w", err)
		}
		theirs = append(theirs, w)
		return r, w, nil
	}
	var console, output *os.File
	if v.console, console, err = pipe(); err != nil {
		return err
	}
	if v.output, output, err = pipe(); err != nil {
		return err
	}
	v.child, err = vmm.Command{
		Name: "libkrun", Argv: []string{runner}, Inherit: append([]*os.File{told, console}, inherit...),
		Stdout: output, Stderr: output, Remedy: installRemedy, Began: v.out.Began,
	}.Start()
	if err != nil {
		return err
	}
	v.run()
	return nil
}

// awaitProcessor waits until the machine has a processor. From then on there is little that can fail:
// libkrun has taken the description, opened the files and loaded the kernel. It tells nobody of that,
// but the kernel shows what a process holds of KVM.
func (v *vm) awaitProcessor(ctx context.Context) error {
	var retry vmm.Retry
	for {
		if holds(v.child.Pid, vcpuName) {
			return nil
		}
		if err := retry.Pause(ctx, v.child.Exited); err != nil {
			return err
		}
	}
}

// holds reports whether a process has a descriptor of that name.
func holds(pid int, name string) bool {
	folder := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return false // it is ending: that is what is waited for next
	}
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(folder, e.Name())); err == nil && target == name {
			return true
		}
	}
	return false
}

// failedStart ends a runner that did not get to run the machine and says why.
func (v *vm) failedStart(ctx context.Context, b machine.Boot, cause error) error {
	died := v.child.Ended()
	_ = v.Kill()
	_ = v.Wait()
	words := v.words.String()
	var e *machine.Error
	switch {
	case died:
		e = explain(b, v.child.End(), words)
	case ctx.Err() != nil:
		e = machine.Errorf("boot.vmm_timeout", "try again when the host is less busy", "libkrun did not become ready: %w", cause)
		if errors.Is(cause, context.Canceled) {
			e.Exit = machine.ExitInterrupt
		}
	default:
		e = machine.Errorf("boot.vmm_died", "look at the VMM's words below", "libkrun did not become ready: %w", cause)
	}
	e.Detail = words
	return e
}

// explain turns libkrun's last words into an error. The words are those of 1.17; what another version
// says falls through to the general error, which shows them whole.
func explain(b machine.Boot, end, words string) *machine.Error {
	says := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(words, p) {
				return true
			}
		}
		return false
	}
	last := vmm.LastLine(words)
	switch {
	case says("Cannot allocate memory", "os error 12"):
		return machine.Errorf("limit.memory", "use a smaller --memory, or stop other machines",
			"this host cannot give the machine %s of memory: %s", machine.FormatSize(b.MemoryBytes), last)
	case says("ElfLoadKernel", "krun_set_kernel"):
		return machine.Errorf("boot.kernel_invalid", "run `mvmctl kernel build`, or give another with --kernel", "libkrun does not take the kernel: %s", last)
	case says("krun_add_disk", "virtio-blk"):
		return machine.Errorf("disk.unusable", "look at the file's owner and mode", "libkrun does not take a disk: %s", last)
	case says("KvmContext", "Kvm", "kvm"):
		return machine.Errorf("backend.kvm", nestedRemedy, "KVM does not do what libkrun needs: %s", last)
	}
	return machine.Errorf("boot.vmm_died", "look at the VMM's words below; `mvmctl up --hypervisor qemu` goes without libkrun", "libkrun %s before the machine started: %s", end, last)
}
