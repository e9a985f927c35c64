package nix

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/machine"
)

func TestInstallable(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.MkdirAll("examples/web", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		o    Options
		want string
		code string
	}{
		{Options{Flake: "github:o/r", System: "x86_64-linux"}, "github:o/r#packages.x86_64-linux.default", ""},
		{Options{Flake: "github:o/r?dir=nix", Profile: "web", System: "aarch64-linux"}, "github:o/r?dir=nix#packages.aarch64-linux.web", ""},
		{Options{Flake: "github:o/r#web", System: "x86_64-linux"}, "github:o/r#packages.x86_64-linux.web", ""},
		{Options{Flake: "github:o/r#packages.x86_64-linux.web"}, "github:o/r#packages.x86_64-linux.web", ""},
		{Options{Flake: ".", System: "x86_64-linux"}, dir + "#packages.x86_64-linux.default", ""},
		{Options{Flake: "#web", System: "x86_64-linux"}, dir + "#packages.x86_64-linux.web", ""},
		{Options{Flake: "examples/web", System: "x86_64-linux"}, dir + "/examples/web#packages.x86_64-linux.default", ""},
		{Options{Flake: "nixpkgs", System: "x86_64-linux"}, "nixpkgs#packages.x86_64-linux.default", ""},
		{Options{Flake: ""}, "", "input.flake"},
		{Options{Flake: "--help"}, "", "input.flake"},
		{Options{Flake: "a\nb"}, "", "input.flake"},
		{Options{Flake: ".#web", Profile: "db"}, "", "input.flake"},
		{Options{Flake: ".", Profile: "a.b"}, "", "input.profile"},
		{Options{Flake: ".", Profile: "-x"}, "", "input.profile"},
		{Options{Flake: ".#a;b"}, "", "input.profile"},
	} {
		got, err := c.o.target()
		if machine.CodeOf(err) != c.code {
			t.Errorf("%+v: error %v, want code %q", c.o, err, c.code)
			continue
		}
		if err == nil && got.installable() != c.want {
			t.Errorf("%+v: %s, want %s", c.o, got.installable(), c.want)
		}
		if e, ok := errors.AsType[*machine.Error](err); ok && (e.ExitCode() != machine.ExitUsage || e.Remedy == "") {
			t.Errorf("%+v: exit %d, remedy %q", c.o, e.ExitCode(), e.Remedy)
		}
	}
}

// The whole command line that nix gets. A fake nix writes its arguments down, one a line.
func TestArguments(t *testing.T) {
	fake := fakeNix(t, `printf '%s\n' "$@" >>"$HOME/args"; echo '[{"drvPath":"/x.drv","outputs":{"out":"'"$HOME"'/out"}}]'`)
	home := t.TempDir()
	t.Setenv("HOME", home)
	writeGuest(t, filepath.Join(home, "out"))
	o := Options{
		Flake: "github:o/r", Profile: "web", System: "x86_64-linux", Offline: true, Program: fake,
		Inputs: map[string]string{"nixpkgs": "path:/p", "mvm": "path:/m"}, Args: []string{"--cores", "2"},
	}
	if _, err := Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	o.OutLink, o.Offline, o.Inputs, o.Args = "/l", false, nil, nil
	if _, err := Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if err := Check(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(home, "args"))
	if err != nil {
		t.Fatal(err)
	}
	const start = "--extra-experimental-features|nix-command flakes|--log-format|internal-json|"
	want := start + "build|--json|--no-link|--offline|--override-input|mvm|path:/m|--override-input|nixpkgs|path:/p|--cores|2|github:o/r#packages.x86_64-linux.web|" +
		start + "build|--json|--out-link|/l|github:o/r#packages.x86_64-linux.web|" +
		start + "flake|check|github:o/r|"
	if d := cmp.Diff(strings.Split(want, "|"), strings.Split(string(got), "\n")); d != "" {
		t.Error(d)
	}
}

