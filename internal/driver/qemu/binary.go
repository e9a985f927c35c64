package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// floor is the oldest QEMU we start: 6.2 is in the oldest distribution release still in wide use
// (Ubuntu 22.04, 2026-11); 7.2 is the one tested.
const floor = "6.2"

// binary is a QEMU and what it can do.
type binary struct {
	vmm.Stamp
	Version string `json:"version"` // "7.2.22"
	MicroVM bool   `json:"microvm"` // has the microvm machine type
	Sandbox bool   `json:"sandbox"` // was built with seccomp
}

func emulatorName(arch string) string {
	if arch == "arm64" {
		return "qemu-system-aarch64"
	}
	return "qemu-system-x86_64"
}

// findBinary finds QEMU and asks it what it is, unless that is remembered: starting QEMU only
// for its version costs more than all the rest of `up` before the boot.
func (d *Driver) findBinary(ctx context.Context) (binary, error) {
	path, err := d.lookPath()
	if err != nil {
		return binary{}, err
	}
	stamp, err := vmm.StampOf(path)
	if err != nil {
		return binary{}, d.blameSetting(missing(path, err))
	}
	if r := d.memory.Load(); r.Binary != nil && r.Binary.SameAs(stamp) {
		return *r.Binary, checkVersion(r.Binary.Version, path)
	}
	bin, err := inspect(ctx, stamp)
	if err != nil {
		return binary{}, d.blameSetting(err)
	}
	d.memory.Change(func(r *remembered) { r.Binary = &bin })
	return bin, checkVersion(bin.Version, path)
}

func (d *Driver) lookPath() (string, error) {
	name := d.opts.Binary
	if name == "" {
		name = emulatorName(runtime.GOARCH)
	}
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	if d.opts.Binary == "" {
		// Red Hat's only QEMU is not in PATH.
		const kvm = "/usr/libexec/qemu-kvm"
		if _, serr := os.Stat(kvm); serr == nil {
			return kvm, nil
		}
	}
	return "", d.blameSetting(missing(name, err))
}

// blameSetting gives the remedy for a QEMU that the user chose and that is none: installing
// another would not help.
func (d *Driver) blameSetting(err error) error {
	if e, ok := errors.AsType[*machine.Error](err); ok && d.opts.Binary != "" {
		e.Remedy = "correct MVM_QEMU, or unset it to use the QEMU that is installed"
	}
	return err
}

func missing(name string, cause error) error {
	return vmm.Missing(name, installRemedy(runtime.GOOS), cause)
}

func installRemedy(goos string) string {
	if goos == "darwin" {
		return "brew install qemu"
	}
	return "install it: `apt install qemu-system-x86` (Debian, Ubuntu), `dnf install qemu-kvm` (Fedora), `pacman -S qemu-base` (Arch)"
}

// inspect asks a QEMU for its version and abilities.
func inspect(ctx context.Context, stamp vmm.Stamp) (binary, error) {
	bin := binary{Stamp: stamp, Sandbox: true}
	// A QEMU without seccomp refuses -sandbox by name before it prints its version.
	text, err := vmm.Query(ctx, stamp.Path, "-sandbox", "on", "-version")
	if err != nil {
		bin.Sandbox = false
		text, err = vmm.Query(ctx, stamp.Path, "-version")
	}
	if err != nil {
		return binary{}, driver.Unavailable("backend.broken", installRemedy(runtime.GOOS), "%s -version: %w", stamp.Path, err)
	}
	bin.Version, err = parseVersion(text)
	if err != nil {
		return binary{}, driver.Unavailable("backend.version", installRemedy(runtime.GOOS), "%s: %w", stamp.Path, err)
	}
	if runtime.GOARCH == "amd64" {
		machines, err := vmm.Query(ctx, stamp.Path, "-machine", "help")
		if err != nil {
			return binary{}, driver.Unavailable("backend.broken", installRemedy(runtime.GOOS), "%s -machine help: %w", stamp.Path, err)
		}
		bin.MicroVM = strings.Contains(machines, "\nmicrovm ")
	}
	return bin, nil
}

// parseVersion reads "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)".
func parseVersion(text string) (string, error) {
	m := regexp.MustCompile(`version (\d{1,4}\.\d{1,4}(?:\.\d{1,4})?)`).FindStringSubmatch(text)
	if m == nil {
		line, _, _ := bytes.Cut([]byte(text), []byte("\n"))
		return "", fmt.Errorf("it names no version: %q", vmm.Clip(string(line), 100))
	}
	return m[1], nil
}

func checkVersion(version, path string) error {
	if vmm.CompareVersions(version, floor) < 0 {
		return driver.Unavailable("backend.version", "install QEMU "+floor+" or newer", "%s is version %s, %s is needed", path, version, floor)
	}
	return nil
}
