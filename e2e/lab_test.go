package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// commandTime bounds one mvmctl command: an emulated guest on a busy two-core machine, with
// room. No test waits for it to pass.
const commandTime = 4 * time.Minute

// builds are the programs under test, built once.
type builds struct {
	once          sync.Once
	dir           string
	plain, faulty string // mvmctl without and with fault points
	agent         string
	err           error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if programs.dir != "" {
		_ = os.RemoveAll(programs.dir)
	}
	os.Exit(code)
}

var programs builds

func (b *builds) make() {
	// Where there is no compiler, as in the host of TestKVMHost, they come along.
	if dir := os.Getenv("MVM_E2E_PROGRAMS"); dir != "" {
		b.plain, b.faulty, b.agent = filepath.Join(dir, "mvmctl"), filepath.Join(dir, "mvmctl-faulty"), filepath.Join(dir, "mvm-agent")
		return
	}
	if b.dir, b.err = os.MkdirTemp("", "mvm-e2e-*"); b.err != nil {
		return
	}
	b.plain, b.faulty, b.agent = filepath.Join(b.dir, "mvmctl"), filepath.Join(b.dir, "mvmctl-faulty"), filepath.Join(b.dir, "mvm-agent")
	for _, args := range [][]string{
		{"build", "-trimpath", "-ldflags=-s -w", "-o", b.agent, "../cmd/mvm-agent"},
		{"build", "-o", b.plain, "../cmd/mvmctl"},
		{"build", "-tags=faultpoints", "-o", b.faulty, "../cmd/mvmctl"},
	} {
		cmd := exec.Command("go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
			return
		}
	}
}

// lab is one user's world: directories of its own, one backend. Kernels come from the user's
// own cache, which is only added to.
type lab struct {
	t      *testing.T
	bin    string
	dir    string // state, data, config, runtime
	driver string
	env    []string
}

func newLab(t *testing.T, driver string, faulty bool) *lab {
	t.Helper()
	programs.once.Do(programs.make)
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	if driver == "qemu" {
		needQEMU(t)
	}
	dir, err := os.MkdirTemp("", "mvm-lab-*") // short: socket paths are limited
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, bin: programs.plain, dir: dir, driver: driver}
	if faulty {
		l.bin = programs.faulty
	}
	l.env = append(cleanEnv(),
		"MVM_STATE_DIR="+dir+"/state", "MVM_DATA_DIR="+dir+"/data", "MVM_CONFIG_DIR="+dir+"/config", "MVM_RUNTIME_DIR="+dir+"/run",
		"MVM_AGENT="+programs.agent, "MVM_HYPERVISOR="+driver, "MVM_LAB="+dir)
	if driver == "fake" {
		l.env = append(l.env, "MVM_CACHE_DIR="+dir+"/cache")
	}
	t.Cleanup(l.tearDown)
	return l
}

// cleanEnv is the environment without mvmctl's own variables, except the cache.
func cleanEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "MVM_") || strings.HasPrefix(kv, "MVM_CACHE_DIR=") {
			env = append(env, kv)
		}
	}
	return env
}

func needQEMU(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		if _, err := exec.LookPath("qemu-system-aarch64"); err != nil {
			t.Skip("needs QEMU: scripts/dev-setup.sh installs it")
		}
	}
}

// tearDown ends and deletes everything of the lab, whatever the test left.
func (l *lab) tearDown() {
	for _, p := range l.processes() {
		_ = p.Kill()
	}
	_ = os.RemoveAll(l.dir)
}

type result struct {
	stdout, stderr string
	code           int
}

func (r result) String() string {
	return fmt.Sprintf("exit %d\nstdout: %s\nstderr: %s", r.code, r.stdout, r.stderr)
}

// run runs one command to its end.
func (l *lab) run(args ...string) result { l.t.Helper(); return l.with(nil, args...) }

