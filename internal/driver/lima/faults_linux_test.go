package lima_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/lima"
	"github.com/mvmctl/mvmctl/internal/linuxenv"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// hostile are words that a shell would not leave alone.
func hostile() []string {
	return []string{
		"", " ", "a b", "$(touch /tmp/mvm-pwned)", "`id`", "'", `"`, `'"'"'`, "\\", "a\nb", "\t", ";", "|", "&&", "*", "~", "$HOME", "-", "--", "--workdir",
		"X=$(id)", "$(id)=x", "a=b c", "\x7f\x1b[31m", "é…", "\xff\xfe", "#", "!", strings.Repeat("x", 100_000),
	}
}

// hostileWords runs a program with hostile words in a session and compares what it got.
func hostileWords(t *testing.T, s *linuxenv.Session) {
	t.Helper()
	var out, errOut bytes.Buffer
	args := append([]string{"printf", "%s\\0"}, hostile()...)
	code, err := linuxenv.Env{Session: s}.Run(t.Context(), linuxenv.Program{Args: args, Stdout: &out, Stderr: &errOut})
	if err != nil || code != 0 {
		t.Fatalf("exit %d, %v: %s", code, err, errOut.String())
	}
	want := strings.Join(hostile(), "\x00") + "\x00"
	if out.String() != want {
		t.Errorf("the program got\n%q\nwant\n%q", out.String(), want)
	}
	out.Reset()
	code, err = linuxenv.Env{Session: s}.Run(t.Context(), linuxenv.Program{
		Args: []string{"sh", "-c", `cat; printf %s "$V"; pwd; exit 7`}, Env: []string{"V=$(id) '"}, Dir: "/usr", Stdin: strings.NewReader("in"), Stdout: &out,
	})
	if err != nil || code != 7 || out.String() != "in$(id) '/usr\n" {
		t.Errorf("exit %d, %v, output %q", code, err, out.String())
	}
	if _, err := (linuxenv.Env{Session: s}).Run(t.Context(), linuxenv.Program{Args: []string{"no-such-program"}}); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("a program that is not there: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := (linuxenv.Env{Session: s}).Run(ctx, linuxenv.Program{Args: []string{"sleep", "600"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a program that takes too long: %v", err)
	}
}

// shortDir is a folder in which sockets have short names.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mvml")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestHostileWordsDouble(t *testing.T) {
	vm := doubleVM(t, shortDir(t))
	if err := vm.Ensure(t.Context(), io.Discard); err != nil {
		t.Fatal(err)
	}
	s, err := vm.Connect(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	hostileWords(t, s)
}

