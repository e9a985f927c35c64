package vz

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// Our command lines are read by vfkit's own packages, and mean there what they are meant to and what
// the double's parser makes of them. It is skipped where the Go module proxy cannot be reached.
func TestCommandLinesByVfkitItself(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it builds a program")
	}
	vfkit := buildParser(t)
	dir := t.TempDir()
	put := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, 16), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	full := goldenBoot()
	full.Kernel.VMLinux, full.Initrd = put("Image, new"), put("init=rd")
	for i := range full.Disks {
		full.Disks[i].Path = put("disk =\"" + string(full.Disks[i].Role))
	}
	bare := goldenBoot()
	bare.Disks, bare.CPUs, bare.MemoryBytes = nil, 1, machine.MinMemory
	for _, b := range []machine.Boot{full, bare} {
		args, err := commandLine(b, kernelOf(b.Kernel, "arm64"), socketsIn(b.RuntimeDir), 8, "mvm.probe", "x=a,b=c")
		if err != nil {
			t.Fatal(err)
		}
		var errs bytes.Buffer
		cmd := exec.CommandContext(t.Context(), vfkit, args...)
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("vfkit refuses %q: %v\n%s", args, err, errs.String())
		}
		c, err := parseArgs(args)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(decoded(t, c.asJSON(t)), decoded(t, out)); d != "" {
			t.Errorf("vfkit reads other things than the double (-double +vfkit):\n%s", d)
		}
		checkMeaning(t, b, args)
	}
}

// asJSON is what the program in testdata/vfkit prints.
func (c vfkitArgs) asJSON(t *testing.T) []byte {
	t.Helper()
	disks := []map[string]any{}
	for _, d := range c.disks {
		disks = append(disks, map[string]any{"path": d.path, "id": d.id, "readonly": d.readOnly})
	}
	data, err := json.Marshal(map[string]any{
		"cpus": c.cpus, "memory": c.memory, "api": "unix://" + c.api, "kernel": c.kernel, "initrd": c.initrd, "cmdline": c.cmdline,
		"pty": c.pty, "rng": c.rng, "balloon": c.balloon, "port": c.vsockPort, "socket": c.vsockPath, "connect": c.vsockConnect, "disks": disks,
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func decoded(t *testing.T, data []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func buildParser(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	path := filepath.Join(t.TempDir(), "vfkit-parser")
	cmd := exec.CommandContext(ctx, "go", "build", "-mod=readonly", "-o", path, ".")
	cmd.Dir = filepath.Join("testdata", "vfkit")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	out, err := cmd.CombinedOutput()
	if err != nil && (ctx.Err() != nil || regexp.MustCompile(`dial tcp|no such host|timeout|module lookup disabled|40[34] Forbidden|proxyconnect|connection refused|connection reset|unexpected EOF|(410|429|50\d) `).Match(out)) {
		t.Skipf("vfkit's packages cannot be had: %v\n%s", err, out)
	}
	if err != nil {
		t.Fatalf("building vfkit's parser: %v\n%s", err, out)
	}
	return path
}
