package cli

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/config"
	"github.com/mvmctl/mvmctl/internal/doctor"
	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/machine"
)

func someMachines() []machine.View {
	three := 3
	now := time.Now()
	db := view("db", machine.StateFailed)
	db.Created, db.Status = now.Add(-26*time.Hour), &machine.Status{ExitCode: &three}
	web := view("web", machine.StateRunning)
	web.Created, web.Spec.Labels = now.Add(-3*time.Minute-time.Second), map[string]string{"team": "blue"}
	web.Status = &machine.Status{Started: now, Ports: []machine.Port{{Host: "127.0.0.1", HostPort: 43210, GuestPort: 80, Proto: "tcp"}}}
	evil := view("evil", machine.StateExited)
	evil.Created, evil.Spec.Image = now, "a\x1b[2Jb"
	return []machine.View{db, evil, {Record: machine.Record{Name: "hurt"}, State: machine.StateCorrupt, Problem: "unreadable"}, web}
}

func TestLsTable(t *testing.T) {
	a := call{eng: &scripted{views: someMachines()}}.run(t, "ls")
	want := strings.TrimLeft(`
NAME  STATE       IMAGE      BACKEND  ISOLATION  CPUS  MEMORY  PORTS                AGE
db    failed (3)  minimal    fake     none       2     1 GiB                        26h
evil  exited      a\x1b[2Jb  fake     none       2     1 GiB                        0s
hurt  corrupt
web   running     minimal    fake     none       2     1 GiB   127.0.0.1:43210->80  3m
`, "\n")
	if diff := cmp.Diff(want, a.out); a.code != 0 || a.err != "note: unreadable\n" || diff != "" {
		t.Errorf("exit code %d, %q (-want +got):\n%s", a.code, a.err, diff)
	}
}

func TestLsFilters(t *testing.T) {
	for args, want := range map[string]string{
		"ls -q":                               "db evil hurt web",
		"ps -aq":                              "db evil hurt web",
		"ls -rq":                              "web",
		"ls -q --state failed --state exited": "db evil",
		"status -q web":                       "web",
		"ls -q --label team":                  "web",
		"ls -q --label team=blue":             "web",
		"ls -q --label team=red":              "",
	} {
		a := call{eng: &scripted{views: someMachines()}}.run(t, strings.Fields(args)...)
		if got := strings.Join(strings.Fields(a.out), " "); a.code != 0 || got != want {
			t.Errorf("%s: exit code %d, %q, want %q", args, a.code, got, want)
		}
	}
	a := call{eng: &scripted{views: someMachines()}}.run(t, "ls", "wep")
	if a.code != 125 || !strings.Contains(a.err, `there is no machine "wep"`) || !strings.Contains(a.err, `did you mean "web"?`) {
		t.Errorf("ls wep: exit code %d, %q", a.code, a.err)
	}
}

// TestLsJSON pins the fields: they may grow, never change or vanish.
func TestLsJSON(t *testing.T) {
	if a := (call{}).run(t, "ls", "--json"); a.out != "[]\n" {
		t.Errorf("no machines: %q, want an empty array", a.out)
	}
	a := call{eng: &scripted{views: someMachines()}}.run(t, "ls", "--json", "web")
	var got []map[string]any
	if err := json.Unmarshal([]byte(a.out), &got); err != nil || len(got) != 1 {
		t.Fatalf("%v: %s", err, a.out)
	}
	for _, key := range []string{
		"name", "id", "state", "image", "driver", "isolation", "cpus", "memory_bytes", "disk_bytes", "ports",
		"labels", "created", "started", "ephemeral", "sealed", "generation",
	} {
		if _, ok := got[0][key]; !ok {
			t.Errorf("no field %q in %s", key, a.out)
		}
	}
	port := map[string]any{"host": "127.0.0.1", "host_port": 43210.0, "guest_port": 80.0, "proto": "tcp"}
	if diff := cmp.Diff([]any{port}, got[0]["ports"]); diff != "" {
		t.Error(diff)
	}
}

