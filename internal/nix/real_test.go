package nix

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// realNix gives the test a nix with a store of its own and returns what a flake needs here: the
// library, and a stand-in for nixpkgs made of this host's programs.
func realNix(t *testing.T) Options {
	t.Helper()
	if _, err := exec.LookPath("nix"); err != nil {
		t.Skip("missing: nix (scripts/dev-setup.sh installs it)")
	}
	dir := t.TempDir()
	pkgs := filepath.Join(dir, "pkgs")
	if out, err := exec.CommandContext(t.Context(), "sh", "testdata/hostpkgs/prepare.sh", pkgs).CombinedOutput(); err != nil {
		t.Skipf("missing: %s", out)
	}
	t.Cleanup(func() { // a store is read-only
		_ = filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				_ = os.Chmod(p, 0o700)
			}
			return nil
		})
	})
	for name, value := range map[string]string{
		"NIX_STORE_DIR": dir + "/store", "NIX_STATE_DIR": dir + "/var", "NIX_LOG_DIR": dir + "/log", "NIX_CONF_DIR": dir + "/conf",
		"XDG_CACHE_HOME": dir + "/cache", "HOME": dir, "USER": "root",
		"NIX_CONFIG": "build-users-group =\nsandbox = false\nsubstitute = false\nflake-registry =",
	} {
		t.Setenv(name, value)
	}
	lib, err := WriteLibrary(filepath.Join(dir, "lib"))
	if err != nil {
		t.Fatal(err)
	}
	return Options{Offline: true, Inputs: map[string]string{"mvm": lib, "nixpkgs": "path:" + pkgs}}
}

// source writes a flake into a folder of its own.
func source(t *testing.T, flake string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "flake.nix"), []byte(flake), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// guestFlake is a flake whose default package is one call of mkGuest.
func guestFlake(arguments string) string {
	return `{
  inputs = { mvm.url = "github:mvmctl/mvmctl?dir=nix"; nixpkgs.follows = "mvm/nixpkgs"; };
  outputs = { self, nixpkgs, mvm }: {
    packages = mvm.lib.forSystems (system:
      let pkgs = nixpkgs.legacyPackages.${system}; in {
        default = mvm.lib.mkGuest ({ inherit pkgs; name = "web"; } // ` + arguments + `);
      });
  };
}
`
}

// TestTemplatesBuild: every template can be checked and built, for both processors as far as
// that needs no program of the other; twice the same source is the same guest.
func TestTemplatesBuild(t *testing.T) {
	o := realNix(t)
	for _, tmpl := range Templates() {
		t.Run(tmpl.Name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := WriteTemplate(tmpl.Name, dir); err != nil {
				t.Fatal(err)
			}
			o := o
			o.Flake = dir
			if err := Check(t.Context(), o); err != nil {
				t.Fatalf("flake check: %+v", err)
			}
			expected, err := Evaluate(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			r, err := Build(t.Context(), o)
			if err != nil {
				t.Fatalf("build: %+v", err)
			}
			if r.Name != tmpl.Name || r.OutPath != expected.OutPath || r.Name != expected.Name || r.StoreHash != expected.StoreHash {
				t.Errorf("built %+v, evaluated %+v", r, expected)
			}
			o.System = "aarch64-linux"
			if hostSystem() == o.System {
				o.System = "x86_64-linux"
			}
			if other, err := Evaluate(t.Context(), o); err != nil || other.OutPath == r.OutPath {
				t.Errorf("for %s: %+v, %v", o.System, other, err)
			}
			if _, err := os.Lstat(filepath.Join(dir, "flake.lock")); err == nil {
				t.Error("a lock was written although an input was overridden")
			}
		})
	}
}

// TestGuestContents: owners, modes and links are in the archive as the flake says them.
func TestGuestContents(t *testing.T) {
	o := realNix(t)
	o.Flake = source(t, guestFlake(`{
    serviceGroup = "ops";
    users = { zoe = { }; adam = { uid = 1000; groups = [ "zoe" ]; }; };
    services.x = { command = [ "${pkgs.python3}/bin/python3" ]; user = "zoe"; };
    files."secret" = { text = "s"; mode = "0640"; group = "ops"; };
    directories."/srv/shared" = { mode = "2770"; user = "adam"; group = "zoe"; };
  }`))
	r, err := Build(t.Context(), o)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	files := readTar(t, r.RootfsTar)
	for name, want := range map[string]string{
		"etc/secret": "0:900 640", "srv/shared/": "1000:1001 2770", "home/zoe/": "1001:1001 750", "tmp/": "0:0 1777", "root/": "0:0 700",
		"etc/passwd": "0:0 644", "bin/": "0:0 755", "bin/sh": "0:0 777",
	} {
		if h := files[name].Header; h == nil || fmt.Sprintf("%d:%d %o", h.Uid, h.Gid, h.Mode) != want {
			t.Errorf("%s: %+v, want %s", name, h, want)
		}
	}
	const group = "adam:x:1000:\nops:x:900:zoe\nroot:x:0:\nzoe:x:1001:adam\nservice:x:900:\n"
	if d := cmp.Diff(group, files["etc/group"].text); d != "" {
		t.Error(d)
	}
	// What only a command names is in the image too, and what nothing names is not.
	var python, node bool
	for name := range files {
		python = python || strings.Contains(name, "-python3/bin/python3")
		node = node || strings.Contains(name, "-node/")
	}
	if !python || node {
		t.Errorf("python3 is there: %v; nodejs is there: %v", python, node)
	}
}

