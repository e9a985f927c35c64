package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// readyTimeout is how long QEMU may take until its monitor answers: 50 ms on an idle machine.
const readyTimeout = 30 * time.Second

// launch starts one QEMU. On error nothing of it is left.
func launch(ctx context.Context, h host, b machine.Boot, out driver.Output, kernelArgs []string, log *slog.Logger) (*vm, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	v := newVM(out, log)
	var inherit files
	defer inherit.close() // the child has its own by then
	args, err := v.prepare(h, b, &inherit, kernelArgs)
	if err != nil {
		v.release()
		return nil, err
	}
	cmd := vmm.Command{
		Name: "QEMU", Argv: append([]string{h.bin.Path}, args...), Inherit: inherit.list,
		Stdout: v.outputChild, Stderr: v.outputChild, Remedy: installRemedy(runtime.GOOS),
		Began: out.Began,
	}
	if v.child, err = cmd.Start(); err != nil {
		v.release()
		return nil, err
	}
	_ = v.outputChild.Close() // or its reader would never see the end
	inherit.close()
	v.run()

	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	q, err := openQMP(ctx, v.qmpConn, v.event)
	if err != nil {
		return nil, v.failedStart(ctx, b, err)
	}
	v.setQMP(q)
	return v, nil
}

// prepare opens everything that QEMU is to inherit and builds its arguments.
func (v *vm) prepare(h host, b machine.Boot, inherit *files, kernelArgs []string) ([]string, error) {
	var f fds
	for _, p := range []struct {
		conn **connFile
		fd   *int
	}{{&v.qmpConn, &f.qmp}, {&v.consoleConn, &f.console}} {
		ours, theirs, err := pair()
		if err != nil {
			return nil, err
		}
		*p.conn, *p.fd = ours, inherit.add(theirs)
	}
	if err := v.openKernel(b, inherit, &f); err != nil {
		return nil, err
	}
	for _, d := range b.Disks {
		file, err := vmm.OpenDisk(d)
		if err != nil {
			return nil, err
		}
		f.disks = append(f.disks, inherit.add(file))
		v.ills.roles = append(v.ills.roles, d.Role)
	}
	if h.transport == transportVsock {
		file, cid, err := openVsock()
		if err != nil {
			return nil, err
		}
		f.vsock, f.cid = inherit.add(file), cid
		v.cid = cid
	}
	var err error
	if v.output, v.outputChild, err = os.Pipe(); err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	return commandLine(b, h, f, kernelArgs...)
}

// openKernel checks the boot files and, where QEMU can open descriptors, passes them so.
func (v *vm) openKernel(b machine.Boot, inherit *files, f *fds) error {
	for _, x := range []struct {
		path string
		fd   *int
	}{{kernelImage(b.Kernel), &f.kernel}, {b.Initrd, &f.initrd}} {
		if x.path == "" {
			continue // commandLine says what is missing
		}
		file, err := vmm.OpenBootFile(x.path)
		if err != nil {
			return err
		}
		if !kernelByFD {
			_ = file.Close()
			continue
		}
		*x.fd = inherit.add(file)
	}
	return nil
}

// failedStart ends a QEMU that did not become ready and says why, in its own words.
func (v *vm) failedStart(ctx context.Context, b machine.Boot, cause error) error {
	if !errors.Is(cause, errQMPClosed) {
		// It runs but does not behave.
		_ = v.Kill()
		_ = v.Wait()
		if machine.CodeOf(cause) != "" {
			return cause
		}
		e := machine.Errorf("boot.vmm_timeout", "try again when the host is less busy", "QEMU did not become ready: %w", cause)
		if errors.Is(cause, context.Canceled) {
			e.Exit = machine.ExitInterrupt
		}
		e.Detail = v.words.String()
		return e
	}
	// It closed its monitor, so it is about to end by itself; give it the time to say why.
	select {
	case <-v.done:
	case <-ctx.Done():
		_ = v.Kill()
	}
	_ = v.Wait()
	return explain(b, v.child.End(), v.words.String())
}

// explain turns QEMU's last words into an error. The words are matched as QEMU 7.2 writes
// them; another version's fall through to the general error, which shows them whole.
func explain(b machine.Boot, end, words string) error {
	last := vmm.LastLine(words)
	says := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(words, p) {
				return true
			}
		}
		return false
	}
	var e *machine.Error
	switch {
	case says("Cannot allocate memory", "cannot set up guest memory", "phys-bits too low"):
		e = machine.Errorf("limit.memory", "use a smaller --memory, or stop other machines",
			"this host cannot give the machine %s of memory: %s", machine.FormatSize(b.MemoryBytes), last)
	case says("Failed to get \"write\" lock", "Failed to get shared \"write\" lock", "Is another process using the image"):
		e = machine.Errorf("disk.busy", "stop the machine that uses it", "another process uses one of the disks: %s", last)
	case says("could not load kernel", "invalid kernel header", "Error loading uncompressed kernel", "Error while loading elf kernel", "without PVH ELF Note", "could not load initrd", "kernel too old", "initrd is too large"):
		e = machine.Errorf("boot.kernel_invalid", "run `mvmctl kernel fetch`, or give another with --kernel", "QEMU does not take the kernel: %s", last)
	case says(": Assertion `"): // where in QEMU's source tells a user nothing
		e = machine.Errorf("boot.vmm_died", "look at the VMM's words below", "QEMU %s before the machine started, by a check of its own", end)
	default:
		e = machine.Errorf("boot.vmm_died", "look at the VMM's words below", "QEMU %s before the machine started: %s", end, last)
	}
	e.Detail = words
	return e
}