func TestInspect(t *testing.T) {
	v := someMachines()[3]
	v.Status.Supervisor.Pid = 4711
	eng := &scripted{detail: engine.Detail{
		View: v, Files: map[string]string{"console_log": "/s/console.log"},
		Agent: &agentproto.Status{Phase: "ready", Kernel: "6.1\x1b[0m", Services: []agentproto.ServiceStatus{{Name: "sshd", State: "running"}}},
	}}
	a := call{eng: eng}.run(t, "inspect", "web")
	for _, want := range []string{"Name:           web\n", "State:          running\n", "Supervisor:     pid 4711\n", `kernel 6.1\x1b[0m`, "Service:        sshd  running\n", "console log:    /s/console.log\n"} {
		if !strings.Contains(a.out, want) {
			t.Errorf("no %q in:\n%s", want, a.out)
		}
	}
	a = call{eng: eng}.run(t, "inspect", "--json", "web")
	var got struct {
		Name  string
		State string
		Agent struct{ Phase string }
		Spec  struct{ Image string }
		Files map[string]string
	}
	if err := json.Unmarshal([]byte(a.out), &got); err != nil || got.Name != "web" || got.State != "running" || got.Agent.Phase != "ready" || got.Spec.Image != "minimal" || len(got.Files) != 1 {
		t.Errorf("%v: %s", err, a.out)
	}
}

func TestLogs(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
	eng := &scripted{lines: []engine.LogLine{
		{Time: at, Source: "main", Stream: "out", Text: "hello \x1b[1mbold\x1b[0m"},
		{Time: at, Source: "sshd", Stream: "err", Text: "bad\x1b[2J"},
		{Source: "console", Text: "kernel\x07"},
	}}
	for _, tt := range []struct{ args, want string }{
		{"logs web", "hello \x1b[1mbold\x1b[0m\n[sshd] bad\\x1b[2J\nkernel\\x07\n"},
		{"logs -t web", "2026-01-02T03:04:05.006Z hello \x1b[1mbold\x1b[0m\n2026-01-02T03:04:05.006Z [sshd] bad\\x1b[2J\nkernel\\x07\n"},
	} {
		if a := (call{eng: eng}).run(t, strings.Fields(tt.args)...); a.code != 0 || a.out != tt.want {
			t.Errorf("%s: exit code %d\n got %q\nwant %q", tt.args, a.code, a.out, tt.want)
		}
	}
	a := call{eng: eng}.run(t, "logs", "--json", "web")
	for line := range strings.Lines(a.out) {
		var l engine.LogLine
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.Source == "" || strings.Contains(line, "\x1b") {
			t.Errorf("%v: %q", err, line)
		}
	}
	call{eng: eng}.run(t, "logs", "-f", "-n", "5", "--since", "2026-01-02T00:00:00Z", "web")
	want := engine.LogOptions{Source: engine.LogGuest, Follow: true, Tail: 5, Since: at.Truncate(24 * time.Hour)}
	if diff := cmp.Diff(want, eng.logOptions); diff != "" {
		t.Errorf("options (-want +got):\n%s", diff)
	}
	call{eng: eng}.run(t, "logs", "--since", "1h", "web")
	if d := time.Since(eng.logOptions.Since); d < time.Hour || d > time.Hour+time.Minute || eng.logOptions.Tail != -1 {
		t.Errorf("--since 1h means %v ago, tail %d", d, eng.logOptions.Tail)
	}
}

