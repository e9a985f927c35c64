package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/lastwords"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// The oldest QEMU we start: 6.2 is in the oldest distribution release still in wide use
// (Ubuntu 22.04, 2026-11); 7.2 is the one tested.
const (
	minMajor = 6
	minMinor = 2
)

const queryTimeout = 10 * time.Second // for QEMU to print its version

// binary is a QEMU and what it can do.
type binary struct {
	binaryStamp
	Version string `json:"version"` // "7.2.22"
	MicroVM bool   `json:"microvm"` // has the microvm machine type
	Sandbox bool   `json:"sandbox"` // was built with seccomp
}

// binaryStamp tells one state of a file from another without reading it.
type binaryStamp struct {
	Path  string    `json:"path"`
	Size  int64     `json:"size"`
	MTime time.Time `json:"mtime"`
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
	info, err := os.Stat(path)
	if err != nil {
		return binary{}, d.blameSetting(missing(path, err))
	}
	stamp := binaryStamp{Path: path, Size: info.Size(), MTime: info.ModTime().UTC()}
	if r := d.memory.load(); r.Binary != nil && r.Binary.sameAs(stamp) {
		return *r.Binary, checkVersion(r.Binary.Version, path)
	}
	bin, err := inspect(ctx, stamp)
	if err != nil {
		return binary{}, d.blameSetting(err)
	}
	d.memory.change(func(r *remembered) { r.Binary = &bin })
	return bin, checkVersion(bin.Version, path)
}

func (s binaryStamp) sameAs(o binaryStamp) bool {
	return s.Path == o.Path && s.Size == o.Size && s.MTime.Equal(o.MTime)
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
	if !errors.Is(cause, exec.ErrNotFound) && !errors.Is(cause, fs.ErrNotExist) {
		return driver.Unavailable("backend.missing", installRemedy(runtime.GOOS), "%s cannot be run (%w)", name, cause)
	}
	return driver.Unavailable("backend.missing", installRemedy(runtime.GOOS), "%s is not installed", name)
}

func installRemedy(goos string) string {
	if goos == "darwin" {
		return "brew install qemu"
	}
	return "install it: `apt install qemu-system-x86` (Debian, Ubuntu), `dnf install qemu-kvm` (Fedora), `pacman -S qemu-base` (Arch)"
}

// inspect asks a QEMU for its version and abilities.
func inspect(ctx context.Context, stamp binaryStamp) (binary, error) {
	bin := binary{binaryStamp: stamp, Sandbox: true}
	// A QEMU without seccomp refuses -sandbox by name before it prints its version.
	text, err := query(ctx, stamp.Path, "-sandbox", "on", "-version")
	if err != nil {
		bin.Sandbox = false
		text, err = query(ctx, stamp.Path, "-version")
	}
	if err != nil {
		return binary{}, driver.Unavailable("backend.broken", installRemedy(runtime.GOOS), "%s -version: %w", stamp.Path, err)
	}
	bin.Version, err = parseVersion(text)
	if err != nil {
		return binary{}, driver.Unavailable("backend.version", installRemedy(runtime.GOOS), "%s: %w", stamp.Path, err)
	}
	if runtime.GOARCH == "amd64" {
		machines, err := query(ctx, stamp.Path, "-machine", "help")
		if err != nil {
			return binary{}, driver.Unavailable("backend.broken", installRemedy(runtime.GOOS), "%s -machine help: %w", stamp.Path, err)
		}
		bin.MicroVM = strings.Contains(machines, "\nmicrovm ")
	}
	return bin, nil
}

func query(ctx context.Context, path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = cleanEnv()
	var out, errs lastwords.Tail
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if words := errs.String(); words != "" {
			return "", fmt.Errorf("%w: %s", err, words)
		}
		return "", err
	}
	return out.Raw(), nil
}

// cleanEnv is the whole environment of QEMU: what a user exports (LD_PRELOAD, QEMU_*,
// proxies) must not reach it.
func cleanEnv() []string { return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"} }

// parseVersion reads "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)".
func parseVersion(text string) (string, error) {
	m := regexp.MustCompile(`version (\d{1,4}\.\d{1,4}(?:\.\d{1,4})?)`).FindStringSubmatch(text)
	if m == nil {
		line, _, _ := bytes.Cut([]byte(text), []byte("\n"))
		return "", fmt.Errorf("it names no version: %q", clip(string(line), 100))
	}
	return m[1], nil
}

func checkVersion(version, path string) error {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, errA := strconv.Atoi(major)
	b, errB := strconv.Atoi(minor)
	if errA != nil || errB != nil || a < minMajor || (a == minMajor && b < minMinor) {
		return driver.Unavailable("backend.version", "install QEMU "+strconv.Itoa(minMajor)+"."+strconv.Itoa(minMinor)+" or newer",
			"%s is version %s, %d.%d is needed", path, version, minMajor, minMinor)
	}
	return nil
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}