// with runs one command with more environment.
func (l *lab) with(env []string, args ...string) result {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	cmd := l.command(ctx, env, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if ctx.Err() != nil {
		l.t.Fatalf("mvmctl %s: no end within %s\n%s%s", strings.Join(args, " "), commandTime, out.String(), errOut.String())
	}
	r := result{stdout: out.String(), stderr: errOut.String()}
	var ee *exec.ExitError
	switch {
	case errors.As(err, &ee):
		r.code = ee.ExitCode() // -1: ended by a signal
	case err != nil:
		l.t.Fatal(err)
	}
	return r
}

func (l *lab) command(ctx context.Context, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, l.bin, args...)
	cmd.Env = append(append([]string(nil), l.env...), env...)
	cmd.Dir = l.dir
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// must runs a command that has to succeed, and returns what it printed.
func (l *lab) must(args ...string) string {
	l.t.Helper()
	r := l.run(args...)
	if r.code != 0 {
		l.t.Fatalf("mvmctl %s: %v", strings.Join(args, " "), r)
	}
	return r.stdout
}

// view is the part of `ls --json` that the tests look at.
type view struct {
	Name      string         `json:"name"`
	State     string         `json:"state"`
	Isolation string         `json:"isolation"`
	Image     string         `json:"image"`
	Problem   string         `json:"problem"`
	ExitCode  *int           `json:"exit_code"`
	Ports     []machine.Port `json:"ports"`
}

// status reads what the machine's supervisor wrote last, which has the processes' ids.
func (l *lab) status(name string) machine.Status {
	l.t.Helper()
	var file struct{ Body machine.Status }
	data, err := os.ReadFile(filepath.Join(l.dir, "state", "machines", name, "status.json"))
	if err == nil {
		err = json.Unmarshal(data, &file)
	}
	if err != nil {
		l.t.Fatalf("status of %s: %v", name, err)
	}
	return file.Body
}

// list returns what `ls --json` says.
func (l *lab) list() []view {
	l.t.Helper()
	var views []view
	if err := json.Unmarshal([]byte(l.must("ls", "--json")), &views); err != nil {
		l.t.Fatalf("ls --json: %v", err)
	}
	return views
}

// machine returns one machine's line of `ls`, or nil.
func (l *lab) machine(name string) *view {
	l.t.Helper()
	for _, v := range l.list() {
		if v.Name == name {
			return &v
		}
	}
	return nil
}

// processes returns the running processes that belong to the lab: they have its folder in their
// environment or on their command line.
func (l *lab) processes() []*os.Process {
	var found []*os.Process
	dirents, _ := os.ReadDir("/proc")
	for _, d := range dirents {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		env, _ := os.ReadFile("/proc/" + d.Name() + "/environ")
		line, _ := os.ReadFile("/proc/" + d.Name() + "/cmdline")
		if bytes.Contains(env, []byte(l.dir)) || bytes.Contains(line, []byte(l.dir)) || l.holdsFile(d.Name()) {
			if p, err := os.FindProcess(pid); err == nil {
				found = append(found, p)
			}
		}
	}
	return found
}

// holdsFile reports whether a process has a file of the lab open, as a VMM with a cleaned
// environment has its disks.
func (l *lab) holdsFile(pid string) bool {
	fds, _ := os.ReadDir("/proc/" + pid + "/fd")
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/" + pid + "/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, l.dir+"/") {
			return true
		}
	}
	return false
}

// nothingLeft fails the test when anything of a machine is left: processes, files, sockets or
// locks.
func (l *lab) nothingLeft() {
	l.t.Helper()
	for _, p := range l.processes() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.Pid))
		l.t.Errorf("a process is left: %d %s", p.Pid, bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
	}
	for _, dir := range []string{"state/machines", "state/locks", "run", "cache/images/tmp"} {
		_ = filepath.WalkDir(filepath.Join(l.dir, dir), func(p string, _ os.DirEntry, err error) error {
			if err == nil && p != filepath.Join(l.dir, dir) {
				l.t.Errorf("a file is left: %s", strings.TrimPrefix(p, l.dir))
			}
			return nil
		})
	}
}

// drivers are the backends that the tests run on: the fake one always, QEMU where it is.
func eachDriver(t *testing.T, faulty bool, test func(t *testing.T, l *lab)) {
	for _, d := range []string{"fake", "qemu"} {
		t.Run(d, func(t *testing.T) { test(t, newLab(t, d, faulty)) })
	}
}

// ownCache gives the lab a cache of its own, with the user's kernels in it.
func (l *lab) ownCache() {
	l.t.Helper()
	p, err := paths.Find(os.Getenv, os.Geteuid())
	if err != nil {
		l.t.Skipf("missing: a cache folder: %v", err)
	}
	own := filepath.Join(l.dir, "cache")
	if err := os.MkdirAll(own, 0o700); err != nil {
		l.t.Fatal(err)
	}
	for _, shared := range []string{"kernels", "qemu.json"} {
		from := filepath.Join(p.Cache, shared)
		if _, err := os.Stat(from); err != nil {
			continue // it is made when it is needed
		}
		if err := os.Symlink(from, filepath.Join(own, shared)); err != nil {
			l.t.Fatal(err)
		}
	}
	l.env = append(l.env, "MVM_CACHE_DIR="+own)
}