// TestDownAndRemove: several machines at once; the names of those that worked are printed, each
// failure is reported, and the exit code is the first one's.
func TestDownAndRemove(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	eng := &scripted{
		views: []machine.View{view("a", machine.StateRunning), view("b", machine.StateRunning)},
		down: func(_ context.Context, name string, o engine.DownOptions) error {
			mu.Lock()
			asked = append(asked, name)
			mu.Unlock()
			if o.Grace != 3*time.Second || !o.Force {
				t.Errorf("options %+v", o)
			}
			if name == "gone" {
				return notFound(name, []string{"a", "b"})
			}
			return nil
		},
		remove: func(_ context.Context, name string, force bool) error {
			if !force {
				return machine.Errorf("machine.running", "mvmctl down "+name, "machine %q is running", name)
			}
			return nil
		},
	}
	a := call{eng: eng}.run(t, "down", "--time", "3", "--force", "b", "gone", "a", "b")
	if a.code != 125 || a.out != "b\na\n" || !strings.Contains(a.err, `there is no machine "gone"`) || len(asked) != 3 {
		t.Errorf("exit code %d, %q, %q, asked %q", a.code, a.out, a.err, asked)
	}
	if a := (call{eng: eng}).run(t, "stop", "--all", "-t", "3s", "-f", "--json"); a.code != 0 || strings.Join(strings.Fields(a.out), "") != `[{"name":"a"},{"name":"b"}]` {
		t.Errorf("exit code %d, %q", a.code, a.out)
	}
	if a := (call{eng: eng}).run(t, "rm", "a", "b"); a.code != 125 || a.out != "" || strings.Count(a.err, "is running\n") != 2 {
		t.Errorf("exit code %d, %q, %q", a.code, a.out, a.err)
	}
	if a := (call{eng: eng}).run(t, "rm", "--all"); a.code != 2 || !strings.Contains(a.err, "mvmctl rm --all --force") {
		t.Errorf("exit code %d, %q", a.code, a.err)
	}
	yes := func(any) bool { return true }
	if a := (call{eng: eng, in: strings.NewReader("n\n"), terminal: yes}).run(t, "rm", "--all"); a.code != 125 || !strings.Contains(a.err, "Delete all 2 machines and their disks? [y/N] ") || !strings.Contains(a.err, "nothing was deleted") {
		t.Errorf("exit code %d, %q", a.code, a.err)
	}
	if a := (call{eng: eng}).run(t, "rm", "--all", "--force"); a.code != 0 || a.out != "a\nb\n" {
		t.Errorf("exit code %d, %q, %q", a.code, a.out, a.err)
	}
}

// TestForward: ports are printed, stay until Ctrl-C, and are taken back then.
func TestForward(t *testing.T) {
	port := machine.Port{Host: "127.0.0.1", GuestPort: 80, Proto: "tcp"}
	open := port
	open.HostPort = 43210
	signals := make(chan os.Signal, 1)
	eng := &scripted{
		ports: []machine.Port{open},
		forward: func(_ context.Context, _ string, ports []machine.Port) ([]machine.Port, error) {
			if diff := cmp.Diff([]machine.Port{port}, ports); diff != "" {
				t.Error(diff)
			}
			return []machine.Port{open}, nil
		},
		wait: func(ctx context.Context, _ string) (machine.Status, error) {
			signals <- syscall.SIGINT
			<-ctx.Done()
			return machine.Status{}, ctx.Err()
		},
	}
	const line = "127.0.0.1:43210 -> 80\n"
	a := call{eng: eng, signals: signals}.run(t, "forward", "web", "0:80")
	if a.code != 130 || a.out != line || !cmp.Equal(eng.unforwarded, []machine.Port{open}) {
		t.Errorf("exit code %d, %q, taken back %v", a.code, a.out, eng.unforwarded)
	}
	eng.unforwarded = nil
	if a := (call{eng: eng}).run(t, "forward", "-d", "web", "0:80"); a.code != 0 || a.out != line || eng.unforwarded != nil {
		t.Errorf("-d: exit code %d, %q, %v", a.code, a.out, eng.unforwarded)
	}
	if a := (call{eng: eng}).run(t, "forward", "web"); a.code != 0 || a.out != line {
		t.Errorf("list: exit code %d, %q", a.code, a.out)
	}
	if a := (call{eng: eng}).run(t, "forward", "--remove", "web", "43210:80"); a.code != 0 || !cmp.Equal(eng.unforwarded, []machine.Port{open}) {
		t.Errorf("--remove: exit code %d, %v", a.code, eng.unforwarded)
	}
	eng.wait = func(context.Context, string) (machine.Status, error) { return machine.Status{}, nil }
	if a := (call{eng: eng}).run(t, "forward", "web", "0:80"); a.code != 125 || !strings.Contains(a.err, "has ended") {
		t.Errorf("machine ended: exit code %d, %q", a.code, a.err)
	}
}