// TestProbeDouble: what stands in the way is named, and a Probe makes and starts nothing.
func TestProbeDouble(t *testing.T) {
	dir := shortDir(t)
	vm := doubleVM(t, dir)
	home := filepath.Join(dir, fmt.Sprint("lima", os.Getuid()))
	inst := filepath.Join(home, doubleName)
	d := lima.New(lima.Options{VM: vm, CacheDir: filepath.Join(dir, "cache")})
	expect := func(step, code string) {
		t.Helper()
		_, err := d.Probe(t.Context())
		if machine.CodeOf(err) != code || !errors.Is(err, driver.ErrUnavailable) {
			t.Errorf("%s: %v (%s), want %s and ErrUnavailable", step, err, machine.CodeOf(err), code)
		}
	}
	write := func(path, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	none := lima.New(lima.Options{VM: linuxenv.New(linuxenv.Options{Limactl: filepath.Join(dir, "no-such")})})
	if _, err := none.Probe(t.Context()); machine.CodeOf(err) != "lima.missing" || !errors.Is(err, driver.ErrUnavailable) {
		t.Errorf("without limactl: %v", err)
	}
	expect("no virtual machine", "backend.missing")
	if _, err := d.Probe(t.Context()); !errors.Is(err, driver.ErrInstallable) {
		t.Errorf("no virtual machine: %v, which is to be mended by Install", err)
	}
	if _, err := os.Stat(inst); err == nil {
		t.Error("Probe made a virtual machine")
	}
	for _, version := range []string{"0.23.2", "<unknown>", "v0.9", ""} {
		write(filepath.Join(home, "version"), version)
		expect("version "+version, "lima.version")
	}
	write(filepath.Join(home, "version"), "2.0.0-alpha.1")
	write(filepath.Join(inst, "status"), "Stopped")
	expect("stopped, never seen", "lima.stopped")
	if _, err := d.Probe(t.Context()); !errors.Is(err, driver.ErrInstallable) {
		t.Errorf("stopped: %v, which is to be mended by Install", err)
	}
	write(filepath.Join(inst, "status"), "Broken")
	expect("broken", "lima.instance")
	write(filepath.Join(inst, "status"), "Running")
	for what, config := range map[string]string{
		"mounts":    `{"plain": true, "mounts": [{"location": "~"}], "ssh": {}}`,
		"not plain": `{"plain": false, "ssh": {}}`,
		"agent":     `{"plain": true, "ssh": {"forwardAgent": true}}`,
	} {
		write(filepath.Join(inst, "config.json"), config)
		expect(what, "lima.instance")
	}
	if err := os.Remove(filepath.Join(inst, "config.json")); err != nil {
		t.Fatal(err)
	}
	caps, err := d.Probe(t.Context())
	if err != nil || caps.Isolation != driver.IsolationNone || len(caps.Lacks) != 1 {
		t.Errorf("running: %+v, %v", caps, err)
	}
	write(filepath.Join(inst, "status"), "Stopped")
	if again, err := d.Probe(t.Context()); err != nil || again.Version != caps.Version {
		t.Errorf("stopped, but known: %+v, %v", again, err)
	}
	if status, _ := os.ReadFile(filepath.Join(inst, "status")); string(status) != "Stopped" {
		t.Error("Probe started the virtual machine")
	}
}

// TestInstallDouble: what was fetched has to run machines. Where it does not, what emulates is fetched
// too, and where that does not help either, the reason is told.
func TestInstallDouble(t *testing.T) {
	for _, tt := range []struct {
		name, refuses string
		helps         bool
		fetched       []string
		code          string
	}{
		{"it works", "", false, []string{"false"}, ""},
		{"KVM boots nothing", "a test guest did not boot", true, []string{"false", "true"}, ""},
		{"nothing works", "a test guest did not boot", false, []string{"false", "true"}, "backend.none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := shortDir(t)
			root := filepath.Join(dir, fmt.Sprint("lima", os.Getuid()), doubleName, "root")
			if err := os.MkdirAll(root, 0o700); err != nil {
				t.Fatal(err)
			}
			for name, there := range map[string]bool{"refuses": tt.refuses != "", "helps": tt.helps} {
				if there {
					if err := os.WriteFile(filepath.Join(root, name), []byte(tt.refuses), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			var said bytes.Buffer
			d := lima.New(lima.Options{VM: doubleVM(t, dir), CacheDir: filepath.Join(dir, "cache"), Progress: &said})
			err := d.Install(t.Context())
			if machine.CodeOf(err) != tt.code || tt.code != "" && !strings.Contains(err.Error(), tt.refuses) {
				t.Errorf("error %v, want %q", err, tt.code)
			}
			var fetched []string
			for line := range strings.Lines(said.String()) {
				if what, ok := strings.CutPrefix(line, "fetching, emulate "); ok {
					fetched = append(fetched, strings.TrimSpace(what))
				}
			}
			if !slices.Equal(fetched, tt.fetched) {
				t.Errorf("fetched %q, want %q: %s", fetched, tt.fetched, said.String())
			}
			if len(tt.fetched) == 2 && !strings.Contains(said.String(), tt.refuses) {
				t.Errorf("it is not said why: %s", said.String())
			}
		})
	}
}
