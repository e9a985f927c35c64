package qemu

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// runnerPackage is what a runner's store path says of itself. The layout is microvm.nix's
// (lib/runner.nix): programs below bin, facts for the host below share/microvm.
type runnerPackage struct {
	dir         string
	takesArgs   bool // its QEMU gets what we ask for, and so has the way to our agent
	mmio        bool // its virtio devices are not on PCI
	canShutdown bool
}

// rebuild is the remedy when a program of a runner is not there: Nix makes the same path again.
const rebuild = "build it again with the `mvmctl up --flake` that made the machine"

// Bounds of what is read of a runner.
const (
	maxRunnerScript = 1 << 20
	maxRunnerFact   = 64 << 10
)

func (p runnerPackage) program(name string) string { return filepath.Join(p.dir, "bin", name) }

// readRunner looks at a runner and at whether this host has what it needs.
func readRunner(dir string) (runnerPackage, error) {
	p := runnerPackage{dir: dir}
	invalid := func(format string, args ...any) error {
		return machine.Errorf("runner.invalid", "give a flake whose nixosConfigurations.NAME.config.microvm.declaredRunner is microvm.nix's", format, args...)
	}
	if !filepath.IsAbs(dir) {
		return p, invalid("%q is not the path of a runner", vmm.Escape(vmm.Clip(dir, 200)))
	}
	script, err := readStart(p.program("microvm-run"), maxRunnerScript)
	if _, gone := os.Stat(dir); errors.Is(gone, os.ErrNotExist) {
		return p, machine.Errorf("runner.invalid", rebuild, "the runner %s is not there any more", dir)
	}
	if err != nil {
		return p, invalid("%s is not a runner of microvm.nix: %w", dir, err)
	}
	if info, err := os.Stat(p.program("microvm-run")); err != nil || info.Mode()&0o111 == 0 {
		return p, invalid("%s cannot be executed", p.program("microvm-run"))
	}
	if kind := p.facts("hypervisor"); len(kind) > 0 && kind[0] != "qemu" {
		return p, machine.Errorf("runner.hypervisor", `set microvm.hypervisor = "qemu" in the flake`, "this runner is for %s, and mvmctl runs those for qemu", vmm.Escape(vmm.Clip(kind[0], 40)))
	}
	if err := p.checkHost(); err != nil {
		return p, err
	}
	p.takesArgs = strings.Contains(script, argsVariable)
	// PCI is not there for a machine of type microvm unless it is asked for.
	m := regexp.MustCompile(`(?m)(?:-M|-machine)\s+['"]?(microvm\b[^\s'"]*)`).FindStringSubmatch(script)
	p.mmio = m != nil && !slices.Contains(strings.Split(m[1], ","), "pcie=on")
	if info, err := os.Stat(p.program("microvm-shutdown")); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
		p.canShutdown = true
	}
	return p, nil
}

// checkHost refuses a runner that would fail for what its host has to prepare.
func (p runnerPackage) checkHost() error {
	if shares, err := os.ReadDir(p.fact("virtiofs")); err == nil && len(shares) > 0 {
		return machine.Errorf("runner.virtiofs", `give the shares of the flake proto = "9p", or have none and let the guest have its store on a disk (microvm.storeOnDisk)`,
			"this runner has shares by virtiofs (%s), for which a virtiofsd has to run that mvmctl does not start", vmm.Escape(vmm.Clip(shares[0].Name(), 80)))
	}
	for _, line := range p.facts("tap-interfaces") {
		if id, ok := missingInterface(line); ok {
			return noInterface(id, "sudo ip tuntap add "+id+" mode tap user $USER")
		}
	}
	for _, line := range p.facts("macvtap-interfaces") { // name, address, the interface below it, mode
		if id, ok := missingInterface(line); ok {
			how := "sudo ip link add link INTERFACE name " + id + " type macvtap"
			if f := strings.Fields(line); len(f) == 4 {
				how = "sudo ip link add link " + vmm.Escape(vmm.Clip(f[2], 40)) + " name " + id + " address " + vmm.Escape(vmm.Clip(f[1], 40)) + " type macvtap mode " + vmm.Escape(vmm.Clip(f[3], 40))
			}
			return noInterface(id, how+", and give yourself its /dev/tap file")
		}
	}
	return nil
}

// missingInterface reports whether the host lacks the network interface that a line of a runner's facts
// begins with.
func missingInterface(line string) (name string, missing bool) {
	id, _, _ := strings.Cut(line, " ")
	if id == "" || strings.ContainsAny(id, "/") || id == ".." {
		return "", false
	}
	_, err := os.Stat(filepath.Join("/sys/class/net", id))
	return vmm.Escape(vmm.Clip(id, 40)), errors.Is(err, os.ErrNotExist)
}

func noInterface(name, how string) error {
	return machine.Errorf("runner.network", "make it: "+how+", and see microvm.nix's documentation of networks; or give the flake's interface type = \"user\"",
		"this runner needs the network interface %s, which this host does not have", name)
}

func (p runnerPackage) fact(name string) string {
	return filepath.Join(p.dir, "share", "microvm", name)
}

// facts returns the lines of a file of share/microvm; none when there is no such file.
func (p runnerPackage) facts(name string) []string {
	text, err := readStart(p.fact(name), maxRunnerFact)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return strings.TrimSpace(line) == "" })
}

// readStart reads a regular file, at most limit bytes of it.
func readStart(path string, limit int64) (string, error) {
	f, err := vmm.OpenBootFile(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, limit))
	return string(data), err
}