func TestWait(t *testing.T) {
	three := 3
	eng := &scripted{waits: map[string]machine.Status{
		"job":    {State: machine.StateExited, ExitCode: &three},
		"svc":    {State: machine.StateExited},
		"broken": {State: machine.StateFailed, Failure: &machine.Failure{Code: "vmm.died", Message: "it died"}},
	}}
	if a := (call{eng: eng}).run(t, "wait", "job", "svc", "broken"); a.code != 0 || a.out != "3\n0\n125\n" {
		t.Errorf("exit code %d, %q", a.code, a.out)
	}
	if a := (call{eng: eng}).run(t, "wait", "--json", "broken"); a.code != 0 || !strings.Contains(a.out, `"exit_code":125`) || !strings.Contains(a.out, `"code":"vmm.died"`) {
		t.Errorf("exit code %d, %q", a.code, a.out)
	}
	eng.wait = func(ctx context.Context, _ string) (machine.Status, error) {
		<-ctx.Done()
		return machine.Status{}, ctx.Err()
	}
	if a := (call{eng: eng}).run(t, "wait", "--timeout", "1ms", "job"); a.code != 124 || !strings.Contains(a.err, "has not ended within 1ms") {
		t.Errorf("exit code %d, %q", a.code, a.err)
	}
}

func TestCopy(t *testing.T) {
	dir := t.TempDir()
	var got []string
	eng := &scripted{copying: func(_ context.Context, src, dst string, o engine.CopyOptions) (engine.CopyResult, error) {
		got = []string{src, dst}
		if dst == "-" {
			_, err := o.Stdout.Write([]byte("tar"))
			return engine.CopyResult{}, err
		}
		return engine.CopyResult{Files: 2, Bytes: 2048}, nil
	}}
	c := call{eng: eng, dir: dir}
	for _, tt := range []struct {
		args string
		want []string
		out  string
	}{
		{"cp a.txt web:/tmp/", []string{filepath.Join(dir, "a.txt"), "web:/tmp/"}, ""},
		{"cp ./a:b web:", []string{filepath.Join(dir, "a:b"), "web:"}, ""},
		{"cp web:/x logs/", []string{"web:/x", filepath.Join(dir, "logs") + "/"}, ""},
		{"cp web:/x /abs", []string{"web:/x", "/abs"}, ""},
		{"cp web:/x -", []string{"web:/x", "-"}, "tar"},
		{"cp --json - web:/x", []string{"-", "web:/x"}, "{\n  \"files\": 2,\n  \"bytes\": 2048\n}\n"},
	} {
		a := c.run(t, strings.Fields(tt.args)...)
		if a.code != 0 || a.out != tt.out || a.err != "" || !cmp.Equal(got, tt.want) {
			t.Errorf("%s: exit code %d, %q, %q, asked %q", tt.args, a.code, a.out, a.err, got)
		}
	}
}

func TestDiff(t *testing.T) {
	eng := &scripted{changes: []agentproto.Change{{Kind: "A", Path: "/etc/x\ny", Type: "file", Size: 3}, {Kind: "D", Path: "/z"}, {End: true}}}
	if a := (call{eng: eng}).run(t, "diff", "web"); a.code != 0 || a.out != "A /etc/x\\ny\nD /z\n" {
		t.Errorf("exit code %d, %q", a.code, a.out)
	}
	if a := (call{eng: eng}).run(t, "diff", "--json", "web"); strings.Count(a.out, "\n") != 2 || !strings.HasPrefix(a.out, `{"kind":"A","path":"/etc/x\ny"`) {
		t.Errorf("--json: %q", a.out)
	}
}

func TestLists(t *testing.T) {
	eng := &scripted{
		kernels: []engine.KernelInfo{{ID: "0123456789abcdef", Release: "6.1.0", Arch: "amd64", Source: "debian", Size: 14 << 20, Default: true}},
		images:  []engine.ImageInfo{{Name: "minimal", Names: []string{"minimal"}, Description: "a shell", Builder: "embedded"}},
	}
	for args, want := range map[string]string{
		"kernel list":     "ID            RELEASE  ARCH   SIZE    MODULES  IN USE  DEFAULT  SOURCE\n0123456789ab  6.1.0    amd64  14 MiB  none     0       yes      debian\n",
		"kernel ls -q":    "0123456789abcdef\n",
		"kernel fetch":    "6.1.0-test\n",
		"image list":      "NAME     ID  BUILDER   SIZE  CACHED  IN USE  AGE\nminimal      embedded        no      0\n",
		"image list -q":   "minimal\n",
		"version":         "mvmctl 1.2.3\n",
		"--version":       "mvmctl 1.2.3\n",
		"__complete down": "",
	} {
		a := call{eng: eng}.run(t, strings.Fields(args)...)
		if args != "__complete down" && (a.code != 0 || a.out != want) {
			t.Errorf("%s: exit code %d\n got %q\nwant %q", args, a.code, a.out, want)
		}
	}
	for _, args := range []string{"kernel list --json", "image list --json", "config show --json", "version --json", "kernel fetch --json"} {
		if a := (call{eng: eng}).run(t, strings.Fields(args)...); a.code != 0 || !json.Valid([]byte(a.out)) {
			t.Errorf("%s: exit code %d, %q", args, a.code, a.out)
		}
	}
}