func TestEnvironment(t *testing.T) {
	got := environment([]string{"HOME=/h", "NIX_PATH=x", "AWS_SECRET_ACCESS_KEY=s", "https_proxy=p", "LD_PRELOAD=e", "LC_ALL=de_DE", "SSL_CERT_FILE=c", "MVM_X=y"})
	want := []string{"HOME=/h", "NIX_PATH=x", "https_proxy=p", "SSL_CERT_FILE=c", "LC_ALL=C", "GIT_TERMINAL_PROMPT=0"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestWhatIsNoGuest(t *testing.T) {
	for name, c := range map[string]struct {
		make func(dir string) error
		code string
	}{
		"nothing there": {func(dir string) error { return nil }, "nix.output"},
		"a link instead of an archive": {func(dir string) error {
			if err := os.WriteFile(filepath.Join(dir, "image.json"), []byte("{}"), 0o644); err != nil {
				return err
			}
			return os.Symlink("/etc/passwd", filepath.Join(dir, "rootfs.tar"))
		}, "nix.output"},
		"another system": {func(dir string) error {
			for n, s := range map[string]string{"image.json": "{}", "rootfs.tar": "", "guest.json": `{"system":"riscv64-linux"}`} {
				if err := os.WriteFile(filepath.Join(dir, n), []byte(s), 0o644); err != nil {
					return err
				}
			}
			return nil
		}, "nix.system"},
	} {
		out := filepath.Join(t.TempDir(), "0123-guest")
		if err := os.Mkdir(out, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := c.make(out); err != nil {
			t.Fatal(err)
		}
		_, err := readResult(t.Context(), Options{}, []byte(`[{"drvPath":"/d","outputs":{"out":"`+out+`"}}]`), target{ref: "/f", system: "x86_64-linux", profile: "default"})
		if machine.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	for _, out := range []string{"", "null", "[]", `[{"outputs":{}}]`, `[{"outputs":{"out":"relative"}}]`, `{"a":`} {
		if _, err := readResult(t.Context(), Options{}, []byte(out), target{}); machine.CodeOf(err) != "nix.protocol" {
			t.Errorf("%q: %v", out, err)
		}
	}
}

func TestMissingNix(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Build(t.Context(), Options{Flake: "."})
	e, ok := errors.AsType[*machine.Error](err)
	if !ok || e.Code != "nix.missing" || !strings.Contains(e.Remedy, "apt-get install nix-bin") {
		t.Fatalf("%+v", err)
	}
	if !strings.Contains(installHint("darwin"), "Linux builder") {
		t.Error("no word about builders on macOS")
	}
}

// Messages as Nix 2.8 and later versions give them.
func TestExplain(t *testing.T) {
	local := target{
		ref: "/f", shown: ".", local: "/f", system: "x86_64-linux", profile: "web",
		flags: []string{"--override-input", "nixpkgs", "path:/my pkgs"},
	}
	top := t.TempDir()
	if err := os.MkdirAll(filepath.Join(top, ".git"), 0o700); err != nil {
		t.Fatal(err)
	}
	below := local
	below.local = filepath.Join(top, "nix", "web") // a flake in a folder of the repository
	const features = "nix --extra-experimental-features 'nix-command flakes' "
	remote := target{ref: "github:o/r", shown: "github:o/r", system: "x86_64-linux", profile: "web"}
	for _, c := range []struct {
		t             target
		text          string
		code, message string
		remedy        string // a part of it
	}{
		{local, "could not find a flake.nix file", "nix.flake", "there is no flake.nix in .", "template init"},
		{local, "path '/f' does not contain a 'flake.nix', searching up", "nix.flake", "there is no flake.nix in .", ""},
		{local, "source tree referenced by 'path:/f' does not contain a '/flake.nix' file", "nix.flake", "there is no flake.nix in .", ""},
		{remote, "getting status of '/nix/store/lix0yl09i20r4ly3sifs9n5a6phbnrs4-source/flake.nix': No such file or directory", "nix.flake", "the flake github:o/r lacks its file flake.nix", ""},
		{below, "getting status of '/nix/store/lix0yl09i20r4ly3sifs9n5a6phbnrs4-source/app/main file.py': No such file or directory", "nix.untracked", "the flake needs app/main file.py, and it is not there or not tracked by Git", "git -C " + top + " add 'app/main file.py'"},
		{local, "getting status of '/nix/store/lix0yl09i20r4ly3sifs9n5a6phbnrs4-source/app/main.py': No such file or directory", "nix.flake", "the flake . needs its file app/main.py, and it is not there", "write the file"},
		{local, "the build users group 'nixbld' has no members", "nix.setup", "Nix has no users to run builds as", "build-users-group ="},
		{local, "Path 'nix/a.nix' in the repository \"/f\" is not tracked by Git.\n\nTo make it visible to Nix, run: …", "nix.untracked", "the flake needs nix/a.nix, and it is not there or not tracked by Git", "git -C /f add nix/a.nix"},
		{local, "flake 'path:/f' does not provide attribute 'packages.x86_64-linux.packages.x86_64-linux.web' or 'packages.x86_64-linux.web'", "nix.attribute", "the flake . has no packages.x86_64-linux.web", features + "flake show --override-input nixpkgs 'path:/my pkgs' /f"},
		{local, "flake output attribute 'packages.x86_64-linux.web' is not a derivation", "nix.output", "/f#packages.x86_64-linux.web is not a guest, and nothing that can be built", "mkGuest"},
		{local, "hash mismatch in fixed-output derivation '/nix/store/a2zqjxn7pcms182w7xvfr7n6ndyb1h5z-src.drv':\n  specified: sha256-AAA=\n     got:    sha256-mOp=", "nix.hash", "what was downloaded for src is not what the flake says", "sha256-mOp="},
		{local, "Package ‘steam-1.0’ in /nix/x.nix:1 has an unfree license (‘unfree’), refusing to evaluate.", "nix.refused", "nixpkgs refuses steam-1.0: unfree", "allowUnfree"},
		{local, "Package ‘a’ in /x is marked as broken, refusing to evaluate.", "nix.refused", "nixpkgs refuses a: marked as broken", ""},
		{local, "a 'aarch64-linux' with features {} is required to build '/nix/store/x.drv', but I am a 'x86_64-linux' with features {kvm}", "nix.system", "this host cannot build for aarch64-linux", "builder"},
		{local, "Cannot build '/nix/store/x.drv'.\nReason: required system or feature not available\nRequired system: 'aarch64-linux' with features {}\nCurrent system: 'x86_64-linux' with features {kvm}", "nix.system", "this host cannot build for aarch64-linux", "builder"},
		{local, "unable to download 'https://api.github.com/repos/o/r/commits/HEAD': Couldn't resolve host name (6)", "nix.download", "Nix cannot download https://api.github.com/repos/o/r/commits/HEAD: Couldn't resolve host name (6)", "--offline"},
		{local, "unable to download 'https://api.github.com/repos/o/r/commits/HEAD': HTTP error 404\n\nresponse body: …", "nix.download", "Nix cannot find https://api.github.com/repos/o/r/commits/HEAD", "access-tokens"},
		{local, "experimental Nix feature 'flakes' is disabled; use '--extra-experimental-features flakes' to override", "nix.features", "Nix was told not to use its feature flakes", "nix.conf"},
		{local, "unrecognised flag '--frob'", "nix.argument", "this Nix does not know the flag --frob", ""},
		{local, "the group 'nixbld' specified in 'build-users-group' does not exist", "nix.setup", "Nix has no users to run builds as", "nix-setup-systemd"},
		{local, "could not set permissions on '/nix/var/nix/profiles/per-user' to 755: Operation not permitted", "nix.setup", "you may not use this host's Nix store: could not set permissions on '/nix/var/nix/profiles/per-user' to 755: Operation not permitted", "nix-daemon"},
		{local, "writing to file: No space left on device", "limit.disk", "there is no space left for Nix: No space left on device", "nix-collect-garbage"},
		{local, "mkGuest: web: services.x.user: there is no user \"y\"", "nix.guest", "mkGuest: web: services.x.user: there is no user \"y\"", "docs/nix.md"},
		{local, "builder for '/nix/store/y92bz4ar09wg7d9nwcjy1vs89pm92i58-web.drv' failed with exit code 3", "nix.build", "building web failed", features + "log /nix/store"},
		{local, "Cannot build '/nix/store/y92bz4ar09wg7d9nwcjy1vs89pm92i58-web.drv'.\nReason: builder failed with exit code 1.", "nix.build", "building web failed", ""},
		{local, "input 'weird:foo' is unsupported", "nix.flake", `"." is neither a folder nor a flake that Nix knows`, ""},
		{local, "cannot find flake 'flake:nosuch' in the flake registries", "nix.flake", `"." is neither a folder nor a flake that Nix knows`, ""},
		{local, "syntax error, unexpected ';'\n\n at /f/flake.nix:1:57", "nix.eval", "flake.nix:1: syntax error, unexpected ';'", features + "eval --show-trace --override-input nixpkgs 'path:/my pkgs' '/f#packages.x86_64-linux.web'"},
		{local, "undefined variable 'x'\n\n       at /nix/store/7n738mf4akbcxz7a9rr6wc98wn8823lr-source/lib/a.nix:3:37:\n", "nix.eval", "lib/a.nix:3: undefined variable 'x'", ""},
	} {
		e := c.t.classify(&failure{err: errors.New("exit status 1"), causes: []string{c.text}})
		if e.Code != c.code || e.Message != c.message || !strings.Contains(e.Remedy, c.remedy) || e.Remedy == "" {
			t.Errorf("%.60q:\n got %s: %s; %s\nwant %s: %s; …%s", c.text, e.Code, e.Message, e.Remedy, c.code, c.message, c.remedy)
		}
	}
	// The disk that a build filled; a build's own words otherwise decide nothing.
	f := &failure{causes: []string{"builder for '/nix/store/h-web.drv' failed with exit code 1"}, tail: []string{"cp: write: No space left on device"}}
	if e := local.classify(f); e.Code != "limit.disk" {
		t.Errorf("full disk: %+v", e)
	}
	f.tail = []string{"error: experimental Nix feature 'x' is disabled", "could not find a flake.nix file"}
	if e := local.classify(f); e.Code != "nix.build" {
		t.Errorf("a build's output was believed: %+v", e)
	}
}

func fakeNix(t *testing.T, script string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "nix")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

func writeGuest(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{rootfsFile, imageFile} {
		if err := os.WriteFile(filepath.Join(dir, n), []byte("{}"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
