package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// Kernel is one guest kernel in the cache. All paths are absolute and belong to the cache.
type Kernel struct {
	// ID names the boot image together with its modules: 16 hex digits of a SHA-256. The same
	// files give the same ID on every machine.
	ID string
	// Release is what `uname -r` prints in the guest, read from the image itself.
	Release string
	// Arch is the machine in Go's spelling: "amd64" or "arm64".
	Arch string
	// BzImage is the boot image as distributed (bzImage, or an arm64 Image, compressed or not);
	// "" when the source was an ELF file.
	BzImage string
	// VMLinux is the uncompressed kernel: an ELF file on amd64, an Image on arm64. It is "" when
	// the payload's compression is one we cannot read.
	VMLinux string
	// PVH tells whether VMLinux has a Xen PVH entry note, which QEMU's -kernel needs to boot an
	// ELF file (https://xenbits.xen.org/docs/unstable/misc/pvh.html).
	PVH bool
	// Modules is the root of the module tree (…/lib/modules/<release>), "" for a kernel that
	// needs none.
	Modules string
	// ModuleCount is the number of modules in the tree.
	ModuleCount int
	// Source says for people where the kernel came from.
	Source string
	// Build says what it was built from; nil for a kernel that was not built here.
	Build *BuildRecord
	// Default tells, in what List returns, that Find("") gives this one.
	Default bool
	// Config holds the CONFIG_ values that are set ("CONFIG_PVH": "y"), from the config file
	// beside the image or from the image (IKCONFIG); nil when unknown.
	Config map[string]string
}

// WantedModules returns the modules that a microVM's first stage loads when the kernel has them
// as modules, most basic first. ModuleFiles adds what they depend on.
func WantedModules() []string {
	return []string{
		"virtio_pci", "virtio_mmio",
		"virtio_blk", "virtio_console",
		"crc32c_generic", "ext4", "overlay", // ext4 asks for crc32c by a soft dependency only
		"virtio_rng", "vmw_vsock_virtio_transport", "virtio_net", "virtio_balloon",
	}
}

// MissingModulesError names wanted modules that the kernel has neither as files nor built in.
// The kernel may well boot without them: what they were wanted for decides.
type MissingModulesError struct {
	Release string
	Names   []string
}

// Error implements error.
func (e *MissingModulesError) Error() string {
	return fmt.Sprintf("kernel %s has no module %s", e.Release, strings.Join(e.Names, ", "))
}

// ModuleFiles returns the files of the wanted modules and of everything they depend on, in the
// order in which they have to be loaded. Modules built into the kernel are left out, and so is
// everything for a kernel without a module tree. Names that the kernel does not have are
// reported by a *MissingModulesError beside the files of those that it has.
func (k Kernel) ModuleFiles(wanted []string) ([]string, error) {
	if k.Modules == "" {
		return nil, nil
	}
	raw, err := readFileLimit(filepath.Join(k.Modules, modulesDep), maxModulesDep)
	if err != nil {
		return nil, fmt.Errorf("reading module dependencies: %w", err)
	}
	deps, err := parseModulesDep(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("reading module dependencies: %w", err)
	}
	builtin, err := readBuiltin(k.Modules)
	if err != nil {
		return nil, err
	}
	order, missing := deps.loadOrder(wanted, builtin)
	files := make([]string, len(order))
	for i, rel := range order {
		files[i] = filepath.Join(k.Modules, filepath.FromSlash(rel))
	}
	if len(missing) > 0 {
		return files, &MissingModulesError{Release: k.Release, Names: missing}
	}
	return files, nil
}

// ConfigOn tells whether a kernel option is built in ("y") or a module ("m"). It is false for an
// unknown configuration.
func (k Kernel) ConfigOn(option string) bool {
	v := k.Config[option]
	return v == "y" || v == "m"
}

// readBuiltin returns the names listed in modules.builtin; a tree without that file has none.
func readBuiltin(modules string) (map[string]bool, error) {
	raw, err := readFileLimit(filepath.Join(modules, modulesBuiltin), maxModulesDep)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading built-in modules: %w", err)
	}
	return parseBuiltin(raw), nil
}
