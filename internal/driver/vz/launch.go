package vz

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// readyTimeout is how long vfkit may take until the machine runs. It gives up by itself after 5 s
// in which the framework does not start the machine.
const readyTimeout = 30 * time.Second

// launch starts one vfkit and the machine in it. On error nothing of it is left.
func launch(ctx context.Context, h host, b machine.Boot, out driver.Output, kernelArgs []string, log *slog.Logger) (*vm, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	kernel := kernelOf(b.Kernel, h.arch)
	s := socketsIn(b.RuntimeDir)
	args, err := commandLine(b, kernel, s, h.maxCPUs, kernelArgs...)
	if err != nil {
		return nil, err
	}
	if err := checkFiles(b, kernel, h.arch); err != nil {
		return nil, err
	}
	if err := s.remove(); err != nil { // vfkit does not bind a socket whose path exists
		return nil, machine.Errorf("state.readonly", "look at the folder's owner and mode", "removing what an earlier boot left: %w", err)
	}
	v := newVM(s, out, log)
	if err := v.start(h.bin.Path, args); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := v.boot(ctx); err != nil {
		return nil, v.failedStart(ctx, err)
	}
	return v, nil
}

// kernelOf chooses the form of the kernel that the framework takes: the uncompressed Image on
// arm64, the bzImage on amd64.
func kernelOf(k machine.Kernel, arch string) string {
	if k.VMLinux != "" && arch == "arm64" || k.BzImage == "" {
		return k.VMLinux
	}
	return k.BzImage
}

// checkFiles refuses what vfkit could not use, or should not be given: it takes paths and no
// descriptors.
func checkFiles(b machine.Boot, kernel, arch string) error {
	if err := checkKernel(kernel, arch); err != nil {
		return err
	}
	initrd, err := vmm.OpenBootFile(b.Initrd)
	if err != nil {
		return err
	}
	_ = initrd.Close()
	for _, d := range b.Disks {
		f, err := vmm.OpenDisk(d)
		if err != nil {
			return err
		}
		_ = f.Close()
	}
	return nil
}

// Places and values that tell what kind of kernel a file is: docs.kernel.org,
// arch/arm64/booting.html and arch/x86/boot.html.
const (
	imageMagicAt   = 56
	imageMagic     = "ARM\x64"
	bzImageMagicAt = 0x202
	bzImageMagic   = "HdrS"
)

// checkKernel refuses what would not boot. Nothing unpacks an arm64 kernel: the framework starts
// what it is given, and a compressed one hangs.
func checkKernel(path, arch string) error {
	f, err := vmm.OpenBootFile(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, bzImageMagicAt+len(bzImageMagic))
	if _, err := io.ReadFull(f, head); err != nil {
		return vmm.KernelError(path, err)
	}
	at, magic, form := bzImageMagicAt, bzImageMagic, "a bzImage"
	if arch == "arm64" {
		at, magic, form = imageMagicAt, imageMagic, "an uncompressed arm64 Image, which `gunzip` makes of an Image.gz"
	}
	if !bytes.Equal(head[at:at+len(magic)], []byte(magic)) {
		return vmm.KernelError(path, errors.New("Apple's framework needs "+form))
	}
	return nil
}

// remove removes the sockets.
func (s sockets) remove() error {
	var errs []error
	for _, path := range []string{s.api, s.agent} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// boot waits until the machine runs. vfkit serves its API before it starts the machine, so the
// console's reader is there before the first byte.
func (v *vm) boot(ctx context.Context) error {
	c, err := v.dialAPI(ctx) // it has more time than a request
	if err != nil {
		return err
	}
	_ = c.Close()
	path, err := v.api.terminal(ctx)
	if err != nil {
		return err
	}
	console, err := openTerminal(path)
	if err != nil {
		return fmt.Errorf("opening the console's terminal: %w", err)
	}
	if err := v.readConsole(console); err != nil {
		return err
	}
	var retry vmm.Retry // the API has no event for a change of state
	for {
		state, err := v.api.state(ctx)
		switch {
		case err != nil:
			return err
		case state == stateRunning:
			return nil
		case state == stateFailed:
			return errors.New("the framework could not start the machine")
		}
		if err := retry.Pause(ctx, v.child.Exited); err != nil {
			return err
		}
	}
}

// dialAPI connects to the API, waiting for the socket to be there.
func (v *vm) dialAPI(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	var retry vmm.Retry
	for {
		c, err := d.DialContext(ctx, "unix", v.sockets.api)
		if err == nil || !vmm.NoSocket(err) {
			return c, err
		}
		if err := retry.Pause(ctx, v.child.Exited); err != nil {
			return nil, err
		}
	}
}

// failedStart ends a vfkit that did not get to run the machine and says why.
func (v *vm) failedStart(ctx context.Context, cause error) error {
	// A connection may have ended because vfkit is about to: give it the time to say why.
	if machine.CodeOf(cause) == "" && ctx.Err() == nil {
		timer := time.NewTimer(vmm.DrainTime)
		select {
		case <-v.child.Exited:
		case <-timer.C:
		}
		timer.Stop()
	}
	died := v.child.Ended()
	_ = v.Kill()
	_ = v.Wait()
	words := v.words.String()
	switch {
	case died:
		return explain(v.child.End(), words)
	case machine.CodeOf(cause) != "":
		return cause
	}
	code, remedy := "boot.vmm_died", "look at the VMM's words below"
	if ctx.Err() != nil {
		code, remedy = "boot.vmm_timeout", "try again when the Mac is less busy"
	}
	e := machine.Errorf(code, remedy, "vfkit did not become ready: %w", cause)
	if errors.Is(cause, context.Canceled) {
		e.Exit = machine.ExitInterrupt
	}
	e.Detail = words
	return e
}

// explain turns vfkit's last words into an error. The words are those of v0.6.3 and of the
// framework; what another version says falls through to the general error, which shows them whole.
func explain(end, words string) error {
	says := func(part string) bool { return strings.Contains(words, part) }
	last := vmm.LastLine(words)
	var e *machine.Error
	switch {
	case says("com.apple.security.virtualization"):
		e = driver.Unavailable("backend.broken", "brew reinstall vfkit", "vfkit is not signed for virtual machines: %s", last)
	case says("kernel must be uncompressed"):
		e = machine.Errorf("boot.kernel_invalid", "run `mvmctl kernel fetch`, or give another with --kernel", "vfkit does not take the kernel: %s", last)
	case says("failed to open file"), says("failed to read the header of file"), says("qcow2"):
		e = machine.Errorf("disk.unusable", "look at the file's owner and mode", "vfkit does not take a disk: %s", last)
	default:
		e = machine.Errorf("boot.vmm_died", "look at the VMM's words below", "vfkit %s before the machine started: %s", end, last)
	}
	e.Detail = words
	return e
}
