package lima_test

import (
	"archive/tar"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/lima"
	"github.com/mvmctl/mvmctl/internal/linuxenv"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// bootOf prepares a machine below dir for the fake backend behind the double.
func bootOf(t *testing.T, dir string) machine.Boot {
	t.Helper()
	agent := filepath.Join(dir, "agent")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", agent, "github.com/mvmctl/mvmctl/cmd/mvm-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the agent: %v\n%s", err, out)
	}
	b := machine.Boot{
		Name: "test", ID: machine.NewID(), Generation: 1, Driver: "lima", CPUs: 1, MemoryBytes: 256 << 20, Agent: agent,
		Dir: filepath.Join(dir, "state"), RuntimeDir: filepath.Join(dir, "rt"), Timeout: time.Minute,
	}
	path := func(name string) string { return filepath.Join(b.Dir, name) }
	if err := os.Mkdir(b.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	seed := make([]byte, ed25519.SeedSize)
	config, err := json.Marshal(agentproto.Config{
		Protocol: agentproto.Version, MachineID: b.ID, Name: "test", Hostname: "test", Generation: 1, GuestSeed: seed,
		HostKey: ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey), Random: make([]byte, 64), Access: agentproto.AllAccess(),
	})
	if err := errors.Join(
		err,
		disk.CreateDrive(path("config.img"), "mvm-config", 0, []disk.File{{Path: agentproto.ConfigFile, Mode: 0o400, Data: config}}),
		disk.CreateDrive(path("root.img"), "mvm-root", 0, []disk.File{{Path: "etc/from-the-image", Mode: 0o644, Data: []byte("image\n")}}),
		disk.CreateDrive(path("upper.img"), "mvm-upper", 0, []disk.File{{Path: "upper/etc/of-the-machine", Mode: 0o644, Data: []byte("machine\n")}}),
	); err != nil {
		t.Fatal(err)
	}
	b.Disks = []machine.Disk{
		{Role: machine.RoleRoot, Path: path("root.img"), ReadOnly: true, ID: "an image"},
		{Role: machine.RoleUpper, Path: path("upper.img")},
		{Role: machine.RoleConfig, Path: path("config.img"), ReadOnly: true},
	}
	return b
}

// end waits for a machine's end.
func end(t *testing.T, vm driver.VM) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- vm.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("Wait does not return")
	}
	return nil
}

// sides lists the processes of our side in the double's virtual machine below dir.
func sides(t *testing.T, dir string) []int {
	t.Helper()
	var out []int
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		data, err := os.ReadFile(f)
		if args := strings.Split(string(data), "\x00"); err == nil && strings.HasPrefix(args[0], dir) && len(args) > 1 && args[1] == linuxenv.Command {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, pid)
		}
	}
	return out
}

// TestLifeDouble: what a machine wrote is kept in the virtual machine until it is removed, and can be
// had; a session that ends under a machine ends it, and says so.
func TestLifeDouble(t *testing.T) {
	dir := shortDir(t)
	vm := doubleVM(t, dir)
	if err := vm.Ensure(t.Context(), io.Discard); err != nil {
		t.Fatal(err)
	}
	d := lima.New(lima.Options{VM: vm})
	b := bootOf(t, dir)
	if err := d.Remove(t.Context(), b.ID, b.Dir); err != nil {
		t.Errorf("Remove of a machine that was never started: %v", err)
	}
	start := func() driver.VM {
		t.Helper()
		m, err := d.Start(t.Context(), b, driver.Output{})
		if err != nil {
			t.Fatalf("Start: %v", err)
		}
		t.Cleanup(func() { _ = m.Kill() })
		return m
	}
	m := start()
	kept, _ := filepath.Glob(filepath.Join(dir, "lima*", doubleName, "root/var/machines", b.ID, "upper.img"))
	if len(kept) != 1 {
		t.Fatalf("the machine's disk is at %q", kept)
	}
	pids := sides(t, dir)
	if len(pids) != 1 {
		t.Fatalf("%d sides for one machine", len(pids))
	}
	p, err := os.FindProcess(pids[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := end(t, m); machine.CodeOf(err) != "lima.lost" {
		t.Errorf("a session that was killed: %v, want lima.lost", err)
	}
	// A marker of which only a part was written does not give the machine an empty disk.
	marker := filepath.Join(b.Dir, "lima")
	whole, err := os.ReadFile(marker)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"", "kep"} {
		if err := os.WriteFile(marker, []byte(part), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Start(t.Context(), b, driver.Output{}); machine.CodeOf(err) != "state.corrupt" {
			t.Errorf("Start with the marker %q: %v, want state.corrupt", part, err)
		}
	}
	if err := os.WriteFile(marker, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	// The host's disk does not count any more.
	if err := os.WriteFile(b.Disks[1].Path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	m = start()
	if err := errors.Join(m.Kill(), end(t, m)); err != nil {
		t.Errorf("Kill: %v", err)
	}
	if left := sides(t, dir); len(left) != 0 {
		t.Errorf("processes in the virtual machine: %v", left)
	}
	if names := exported(t, d, b); names["etc/from-the-image"] != "image\n" || names["etc/of-the-machine"] != "machine\n" {
		t.Errorf("exported: %q", names)
	}
	for range 2 {
		if err := d.Remove(t.Context(), b.ID, b.Dir); err != nil {
			t.Errorf("Remove: %v", err)
		}
	}
	if _, err := os.Stat(filepath.Dir(kept[0])); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Remove the machine's folder is there: %v", err)
	}
	if _, err := d.Export(t.Context(), b.ID, b.Dir); machine.CodeOf(err) != "machine.unchanged" {
		t.Errorf("Export after Remove: %v", err)
	}
}

// exported returns the small files of an export.
func exported(t *testing.T, d *lima.Driver, b machine.Boot) map[string]string {
	t.Helper()
	r, err := d.Export(t.Context(), b.ID, b.Dir)
	if err != nil {
		t.Fatalf("Export: %v", err)
	}
	defer func() { _ = r.Close() }()
	out := map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(io.LimitReader(tr, 1<<16))
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimPrefix(h.Name, "./")] = string(data)
	}
	return out
}