type tarFile struct {
	*tar.Header
	text string
}

func readTar(t *testing.T, name string) map[string]tarFile {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := map[string]tarFile{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(io.LimitReader(r, 64<<10))
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = tarFile{h, string(text)}
	}
}

// TestSameInputSameGuest: another store, another folder, another time: the same bytes. A change
// makes another guest.
func TestSameInputSameGuest(t *testing.T) {
	o := realNix(t)
	text := guestFlake(`{ services.a.command = "exec sleep 1"; }`)
	o.Flake = source(t, text)
	first, err := Build(t.Context(), o)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	o.Flake = source(t, text)
	if again, err := Build(t.Context(), o); err != nil || again.StoreHash != first.StoreHash {
		t.Errorf("%+v, %v; want %s", again, err, first.StoreHash)
	}
	o.Args = []string{"--rebuild"} // Nix compares the bytes
	if _, err := Build(t.Context(), o); err != nil {
		t.Errorf("built anew: %+v", err)
	}
	o.Args, o.Flake = nil, source(t, strings.Replace(text, "sleep 1", "sleep 2", 1))
	if other, err := Build(t.Context(), o); err != nil || other.StoreHash == first.StoreHash {
		t.Errorf("after a change: %+v, %v", other, err)
	}
}

// TestMistakes: what is wrong with a flake is said in one line that names the place, with a
// remedy, and in words of bounded size.
func TestMistakes(t *testing.T) {
	o := realNix(t)
	for _, c := range []struct{ name, flake, code, message string }{
		{"syntax", "{\n  outputs = { self }: {\n    packages = ;\n  };\n}", "nix.eval", "flake.nix:3: syntax error"},
		{"in a library", "{\n  outputs = { self, mvm }: {\n    packages." + hostSystem() + ".default =\n      (mvm.lib.forSystems 1).aarch64-linux;\n  };\n  inputs.mvm.url = \"github:o/r\";\n}", "nix.eval", "lib/default.nix:"},
		{"undefined", "{\n  outputs = { self }:\n    nothing;\n}", "nix.eval", "flake.nix:3: undefined variable 'nothing'"},
		{"no such package", `{ outputs = { self }: { packages.` + hostSystem() + `.other = 1; }; }`, "nix.attribute", "has no packages." + hostSystem() + ".default"},
		{"not a package", `{ outputs = { self }: { packages.` + hostSystem() + `.default = 1; }; }`, "nix.output", "is not a guest"},
		{"no lock, no network", `{ inputs.x.url = "github:o/r"; outputs = { self, x }: { }; }`, "nix.download", "api.github.com"},
		{"megabytes", `{ outputs = { self }: { packages.` + hostSystem() + `.default = builtins.deepSeq (builtins.genList (i: builtins.trace (builtins.concatStringsSep "" (builtins.genList (x: "spam${toString i}") 2000)) i) 500) (throw "the end"); }; }`, "nix.failed", "the end"},
		{"unknown argument", guestFlake(`{ pacakges = [ ]; }`), "nix.guest", `mkGuest: web: arguments: unknown argument "pacakges"; there are: pkgs, name, packages`},
		{"unknown argument of a service", guestFlake(`{ services.x = { command = "x"; logfile = "/l"; }; }`), "nix.guest", `mkGuest: web: services.x: unknown argument "logfile"`},
		{"kind of an argument", guestFlake(`{ services.x.command = 1; }`), "nix.guest", "mkGuest: web: services.x.command: expected a string or a list of strings, got an integer"},
		{"user of a service", guestFlake(`{ services.x = { command = "x"; user = "joe"; }; }`), "nix.guest", `mkGuest: web: services.x.user: there is no user "joe"`},
		{"grace", guestFlake(`{ healthChecks.x = { command = "x"; grace = "soon"; }; }`), "nix.guest", `mkGuest: web: healthChecks.x.grace: "soon" is not a duration`},
		{"hostname", guestFlake(`{ hostname = "a b"; }`), "nix.guest", `mkGuest: web: hostname: "a b" is not allowed`},
		{"policy", guestFlake(`{ security.access.shell = true; }`), "nix.guest", `mkGuest: web: security.access: unknown argument "shell"`},
		{"name", guestFlake(`{ name = "Web"; }`), "nix.guest", `mkGuest: Web: name: "Web" is not allowed`},
		{"helper", guestFlake(`{ include = [ (mvm.lib.mkStaticSite { inherit pkgs; name = "s"; }) ]; }`), "nix.guest", "mkStaticSite: s: src: this argument is required"},
		{"port", guestFlake(`{ ports = [ 70000 ]; }`), "nix.guest", "mkGuest: web: ports: 70000 is out of range"},
		{"no node", guestFlake(`{ pkgs = removeAttrs pkgs [ "busybox" ]; shell = null; }`), "nix.guest", "mkGuest: web: pkgs: it has no busybox"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := o
			o.Flake = source(t, c.flake)
			if !strings.Contains(c.flake, "mvm.url") {
				o.Inputs = nil
			}
			_, err := Build(t.Context(), o)
			e, ok := errors.AsType[*machine.Error](err)
			if !ok || e.Code != c.code || !strings.Contains(e.Message, c.message) || e.Remedy == "" {
				t.Fatalf("%+v, want %s: %s", err, c.code, c.message)
			}
			if len(e.Detail) > maxDetail+100 || len(e.Message) > 600 {
				t.Errorf("%d bytes of detail, %d of message", len(e.Detail), len(e.Message))
			}
			if c.code == "nix.guest" {
				if err := Check(t.Context(), o); machine.CodeOf(err) != c.code {
					t.Errorf("flake check: %v", err)
				}
			}
		})
	}
}

