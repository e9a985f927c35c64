package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// flakeLab is a lab with a real nix that has a store of its own, and with a stand-in for nixpkgs
// made of this host's programs, because tests have no network.
type flakeLab struct {
	*lab
	pkgs string
	nix  string // the folder of Nix's store and state
}

func newFlakeLab(t *testing.T, driver string) *flakeLab {
	t.Helper()
	if _, err := exec.LookPath("nix"); err != nil {
		t.Skip("missing: nix (scripts/dev-setup.sh installs it)")
	}
	pkgs := filepath.Join(t.TempDir(), "pkgs")
	if out, err := exec.CommandContext(t.Context(), "sh", "../internal/nix/testdata/hostpkgs/prepare.sh", pkgs).CombinedOutput(); err != nil {
		t.Skipf("missing: %s", lastLines(out, 3))
	}
	l := newLab(t, driver, false)
	if driver == "qemu" {
		l.ownCache()
	}
	// Not below /tmp or /root: in the guest, store paths are at the same place, where the first is
	// empty and services may not enter the second.
	dir, err := os.MkdirTemp("/var/tmp", "mvm-nix-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		out, err := exec.Command("sh", "-c", `chmod -R u+w "$1" && rm -rf "$1"`, "sh", dir).CombinedOutput()
		if err != nil {
			t.Errorf("removing Nix's store: %v: %s", err, out)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l.env = append(l.env,
		"NIX_STORE_DIR="+dir+"/store", "NIX_STATE_DIR="+dir+"/var", "NIX_LOG_DIR="+dir+"/log", "NIX_CONF_DIR="+dir+"/conf", "XDG_CACHE_HOME="+dir+"/cache", "USER=root",
		"NIX_CONFIG=build-users-group =\nsandbox = false\nsubstitute = false\nflake-registry =")
	return &flakeLab{lab: l, pkgs: "nixpkgs=path:" + pkgs, nix: dir}
}

// flags returns what every command about a flake needs here.
func (l *flakeLab) flags(args ...string) []string {
	return append(args, "--override-input", l.pkgs, "--offline")
}

// write writes a flake with files beside it.
func (l *flakeLab) write(name string, files map[string]string) string {
	l.t.Helper()
	dir := filepath.Join(l.dir, name)
	for f, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, f)), 0o755); err != nil {
			l.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, f), []byte(text), 0o755); err != nil {
			l.t.Fatal(err)
		}
	}
	return dir
}

// flake wraps an argument of mkGuest into a flake.
func flake(guest string) string {
	return `{
  inputs = { mvm.url = "github:mvmctl/mvmctl?dir=nix"; nixpkgs.follows = "mvm/nixpkgs"; };
  outputs = { self, nixpkgs, mvm }: {
    packages = mvm.lib.forSystems (system:
      let pkgs = nixpkgs.legacyPackages.${system}; in {
        default = mvm.lib.mkGuest ` + guest + `;
      });
  };
}
`
}

const everything = `{
  inherit pkgs;
  name = "shop";
  hostname = "shop.example";
  serviceGroup = "ops";
  packages = [ pkgs.split ];
  env.REGION = "north";
  users.clerk = { uid = 1234; home = "/var/lib/clerk"; };
  services.orders = {
    user = "clerk";
    preStart = "echo prepared by $(id -un) >/var/lib/clerk/prepared";
    command = [ "/bin/sh" "-c" "echo $GREETING in $REGION of $(pwd) as $(id -un):$(id -G); cat prepared; exec sleep 100000" ];
    env.GREETING = "hello there";
    workingDir = "/var/lib/clerk";
    logFile = "/var/log/orders.log";
  };
  services.plain.command = "exec sleep 100000";
  healthChecks.orders = { command = "test -e /var/lib/clerk/open"; service = "orders"; interval = "1s"; grace = "1m"; retries = 1; };
  files."motd" = "welcome\n";
  directories."/srv/stock" = { mode = "2750"; user = "clerk"; group = "ops"; };
  security.access = { console = false; copy = false; };
  ports = [ 9 ];
  include = [
    (mvm.lib.mkStaticSite { inherit pkgs; name = "site"; src = ./site; port = 8080; })
    (mvm.lib.mkPythonService { inherit pkgs; name = "py"; src = ./py; entrypoint = "main.py"; pythonPackages = ps: [ ps.flask ]; env.PORT = 8081; port = 8081; healthPath = "/status"; })
    (mvm.lib.mkNodeService { inherit pkgs; name = "js"; src = ./js; entrypoint = [ "main.js" "--fast" ]; })
  ];
}`

