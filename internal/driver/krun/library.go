package krun

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/krun/wire"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// soname is the library's file. Releases 1.x keep to its interface.
const soname = "libkrun.so.1"

// floor is the oldest libkrun we start. Before it a vsock cannot be had without TSI, by which a guest
// opens network connections of the host.
const floor = "1.17.0"

const installRemedy = "install libkrun " + floor + " or newer, from the distribution (Fedora: `sudo dnf install libkrun`) or from https://github.com/containers/libkrun; MVM_LIBKRUN names one of your own"

// library is a libkrun.
type library struct {
	vmm.Stamp
	Version string `json:"version"` // "1.17.4"; "" when its file's name does not say
	MaxCPUs int    `json:"max_cpus"`
}

// libraryFolders are where loaders, distributions and Homebrew have libraries.
func libraryFolders(arch string) []string {
	triplet, ok := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[arch]
	folders := []string{"/usr/local/lib64", "/usr/local/lib", "/usr/lib64", "/lib64", "/usr/lib", "/lib", "/home/linuxbrew/.linuxbrew/lib"}
	if !ok {
		return folders
	}
	return append([]string{"/usr/local/lib/" + triplet, "/usr/lib/" + triplet, "/lib/" + triplet}, folders...)
}

// findLibrary returns the path of the library's file itself, whose name has the release.
func (d *Driver) findLibrary() (string, error) {
	if d.opts.Library != "" {
		path, err := filepath.EvalSymlinks(d.opts.Library)
		if err == nil {
			path, err = filepath.Abs(path)
		}
		if err != nil {
			return "", d.blameSetting(vmm.Missing(d.opts.Library, installRemedy, err))
		}
		return path, nil
	}
	for _, folder := range d.opts.folders {
		path, err := filepath.EvalSymlinks(filepath.Join(folder, soname))
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", vmm.Missing(filepath.Join(folder, soname), installRemedy, err)
		}
	}
	return "", vmm.Missing("libkrun", installRemedy, fs.ErrNotExist)
}

// blameSetting gives the remedy for a libkrun that the user chose and that is none.
func (d *Driver) blameSetting(err error) error {
	if e, ok := errors.AsType[*machine.Error](err); ok && d.opts.Library != "" && e.Code != "backend.version" {
		e.Remedy = "correct MVM_LIBKRUN, or unset it to use the libkrun that is installed"
	}
	return err
}

// fileVersion reads the release from the name of a library's file. The library itself has no way to
// say it.
func fileVersion(path string) string {
	m := regexp.MustCompile(`^libkrun\.so\.(\d{1,4}\.\d{1,4}\.\d{1,4})$`).FindStringSubmatch(filepath.Base(path))
	if m == nil {
		return ""
	}
	return m[1]
}

// examine loads the library, in the runner, to see whether it has all that machines need, unless that
// is remembered.
func (d *Driver) examine(ctx context.Context, path, runner string) (library, error) {
	stamp, err := vmm.StampOf(path)
	if err != nil {
		return library{}, d.blameSetting(vmm.Missing(path, installRemedy, err))
	}
	if r := d.memory.Load(); r.Library != nil && r.Library.SameAs(stamp) && r.Library.MaxCPUs > 0 {
		return *r.Library, nil
	}
	lib := library{Stamp: stamp, Version: fileVersion(path)}
	if lib.Version != "" && vmm.CompareVersions(lib.Version, floor) < 0 {
		return library{}, driver.Unavailable("backend.version", installRemedy, "%s is version %s, %s is needed", path, lib.Version, floor)
	}
	text, err := vmm.Query(ctx, runner, wire.CheckWord, path)
	if err != nil {
		return library{}, d.blameSetting(explainLoad(path, err))
	}
	var can wire.Abilities
	if err := json.Unmarshal([]byte(text), &can); err != nil || can.MaxCPUs < 1 {
		return library{}, driver.Unavailable("backend.broken", "install mvmctl anew", "mvm-krun says of %s only %q", path, vmm.Clip(strings.TrimSpace(text), 100))
	}
	lib.MaxCPUs = min(can.MaxCPUs, maxCPUs)
	d.memory.Change(func(r *remembered) { r.Library = &lib })
	return lib, nil
}

// maxCPUs is how many processors libkrun's table of them has room for (arch/src/x86_64/mptable.rs).
const maxCPUs = 254

// explainLoad says why a library cannot be used. What the runner prints ends with its own reason.
func explainLoad(path string, err error) error {
	text := vmm.LastLine(err.Error())
	switch {
	case strings.Contains(text, wire.LacksFunction):
		return driver.Unavailable("backend.version", installRemedy, "%s is older than %s, or was built without disks (%s)", path, floor, text)
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, os.ErrPermission):
		return driver.Unavailable("backend.broken", "libkrun needs a system with glibc; look at the folder's mount options for `noexec`", "mvm-krun, which runs libkrun, cannot be started: %w", err)
	}
	return driver.Unavailable("backend.broken", "install libkrun anew, with the libraries that it needs", "%s cannot be loaded (%s)", path, text)
}