// slowFlake is a guest whose build says that it has begun, and then takes for ever.
func slowFlake(t *testing.T) (flake, started string) {
	t.Helper()
	started = filepath.Join(t.TempDir(), "started")
	if err := syscall.Mkfifo(started, 0o600); err != nil {
		t.Fatal(err)
	}
	return source(t, `{ inputs.nixpkgs.url = "github:NixOS/nixpkgs"; outputs = { self, nixpkgs }: { packages.`+hostSystem()+`.default = derivation {
      name = "slow"; system = "`+hostSystem()+`"; builder = "${nixpkgs.legacyPackages.`+hostSystem()+`.busybox}/bin/sh";
      args = [ "-c" "echo $$ >`+started+`; while :; do sleep 1000; done" ]; PATH = "${nixpkgs.legacyPackages.`+hostSystem()+`.busybox}/bin";
    }; }; }`), started
}

// TestInterruptedBuild: when the context ends, nix and the builder end with it.
func TestInterruptedBuild(t *testing.T) {
	o := realNix(t)
	delete(o.Inputs, "mvm")
	flake, started := slowFlake(t)
	o.Flake = flake
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := Build(ctx, o)
		done <- err
	}()
	pid := builderOf(t, started, done)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if !gone(pid) {
		t.Errorf("the builder %d goes on", pid)
	}
}

// TestKilledNix: nix killed from outside is an error of its own, and leaves no builder.
func TestKilledNix(t *testing.T) {
	o := realNix(t)
	delete(o.Inputs, "mvm")
	flake, started := slowFlake(t)
	o.Flake = flake
	done := make(chan error, 1)
	go func() {
		_, err := Build(t.Context(), o)
		done <- err
	}()
	pid := builderOf(t, started, done)
	// Without a daemon the builder is a child of nix.
	parent := parentOf(t, pid)
	if err := syscall.Kill(parent, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-done; machine.CodeOf(err) != "nix.killed" {
		t.Errorf("%+v", err)
	}
	if !gone(pid) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		t.Errorf("the builder %d goes on", pid)
	}
}

// builderOf waits until the build has begun and returns its process.
func builderOf(t *testing.T, fifo string, done <-chan error) int {
	t.Helper()
	line := make(chan []byte, 1)
	go func() {
		data, _ := os.ReadFile(fifo)
		line <- data
	}()
	select {
	case data := <-line:
		var pid int
		if _, err := fmt.Sscan(string(data), &pid); err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		return pid
	case err := <-done:
		t.Fatalf("the build ended: %+v", err)
	case <-time.After(time.Minute):
		t.Fatal("the build did not begin")
	}
	return 0
}

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Skipf("missing: /proc: %v", err)
	}
	var parent int
	var state string
	if _, err := fmt.Sscan(string(data[bytes.LastIndexByte(data, ')')+1:]), &state, &parent); err != nil {
		t.Fatal(err)
	}
	return parent
}

// gone reports whether a process has ended, waiting for what init has to reap.
func gone(pid int) bool {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || bytes.Contains(data, []byte(") Z ")) {
			return true
		}
	}
	return false
}

// TestProfilesOfAFlake: a missing package's error names those that exist.
func TestProfilesOfAFlake(t *testing.T) {
	o := realNix(t)
	o.Flake, o.Profile = source(t, guestFlake(`{ }`)), "db"
	_, err := Build(t.Context(), o)
	e, ok := errors.AsType[*machine.Error](err)
	if !ok || e.Code != "nix.attribute" || !strings.HasSuffix(e.Remedy, ": default") {
		t.Errorf("%+v", err)
	}
	m, err := ReadMetadata(t.Context(), o)
	if _, has := m.Inputs["mvm"]; err != nil || !has {
		t.Errorf("%+v, %v", m, err)
	}
}