// TestFlakeGuest: what a flake says of services, accounts, files and policy is so in a guest
// under real QEMU.
func TestFlakeGuest(t *testing.T) {
	l := newFlakeLab(t, "qemu")
	dir := l.write("shop", map[string]string{
		"flake.nix":       flake(everything),
		"site/index.html": "a page of the shop\n",
		"py/main.py":      "echo $PYTHON_PACKAGES $PYTHONUNBUFFERED\nexec httpd -f -p $PORT -h ${0%/*}\n",
		"py/status":       "fine\n",
		"js/main.js":      "echo $NODE_ENV $1 $(id -un)\nexec sleep 100000\n",
	})
	l.must(l.flags("up", "-d", "--flake", dir, "--name", "shop", "-p", "0:8080", "--timeout", "5m")...)
	sh := func(script string) string {
		t.Helper()
		return strings.TrimSpace(l.must("exec", "shop", "--", "/bin/sh", "-c", script))
	}
	l.health("shop", map[string]string{"site": "healthy", "py": "healthy", "orders": "starting"})
	l.host("a page of the shop", "curl", "-s", "http://127.0.0.1:"+l.port("shop")+"/")
	for _, c := range []struct{ script, want string }{
		{"hostname", "shop.example"},
		{"id clerk", "uid=1234(clerk) gid=1234(clerk) groups=1234(clerk),900(ops)"},
		{"grep :900: /etc/group", "ops:x:900:clerk,js,py,site\nservice:x:900:"},
		{"stat -c '%u:%g %a' /var/lib/clerk /srv/stock /tmp", "1234:1234 750\n1234:900 2750\n0:0 1777"},
		{"cat /etc/motd; split", "welcome"},
		{"cat /etc/ssl/certs/ca-certificates.crt", "certificates"},
		{"wget -qO- http://127.0.0.1:8081/status", "fine"},
	} {
		if got := sh(c.script); got != c.want {
			t.Errorf("%s:\n got %q\nwant %q", c.script, got, c.want)
		}
	}
	const log = "hello there in north of /var/lib/clerk as clerk:1234 900\nprepared by clerk"
	if got := sh("until [ -s /var/log/orders.log ]; do sleep 0.1; done; cat /var/log/orders.log"); got != log {
		t.Errorf("log of orders: %q, want %q", got, log)
	}
	logs := l.must("logs", "shop")
	for _, want := range []string{"flask 1", "production --fast js", "hello there in north"} {
		if !strings.Contains(logs, want) {
			t.Errorf("the log lacks %q:\n%s", want, logs)
		}
	}
	for _, args := range [][]string{{"console", "shop"}, {"cp", "shop:/etc/motd", "m"}} {
		if r := l.run(args...); r.code != 125 || !strings.Contains(r.stderr, "does not allow") {
			t.Errorf("%v in spite of the flake's policy: %v", args, r)
		}
	}
	sh("touch /var/lib/clerk/open")
	l.health("shop", map[string]string{"site": "healthy", "py": "healthy", "orders": "healthy"})
	l.must("rm", "--force", "shop")
	l.nothingLeft()
}

// health waits until a machine's checks are as they should.
func (l *flakeLab) health(name string, want map[string]string) {
	l.t.Helper()
	var got map[string]string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		var d struct {
			Agent struct {
				Checks []struct{ Name, State string }
			}
		}
		if err := json.Unmarshal([]byte(l.must("inspect", "--json", name)), &d); err != nil {
			l.t.Fatal(err)
		}
		got = map[string]string{}
		same := true
		for _, c := range d.Agent.Checks {
			got[c.Name] = c.State
		}
		for n, s := range want {
			same = same && got[n] == s
		}
		if same {
			return
		}
	}
	l.t.Errorf("checks of %s: %v, want %v", name, got, want)
}

// site is a flake with a web site beside it.
func (l *flakeLab) site(name, page string) string {
	l.t.Helper()
	return l.write(name, map[string]string{
		"flake.nix": flake(`{
  inherit pkgs;
  name = "` + filepath.Base(name) + `";
  include = [ (mvm.lib.mkStaticSite { inherit pkgs; name = "site"; src = ./site; }) ];
}`),
		"site/index.html": page,
	})
}

