package firecracker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// readyTimeout is how long Firecracker may take until the machine runs: 20 ms on an idle host.
const readyTimeout = 30 * time.Second

// launch starts one Firecracker and the machine in it. On error nothing of it is left.
func launch(ctx context.Context, h host, b machine.Boot, out driver.Output, kernelArgs []string, log *slog.Logger) (*vm, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkBoot(b); err != nil {
		return nil, err
	}
	if err := checkKernel(h.bin.Version, b.Kernel.Release); err != nil {
		return nil, err
	}
	kernel, err := kernelPath(b.Kernel, h.arch)
	if err != nil {
		return nil, err
	}
	s, err := newSite(h, b, kernel)
	if err != nil {
		return nil, err
	}
	v := newVM(s, out, log)
	requests, err := plan(b, s.layout, h.arch, s.serial, kernelArgs...)
	if err == nil {
		err = v.start()
	}
	if err != nil {
		v.closeOurs()
		return nil, errors.Join(err, s.remove())
	}
	v.run()
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := v.boot(ctx, requests); err != nil {
		return nil, v.failedStart(ctx, b, err)
	}
	return v, nil
}

// start makes the pipes and starts the process.
func (v *vm) start() (err error) {
	path, uid := v.site.pipe()
	if v.logged, err = makePipe(path, uid); err != nil {
		return err
	}
	var stdout, stderr *os.File
	if v.stdout, stdout, err = os.Pipe(); err != nil {
		return fmt.Errorf("making a pipe: %w", err)
	}
	defer func() { _ = stdout.Close() }() // or its reader would never see the end
	widen(stdout)
	if v.stderr, stderr, err = os.Pipe(); err != nil {
		return fmt.Errorf("making a pipe: %w", err)
	}
	defer func() { _ = stderr.Close() }()
	v.child, err = v.command(stdout, stderr).Start()
	return err
}

func (v *vm) command(stdout, stderr *os.File) vmm.Command {
	// The jailer changes the user id.
	return vmm.Command{
		Name: "Firecracker", Argv: v.site.argv, Stdout: stdout, Stderr: stderr, Namespaces: v.site.jail != nil,
		Remedy: installRemedy, Began: v.out.Began,
	}
}

// boot builds the machine and starts it.
func (v *vm) boot(ctx context.Context, requests []request) error {
	for _, r := range requests {
		if err := v.api.call(ctx, r); err != nil {
			return err
		}
	}
	v.switchConsole() // what comes on its standard output from now on is the guest's
	if err := v.api.call(ctx, startRequest()); err != nil {
		return err
	}
	return v.site.opened()
}

// dialAPI connects to the API, waiting for the socket to be there. What holds the attempts up is
// the start of the process; its end ends them.
func (v *vm) dialAPI(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	var retry vmm.Retry
	for {
		c, err := d.DialContext(ctx, "unix", v.site.where(apiSocket))
		if err == nil {
			if err := checkPeer(c, v.site.uid); err != nil {
				_ = c.Close()
				return nil, fmt.Errorf("connecting to the API: %w", err)
			}
			return c, nil
		}
		if !vmm.NoSocket(err) {
			return nil, err
		}
		if err := retry.Pause(ctx, v.child.Exited); err != nil {
			return nil, errors.Join(err, errAPIClosed)
		}
	}
}

// failedStart ends a Firecracker that did not get to run the machine and says why.
func (v *vm) failedStart(ctx context.Context, b machine.Boot, cause error) error {
	if errors.Is(cause, errAPIClosed) {
		// It is about to end by itself; give it the time to say why.
		select {
		case <-v.done:
		case <-ctx.Done():
		}
	}
	died := v.child.Ended()
	_ = v.Kill()
	_ = v.Wait()
	var refused *fault
	var e *machine.Error
	switch {
	case errors.As(cause, &refused):
		e = explainFault(b, refused)
	case died:
		e = v.explainEnd()
	case machine.CodeOf(cause) != "":
		return cause
	case ctx.Err() != nil:
		e = machine.Errorf("boot.vmm_timeout", "try again when the host is less busy", "Firecracker did not become ready: %w", cause)
		if errors.Is(cause, context.Canceled) {
			e.Exit = machine.ExitInterrupt
		}
	default:
		e = machine.Errorf("boot.vmm_died", "look at the VMM's words below", "Firecracker did not become ready: %w", cause)
	}
	e.Detail = v.words.String()
	return e
}

// explainEnd is the error of a Firecracker, or jailer, that ended before the machine ran.
func (v *vm) explainEnd() *machine.Error {
	words := v.words.String()
	remedy := "look at the VMM's words below"
	if v.site.jail != nil {
		lower := strings.ToLower(words)
		switch {
		case strings.Contains(lower, "cgroup"):
			remedy = "the jailer cannot use the host's control groups: look at /sys/fs/cgroup/cgroup.subtree_control"
		case strings.Contains(lower, "mknod"):
			remedy = "set MVM_STATE_DIR to a folder on a file system that is mounted without nodev: the jail needs /dev/kvm"
		}
	}
	return machine.Errorf("boot.vmm_died", remedy, "Firecracker %s before the machine started: %s", v.child.End(), vmm.LastLine(words))
}

// explainFault turns a refusal into an error. The words are those of Firecracker 1.16; what
// another version says falls through to the general error, which shows them whole.
func explainFault(b machine.Boot, f *fault) *machine.Error {
	text := strings.ToLower(f.Text)
	says := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(text, p) {
				return true
			}
		}
		return false
	}
	switch {
	case says("cannot allocate memory", "out of memory", "memory backend", "mmap"):
		return machine.Errorf("limit.memory", "use a smaller --memory, or stop other machines",
			"this host cannot give the machine %s of memory: %w", machine.FormatSize(b.MemoryBytes), f)
	case f.Request.Path == "/boot-source", says("kernel loader", "kernel image", "load kernel", "invalid elf", "elf header", "initrd"):
		return machine.Errorf("boot.kernel_invalid", "run `mvmctl kernel fetch`, or give another with --kernel", "Firecracker does not take the kernel: %w", f)
	case strings.HasPrefix(f.Request.Path, "/drives/"):
		return machine.Errorf("disk.unusable", "look at the file's owner and mode", "Firecracker does not take a disk: %w", f)
	case says("kvm"):
		return machine.Errorf("backend.kvm", nestedRemedy, "KVM does not do what Firecracker needs: %w", f)
	}
	return machine.Errorf("vmm.api", "look at the VMM's words below; `mvmctl up --hypervisor qemu` goes without Firecracker", "Firecracker refuses a request: %w", f)
}
