package firecracker

import (
	"cmp"
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

const installRemedy = "download a release from https://github.com/firecracker-microvm/firecracker/releases, put `firecracker` (and `jailer` beside it) into PATH, or set MVM_FIRECRACKER to it"

// binary is a Firecracker.
type binary struct {
	vmm.Stamp
	Version string `json:"version"` // "1.13.1"
}

// findBinary finds Firecracker and asks it for its version, unless that is remembered.
func (d *Driver) findBinary(ctx context.Context) (binary, error) {
	path, err := d.lookPath()
	if err == nil {
		// The jailer names its folders after the real file; so must we.
		path, err = filepath.EvalSymlinks(path)
	}
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		remedy := installRemedy
		if d.opts.InstallDir != "" {
			remedy = "run `mvmctl doctor --fix`, which fetches it; MVM_FIRECRACKER names one of your own"
		}
		return binary{}, d.blameSetting(vmm.Missing(cmp.Or(d.opts.Binary, "firecracker"), remedy, err))
	}
	stamp, err := vmm.StampOf(path)
	if err != nil {
		return binary{}, d.blameSetting(missing(path, err))
	}
	if r := d.memory.Load(); r.Binary != nil && r.Binary.SameAs(stamp) {
		return *r.Binary, d.blameSetting(checkVersion(r.Binary.Version, path))
	}
	text, err := vmm.Query(ctx, path, "--version")
	if err != nil {
		return binary{}, d.blameSetting(driver.Unavailable("backend.broken", installRemedy, "%s --version: %w", path, err))
	}
	version, ok := parseVersion(text)
	if !ok {
		line, _, _ := strings.Cut(text, "\n")
		return binary{}, d.blameSetting(driver.Unavailable("backend.version", installRemedy, "%s names no version: %q", path, vmm.Clip(line, 100)))
	}
	bin := binary{Stamp: stamp, Version: version}
	d.memory.Change(func(r *remembered) { r.Binary = &bin })
	return bin, d.blameSetting(checkVersion(version, path))
}

// lookPath finds the program that was named, else one in PATH, else the one that Install fetched.
func (d *Driver) lookPath() (string, error) {
	path, err := exec.LookPath(cmp.Or(d.opts.Binary, "firecracker"))
	if err == nil || d.opts.Binary != "" || d.opts.InstallDir == "" {
		return path, err
	}
	return exec.LookPath(filepath.Join(d.installed(d.opts.releases[runtime.GOARCH]), "firecracker"))
}

// blameSetting gives the remedy for a Firecracker that the user chose and that is none.
func (d *Driver) blameSetting(err error) error {
	if e, ok := errors.AsType[*machine.Error](err); ok && d.opts.Binary != "" && e.Code != "backend.version" {
		e.Remedy = "correct MVM_FIRECRACKER, or unset it to use the Firecracker that is installed"
	}
	return err
}

func missing(name string, cause error) error { return vmm.Missing(name, installRemedy, cause) }

// parseVersion reads "Firecracker v1.13.1" (or "Jailer v1.13.1"), which may be followed by more.
func parseVersion(text string) (string, bool) {
	m := regexp.MustCompile(`^\w+ v(\d{1,4}\.\d{1,4}\.\d{1,4})\b`).FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return "", false
	}
	return m[1], true
}

// The oldest Firecracker we start. 1.8.0 is the first that describes its devices by ACPI; the
// kernels of distributions are built without the other way (CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES)
// and would find no disk.
const floor = "1.8.0"

// flaw is a defect of some releases that a machine of ours would run into.
type flaw struct {
	from, before string // releases: from ≤ v < before; from "" is the first
	kernel       string // only with guest kernels from this release on; "": with all
	what         string
}

// flaws are from Firecracker's CHANGELOG.md, read 2026-11. Defects of what we do not use
// (snapshots, networks, PCI: CVE-2026-5747) are not here; the jailer's CVE-2026-1386 needs another
// user who may write to the folder of the jails, which ours is closed to.
func flaws() []flaw {
	return []flaw{
		{before: "1.14.0", kernel: "6.17", what: "it corrupts the data of vsock connections with guest kernels from 6.17 on (fixed in 1.14.0, pull request 5485)"},
	}
}

// checkVersion refuses what is too old or known to be bad whatever the guest.
func checkVersion(version, path string) error {
	if vmm.CompareVersions(version, floor) < 0 {
		return driver.Unavailable("backend.version", "install Firecracker "+floor+" or newer: "+installRemedy,
			"%s is version %s, %s is needed", path, version, floor)
	}
	for _, f := range flaws() {
		if f.kernel == "" && f.hits(version) {
			return driver.Unavailable("backend.version", "install another release than "+version+": "+installRemedy, "%s is version %s: %s", path, version, f.what)
		}
	}
	return nil
}

// checkKernel refuses a guest kernel that this Firecracker does not get on with.
func checkKernel(version, release string) error {
	for _, f := range flaws() {
		if f.kernel != "" && f.hits(version) && release != "" && vmm.CompareVersions(release, f.kernel) >= 0 {
			return machine.Errorf("backend.version", "install Firecracker "+f.before+" or newer, or use an older guest kernel with --kernel",
				"Firecracker %s cannot run the guest kernel %s: %s", version, vmm.Clip(release, 64), f.what)
		}
	}
	return nil
}

func (f flaw) hits(version string) bool {
	return vmm.CompareVersions(version, f.from) >= 0 && vmm.CompareVersions(version, f.before) < 0
}