// made is what build --json says of an image.
type made struct {
	ID, Name, Digest, Rootfs string
	Cached                   bool
}

// build builds a flake and returns what the command says of the image.
func (l *flakeLab) build(env []string, args ...string) made {
	l.t.Helper()
	var m made
	r := l.with(env, l.flags(append([]string{"build", "--json"}, args...)...)...)
	if err := json.Unmarshal([]byte(r.stdout), &m); r.code != 0 || err != nil {
		l.t.Fatalf("build %v: %v", args, r)
	}
	return m
}

// TestFlakeCaching: a guest that is in the image store is not built again, whoever cleaned up in
// between; a changed one is; and the same flake gives the same image in another world.
func TestFlakeCaching(t *testing.T) {
	l := newFlakeLab(t, "fake")
	dir := l.site("web", "one\n")
	first := l.build(nil, "--flake", dir)
	if first.Name != "web" || first.Cached || !strings.HasPrefix(first.Digest, "nix:") {
		t.Errorf("first: %+v", first)
	}
	// Nix cleans up. From here on a build would have to begin with busybox.
	drop := exec.Command("nix-store", "--gc", "--print-dead")
	drop.Env = l.env
	dead, err := drop.Output()
	if err != nil || !strings.Contains(string(dead), "-web-image\n") {
		t.Fatalf("%v: %s", err, dead)
	}
	gc := exec.Command("nix-store", "--gc")
	gc.Env = l.env
	if out, err := gc.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	again := l.build(nil, "--flake", dir, "-t", "other:1")
	if !again.Cached || again.ID != first.ID || again.Name != "other:1" || again.Digest != first.Digest {
		t.Errorf("again: %+v, first %+v", again, first)
	}
	if built, _ := filepath.Glob(l.nix + "/store/*-web-image"); len(built) != 0 {
		t.Errorf("it was built again: %v", built)
	}
	elsewhere := []string{"MVM_CACHE_DIR=" + l.dir + "/cache2"}
	if other := l.build(elsewhere, "--flake", l.site("copy/web", "one\n")); other.Cached || other.ID != first.ID || other.Rootfs != first.Rootfs {
		t.Errorf("elsewhere: %+v, first %+v", other, first)
	}
	l.site("web", "two\n")
	if changed := l.build(nil, "--flake", dir); changed.Cached || changed.ID == first.ID {
		t.Errorf("changed: %+v", changed)
	}
	l.must(l.flags("flake", "check", dir)...)
	if r := l.run(l.flags("build", "--flake", dir, "--profile", "db")...); r.code != 125 || !strings.Contains(r.stderr, "choose one with --profile: default") {
		t.Errorf("a profile that is not there: %v", r)
	}
	if r := l.with([]string{"PATH=" + t.TempDir()}, "build", "--flake", dir); r.code != 125 || !strings.Contains(r.stderr, "apt-get install nix-bin") {
		t.Errorf("without nix: %v", r)
	}
}