// TestCompletion: names of machines and images; a broken configuration completes nothing and
// says nothing.
func TestCompletion(t *testing.T) {
	eng := &scripted{views: someMachines(), images: []engine.ImageInfo{{Name: "minimal", Names: []string{"minimal"}}}}
	complete := func(c call, args ...string) string {
		a := c.run(t, append([]string{"__complete"}, args...)...)
		words, _, _ := strings.Cut(a.out, ":")
		return strings.Join(strings.Fields(words), " ")
	}
	c := call{eng: eng}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"down", ""}, "db evil hurt web"},
		{[]string{"down", "web", ""}, "db evil hurt"},
		{[]string{"stop", "w"}, "web"},
		{[]string{"exec", ""}, "db evil hurt web"},
		{[]string{"up", "m"}, "minimal"},
		{[]string{"logs", "--source", ""}, "guest console vmm supervisor"},
		{[]string{"cp", "w"}, "web"},
		{[]string{"completion", "z"}, "zsh"},
	} {
		if got := complete(c, tt.args...); got != tt.want {
			t.Errorf("%q completes to %q, want %q", tt.args, got, tt.want)
		}
	}
	if got := complete(c, "kern"); !strings.HasPrefix(got, "kernel ") {
		t.Errorf("kern completes to %q", got)
	}
	broken := call{eng: eng, env: []string{"MVM_CPUS=none"}}
	if got := complete(broken, "down", ""); got != "" {
		t.Errorf("with a broken configuration: %q", got)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		a := c.run(t, "completion", shell)
		if a.code != 0 || !strings.Contains(a.out, "mvmctl") || a.err != "" {
			t.Errorf("%s: exit code %d, %d bytes, %q", shell, a.code, len(a.out), a.err)
		}
	}
}

// TestNothingIsLoaded: help, version and completion scripts need no engine.
func TestNothingIsLoaded(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"--help"}, {"up", "--help"}, {"completion", "bash"}, {"config", "show"}, {"up", "minimal", "extra"}} {
		c := call{deps: func(d *Deps) {
			d.Engine = func(config.Config) (Engine, error) {
				t.Errorf("%q asked for the engine", args)
				return nil, errUnscripted
			}
		}}
		c.run(t, args...)
	}
}

