package vz

import (
	"cmp"
	"context"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// floor is the oldest vfkit we start. The console's terminal came with 0.6.2; 0.6.3 is the oldest
// whose source all of what is asked for was checked against.
const floor = "0.6.3"

const (
	install   = "brew install vfkit"
	upgrade   = "brew upgrade vfkit"
	reinstall = "`brew reinstall vfkit` restores a vfkit that has lost its signature; a Mac that is itself a virtual machine needs nested virtualisation"
)

// binary is a vfkit.
type binary struct {
	vmm.Stamp
	Version string `json:"version"` // "0.6.3"
}

// findBinary finds vfkit and asks it for its version, unless that is remembered.
func (d *Driver) findBinary(ctx context.Context) (binary, error) {
	path, err := lookPath(d.opts.Binary)
	if err != nil {
		return binary{}, d.blameSetting(vmm.Missing(cmp.Or(d.opts.Binary, "vfkit"), install, err))
	}
	stamp, err := vmm.StampOf(path)
	if err != nil {
		return binary{}, d.blameSetting(vmm.Missing(path, install, err))
	}
	if r := d.memory.Load(); r.Binary != nil && r.Binary.SameAs(stamp) {
		return *r.Binary, checkVersion(r.Binary.Version, path)
	}
	text, err := vmm.Query(ctx, path, "--version")
	if err != nil {
		return binary{}, d.blameSetting(driver.Unavailable("backend.broken", reinstall, "%s --version: %w", path, err))
	}
	version, ok := parseVersion(text)
	if !ok {
		line, _, _ := strings.Cut(text, "\n")
		return binary{}, driver.Unavailable("backend.version", upgrade, "%s names no version: %q", path, vmm.Clip(line, 100))
	}
	bin := binary{Stamp: stamp, Version: version}
	d.memory.Change(func(r *remembered) { r.Binary = &bin })
	return bin, checkVersion(version, path)
}

// lookPath finds vfkit. A program that was not started from a terminal does not have Homebrew's
// folders in its PATH.
func lookPath(name string) (string, error) {
	if name != "" {
		return exec.LookPath(name)
	}
	path, err := exec.LookPath("vfkit")
	if err == nil {
		return path, nil
	}
	for _, p := range []string{"/opt/homebrew/bin/vfkit", "/usr/local/bin/vfkit"} {
		if _, serr := os.Stat(p); serr == nil {
			return p, nil
		}
	}
	return "", err
}

// blameSetting gives the remedy for a vfkit that the user chose and that is none.
func (d *Driver) blameSetting(err error) error {
	if e, ok := errors.AsType[*machine.Error](err); ok && d.opts.Binary != "" {
		e.Remedy = "correct MVM_VFKIT, or unset it to use the vfkit that is installed"
	}
	return err
}

// parseVersion reads "vfkit version: v0.6.3", which may be followed by the number of a commit.
func parseVersion(text string) (string, bool) {
	m := regexp.MustCompile(`^vfkit version: v?(\d{1,4}\.\d{1,4}\.\d{1,4})\b`).FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return "", false
	}
	return m[1], true
}

func checkVersion(version, path string) error {
	if vmm.CompareVersions(version, floor) < 0 {
		return driver.Unavailable("backend.version", upgrade, "%s is version %s, %s is needed", path, version, floor)
	}
	return nil
}