// TestFlakeInterrupted: Ctrl-C during a build leaves neither nix nor a builder, and no image.
func TestFlakeInterrupted(t *testing.T) {
	l := newFlakeLab(t, "fake")
	started := filepath.Join(l.dir, "started")
	if err := syscall.Mkfifo(started, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := l.write("slow", map[string]string{"flake.nix": flake(`{
  inherit pkgs;
  name = "slow";
  packages = [ (derivation {
    name = "stuck"; inherit system; builder = "${pkgs.busybox}/bin/sh"; PATH = "${pkgs.busybox}/bin";
    args = [ "-c" "echo $$ >` + started + `; while :; do sleep 1000; done" ];
  }) ];
}`)})
	b := l.begin(l.flags("up", "--flake", dir, "-d", "--name", "slow")...)
	pid := make(chan string, 1)
	go func() {
		data, _ := os.ReadFile(started)
		pid <- strings.TrimSpace(string(data))
	}()
	var builder string
	select {
	case builder = <-pid:
	case <-time.After(commandTime):
		t.Fatal("the build did not begin")
	}
	if code := b.interrupt(); code != 130 {
		t.Errorf("exit %d:\n%s", code, strings.Join(b.seen, "\n"))
	}
	if line, err := os.ReadFile("/proc/" + builder + "/cmdline"); err == nil && len(line) > 0 {
		t.Errorf("the builder goes on: %s %q", builder, line)
	}
	if v := l.machine("slow"); v != nil {
		t.Errorf("left: %+v", v)
	}
	if out := l.must("image", "list", "--json"); strings.Contains(out, "slow") {
		t.Errorf("an image is left: %s", out)
	}
	l.nothingLeft()
}

// begun is a command in the background.
type begun struct {
	t    *testing.T
	cmd  *exec.Cmd
	text chan string // what it prints, line by line; closed at its end
	seen []string
}

func (l *flakeLab) begin(args ...string) *begun {
	l.t.Helper()
	b := &begun{t: l.t, cmd: l.command(context.Background(), nil, args...), text: make(chan string, 1000)}
	r, w, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	b.cmd.Stdout, b.cmd.Stderr = w, w
	if err := b.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	_ = w.Close()
	l.t.Cleanup(func() { _ = b.cmd.Process.Kill() })
	go func() {
		defer close(b.text)
		for s := bufio.NewScanner(r); s.Scan(); {
			b.text <- s.Text()
		}
	}()
	return b
}

// expect waits for a line with a text.
func (b *begun) expect(want string) {
	b.t.Helper()
	deadline := time.After(commandTime)
	for {
		select {
		case line, ok := <-b.text:
			if b.seen = append(b.seen, line); !ok {
				b.t.Fatalf("it ended without %q:\n%s", want, strings.Join(b.seen, "\n"))
			}
			if strings.Contains(line, want) {
				return
			}
		case <-deadline:
			b.t.Fatalf("no %q:\n%s", want, strings.Join(b.seen, "\n"))
		}
	}
}

// interrupt is Ctrl-C. It returns the exit code.
func (b *begun) interrupt() int {
	b.t.Helper()
	if err := b.cmd.Process.Signal(syscall.SIGINT); err != nil {
		b.t.Fatal(err)
	}
	for line := range b.text {
		b.seen = append(b.seen, line)
	}
	_ = b.cmd.Wait()
	return b.cmd.ProcessState.ExitCode()
}

// TestBuildWatch: a change of the source is a new build, a mistake ends nothing, Ctrl-C does.
func TestBuildWatch(t *testing.T) {
	l := newFlakeLab(t, "fake")
	dir := l.site("web", "one\n")
	b := l.begin(l.flags("build", "--flake", dir, "--watch", "--quiet")...)
	b.expect("")
	first := b.seen[len(b.seen)-1]
	l.site("web", "two\n")
	b.expect("")
	if second := b.seen[len(b.seen)-1]; len(second) != 64 || second == first {
		t.Errorf("images %s and %s", first, second)
	}
	l.write("web", map[string]string{"flake.nix": "{ outputs = }"})
	b.expect("flake.nix:1: syntax error")
	l.site("web", "one\n")
	b.expect(first)
	if code := b.interrupt(); code != 130 {
		t.Errorf("exit %d:\n%s", code, strings.Join(b.seen, "\n"))
	}
	l.nothingLeft()
}

// TestUpWatch: a change of the source is a new machine in the old one's place; Ctrl-C leaves none.
func TestUpWatch(t *testing.T) {
	l := newFlakeLab(t, "qemu")
	dir := l.site("web", "one\n")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(ln.Addr().String())
	_ = ln.Close()
	if err != nil {
		t.Fatal(err)
	}
	up := l.begin(l.flags("up", "--watch", "--flake", dir, "--name", "web", "-p", port+":8080", "--timeout", "5m")...)
	up.expect("has no program of its own")
	l.host("one", "curl", "-s", "http://127.0.0.1:"+port+"/")
	l.site("web", "two\n")
	up.expect("has no program of its own")
	l.host("two", "curl", "-s", "http://127.0.0.1:"+port+"/")
	l.write("web", map[string]string{"README": "no part of the site\n"})
	up.expect("the machine goes on")
	if r := l.run(l.flags("up", "--watch", "--flake", dir, "--name", "web")...); r.code != 125 || !strings.Contains(r.stderr, "exists already") {
		t.Errorf("a second one of that name: %v", r)
	}
	if code := up.interrupt(); code != 130 {
		t.Errorf("exit %d:\n%s", code, strings.Join(up.seen, "\n"))
	}
	if v := l.machine("web"); v != nil {
		t.Errorf("left: %+v", v)
	}
	l.nothingLeft()
}