func TestConfigShow(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mvm.toml"), []byte("# project\nmemory = \"2G\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := call{dir: dir, env: []string{"MVM_CPUS=2"}}.run(t, "config", "show", "--json")
	var got []settingJSON
	if err := json.Unmarshal([]byte(a.out), &got); err != nil {
		t.Fatal(err)
	}
	have := map[string][3]string{}
	for _, s := range got {
		have[s.Key] = [3]string{s.Value, s.Source, s.Where}
	}
	for key, want := range map[string][3]string{
		"cpus":   {"2", "environment", "MVM_CPUS"},
		"memory": {"2G", "project file", filepath.Join(dir, "mvm.toml") + ":2:1"},
		"disk":   {"8G", "default", ""},
	} {
		if have[key] != want {
			t.Errorf("%s: %q, want %q", key, have[key], want)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "mvm.toml"), []byte("memry = \"2G\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a = call{dir: dir}.run(t, "config", "show")
	if a.code != 2 || !strings.Contains(a.err, `mvm.toml:1:1: unknown key "memry"`) || !strings.Contains(a.err, `did you mean "memory"?`) {
		t.Errorf("exit code %d, %q", a.code, a.err)
	}
}

// TestDefaultsAgree: what `config show` calls the default is what machines get.
func TestDefaultsAgree(t *testing.T) {
	var s machine.Spec
	for _, k := range config.Keys() {
		if err := applySetting(&s, k.Name, k.Default); err != nil {
			t.Errorf("%s: the default is refused: %v", k.Name, err)
		}
	}
	want := machine.Spec{CPUs: machine.DefaultCPUs, Memory: machine.DefaultMemory, Disk: machine.DefaultDisk, Timeout: machine.DefaultTimeout}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Error(diff)
	}
}

func TestDoctorCommand(t *testing.T) {
	eng := &scripted{
		kernels:  []engine.KernelInfo{{Release: "6.1.0", Arch: "amd64", Default: true}},
		views:    []machine.View{view("lost", machine.StateCrashed)},
		backends: []engine.Backend{{Name: "qemu", Available: true, Chosen: true, Version: "7.2", Accel: "tcg", Isolation: "emulated"}},
		down:     func(context.Context, string, engine.DownOptions) error { return nil },
	}
	a := call{eng: eng}.run(t, "doctor")
	for _, want := range []string{"ok    backends                up uses qemu (7.2, tcg, emulated)\n", "ok    guest kernel            6.1.0 (amd64, 0 B)\n", "warn  machines ", "      fix: mvmctl down lost\n"} {
		if !strings.Contains(a.out, want) {
			t.Errorf("no %q in:\n%s", want, a.out)
		}
	}
	if a.code != 0 {
		t.Errorf("exit code %d", a.code)
	}

	eng.backends = []engine.Backend{{Name: "qemu", Problem: "qemu-system-x86_64 is not installed", Remedy: "apt install qemu-system-x86"}}
	a = call{eng: eng}.run(t, "doctor", "--json")
	var report doctor.Report
	if err := json.Unmarshal([]byte(a.out), &report); err != nil || report.OK || a.code != 1 {
		t.Errorf("exit code %d, %v: %s", a.code, err, a.out)
	}

	// A broken configuration or engine is a finding, and the other checks still run.
	a = call{env: []string{"MVM_CPUS=many"}}.run(t, "doctor")
	if a.code != 1 || !strings.Contains(a.out, "fail  settings                MVM_CPUS: ") || !strings.Contains(a.out, "fix: correct or unset MVM_CPUS") || !strings.Contains(a.out, "clock") {
		t.Errorf("exit code %d:\n%s", a.code, a.out)
	}
}

// A port that is picked anew at each start is none while the machine is not up.
func TestPortsOfAMachineThatIsNotUp(t *testing.T) {
	v := view("web", machine.StateExited)
	v.Spec.Ports = []machine.Port{{Host: "127.0.0.1", GuestPort: 80}, {Host: "127.0.0.1", HostPort: 8080, GuestPort: 81}}
	a := call{eng: &scripted{views: []machine.View{v}}}.run(t, "ls")
	if strings.Contains(a.out, ":0->") || !strings.Contains(a.out, "127.0.0.1:8080->81") {
		t.Errorf("%s", a.out)
	}
}

// A service that fails again and again says so, also in a moment in which it runs.
func TestInspectShowsWhatBecameOfAService(t *testing.T) {
	eng := &scripted{detail: engine.Detail{View: view("web", machine.StateRunning), Agent: &agentproto.Status{
		Services: []agentproto.ServiceStatus{{Name: "job", State: "running", Restarts: 4, ExitCode: 3}},
	}}}
	a := call{eng: eng}.run(t, "inspect", "web")
	if !strings.Contains(a.out, "job  running, restarted 4 times, last exit code 3") {
		t.Errorf("%s", a.out)
	}
}

// An image with several names is listed under each, once.
func TestImageListNamesEachOnce(t *testing.T) {
	eng := &scripted{images: []engine.ImageInfo{{Name: "a:1", Names: []string{"a:1", "b:1"}, ID: "1", Cached: true}, {Name: "c", ID: "2"}}}
	a := call{eng: eng}.run(t, "image", "list", "-q")
	for _, n := range []string{"a:1", "b:1", "c"} {
		if strings.Count("\n"+a.out, "\n"+n+"\n") != 1 {
			t.Errorf("%s is not there once:\n%s", n, a.out)
		}
	}
}
