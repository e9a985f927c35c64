package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// find runs the host's checks and returns the finding of one.
func find(t *testing.T, h Host, name string, fix bool) (Finding, Report) {
	t.Helper()
	r, err := Run(t.Context(), Checks(h), fix, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Findings {
		if f.Name == name {
			return f, r
		}
	}
	t.Fatalf("no check %q in %+v", name, r.Findings)
	return Finding{}, r
}

func makeDir(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	return os.Chmod(path, 0o700)
}

func TestDirectories(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(dir, "open dir")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o775); err != nil {
		t.Fatal(err)
	}
	readable := filepath.Join(dir, "readable")
	if err := os.Mkdir(readable, 0o755); err != nil {
		t.Fatal(err)
	}
	private := filepath.Join(dir, "private")
	if err := os.Mkdir(private, 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(private, link); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		path  string
		level Level
		says  string
		fix   string
		fixed bool // by --fix
	}{
		{private, OK, private, "", false},
		{filepath.Join(dir, "new", "deep"), OK, "does not exist yet", "", false},
		{open, Fail, "can be written by others (mode 0775)", "chmod 700 '" + open + "'", true},
		{readable, Warn, "can be read by others (mode 0755)", "chmod 700 " + readable, true},
		{file, Fail, "is not a directory", "mv " + file + " " + file + ".old", false},
		{link, Fail, "is not a directory", "mv ", false},
		{filepath.Join(file, "below"), Fail, "not a directory", "", false},
	}
	for _, tt := range tests {
		t.Run(filepath.Base(tt.path), func(t *testing.T) {
			h := Host{Dirs: []Dir{{Name: "state", Path: tt.path}}, MakeDir: makeDir}
			f, r := find(t, h, "state directory", false)
			if f.Level != tt.level || !strings.Contains(f.Message, tt.says) || !strings.HasPrefix(f.Fix, tt.fix) || r.OK != (tt.level != Fail) {
				t.Errorf("%+v, report ok %v", f, r.OK)
			}
			if f, _ := find(t, h, "state directory", true); f.Fixed != tt.fixed {
				t.Errorf("after --fix: %+v", f)
			}
		})
	}
	entries, err := os.ReadDir(private)
	if err != nil || len(entries) != 0 {
		t.Errorf("the write probe left %v, %v", entries, err)
	}
}

func TestBackends(t *testing.T) {
	named := func(b Backend) Backend { b.ByName = true; return b }
	answer := func(bs ...Backend) Host {
		return Host{Backends: func(context.Context) []Backend { return bs }}
	}
	good := Backend{Name: "one", Available: true, Chosen: true, Summary: "1.0, vm", Notes: []string{"a note of one"}}
	other := Backend{Name: "two", Available: true, Summary: "2.0", Notes: []string{"a note of two"}}
	bad := Backend{Name: "three", Problem: "three is not installed", Remedy: "apt install three"}
	better := Backend{Name: "four", Better: true, Problem: "four is not installed", Remedy: "apt install four"}
	for _, tt := range []struct {
		name string
		h    Host
		want Finding
	}{
		{"all", answer(good, other, bad, better), Finding{Level: OK, Message: strings.Join([]string{
			"up uses one (1.0, vm)", "a note of one",
			"better ones, not usable now", "  four: four is not installed", "    to have it: apt install four",
			"others are", "  two (2.0), with --hypervisor two", "    a note of two", "  three: three is not installed", "    to have it: apt install three",
		}, "\n")}},
		{"one missing", answer(bad), Finding{Level: Fail, Message: "no backend that `up` would use can run machines here\nthree: three is not installed\n  to have it: apt install three", Fix: "three: apt install three"}},
		{"one missing, only on request", answer(named(bad)), Finding{Level: Fail, Message: "no backend that `up` would use can run machines here\nthree: three is not installed\n  to have it: apt install three"}},
		{"only on request", answer(other), Finding{Level: Fail, Message: "no backend that `up` would use can run machines here\ntwo (2.0), with --hypervisor two\n  a note of two"}},
		{"none", answer(), Finding{Level: Fail, Message: "no backend that `up` would use can run machines here"}},
	} {
		f, r := find(t, tt.h, "backends", false)
		tt.want.Name, tt.want.Required, f.TookMS = "backends", true, 0
		if diff := cmp.Diff(tt.want, f); diff != "" || r.OK != (tt.want.Level == OK) {
			t.Errorf("%s: report ok %v (-want +got):\n%s", tt.name, r.OK, diff)
		}
	}
}

// A better backend that can be fetched is worth a warning, and is fetched by --fix; one that is no
// better than what is there is left alone.
func TestFetchingABackend(t *testing.T) {
	var fetched []string
	list := []Backend{
		{Name: "better", Better: true, Problem: "better is not installed", Fetchable: true},
		{Name: "here", Available: true, Chosen: true},
		{Name: "worse", Problem: "worse is not installed", Fetchable: true},
	}
	h := Host{
		Backends: func(context.Context) []Backend { return list },
		Install: func(_ context.Context, name string) error {
			fetched = append(fetched, name)
			list = list[1:]
			return nil
		},
	}
	if f, r := find(t, h, "backends", false); f.Level != Warn || f.Fix != "mvmctl doctor --fix" || !r.OK || fetched != nil {
		t.Errorf("before: %+v, fetched %v", f, fetched)
	}
	if f, _ := find(t, h, "backends", true); f.Level != OK || !f.Fixed || !cmp.Equal(fetched, []string{"better"}) {
		t.Errorf("after: %+v, fetched %v", f, fetched)
	}
	list = []Backend{{Name: "only", Problem: "only is not installed", Fetchable: true}}
	h.Install = func(context.Context, string) error {
		return &Problem{Err: errors.New("no network"), Fix: "plug it in"}
	}
	if f, r := find(t, h, "backends", true); f.Level != Fail || r.OK || !strings.Contains(f.Message, "no network") || f.Fix != "plug it in" || f.Fixed {
		t.Errorf("a failure: %+v", f)
	}
}

// TestFix: what is safe is repaired and looked at again; what cannot be repaired says why.
func TestFix(t *testing.T) {
	fetched := false
	var cleaned []string
	h := Host{
		Kernel: func(context.Context) (Thing, error) {
			if fetched {
				return Thing{"6.1", "amd64"}, nil
			}
			return Thing{}, errors.New("the cache has none")
		},
		Fetch: func(context.Context) error { fetched = true; return nil },
		Machines: func(context.Context) ([]Machine, error) {
			return []Machine{{Name: "a", Broken: len(cleaned) == 0}, {Name: "b"}}, nil
		},
		Clean: func(_ context.Context, name string) error { cleaned = append(cleaned, name); return nil },
	}
	if f, r := find(t, h, "guest kernel", false); f.Level != Warn || f.Fix != "mvmctl kernel fetch" || !r.OK {
		t.Errorf("before: %+v", f)
	}
	if f, _ := find(t, h, "machines", false); f.Level != Warn || f.Fix != "mvmctl down a" {
		t.Errorf("before: %+v", f)
	}
	f, r := find(t, h, "guest kernel", true)
	if f.Level != OK || !f.Fixed || f.Message != "6.1 (amd64)" {
		t.Errorf("after: %+v", f)
	}
	if !cmp.Equal(cleaned, []string{"a"}) || !r.Findings[len(r.Findings)-1].Fixed {
		t.Errorf("cleaned %v, %+v", cleaned, r.Findings)
	}
	fetched, h.Fetch = false, func(context.Context) error { return errors.New("no network") }
	if f, _ := find(t, h, "guest kernel", true); f.Level != Warn || f.Fixed || !strings.Contains(f.Message, "no network") {
		t.Errorf("a repair that fails: %+v", f)
	}
}

func TestOtherChecks(t *testing.T) {
	h := Host{
		Settings: func() error { return &Problem{errors.New("mvm.toml:1:1: unknown key"), "remove it"} },
		Agent:    func() (Thing, error) { return Thing{}, errors.New("not embedded") },
		Dirs:     []Dir{{Name: "cache", Path: t.TempDir(), Needs: 1 << 60}},
		Now:      func() time.Time { return time.Unix(0, 0) },
	}
	for _, want := range []Finding{
		{Name: "settings", Required: true, Level: Fail, Message: "mvm.toml:1:1: unknown key", Fix: "remove it"},
		{Name: "guest agent", Required: true, Level: Fail, Message: "this program carries no guest agent: not embedded", Fix: "install a complete build of mvmctl"},
		{Name: "clock", Level: Warn, Message: "the clock says 1970-01-01T00:00:00Z", Fix: "set the clock: timedatectl set-ntp true"},
	} {
		f, _ := find(t, h, want.Name, false)
		f.TookMS = 0
		if diff := cmp.Diff(want, f); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if f, _ := find(t, h, "cache space", false); f.Level != Warn || !strings.Contains(f.Message, "are recommended") {
		t.Errorf("%+v", f)
	}
	if f, _ := find(t, h, "memory", false); f.Message == "" {
		t.Errorf("%+v", f)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, Checks(h), true, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// What cannot be read is named, with why: nothing else would say so.
func TestUnreadableMachines(t *testing.T) {
	t.Parallel()
	f, _ := find(t, Host{Machines: func(context.Context) ([]Machine, error) {
		return []Machine{{Name: "a"}, {Name: "b", Unreadable: true, Problem: "it is cut short"}}, nil
	}}, "machines", false)
	if f.Level != Warn || !strings.Contains(f.Message, "b: it is cut short") || !strings.Contains(f.Fix, "rm --force") {
		t.Errorf("%+v", f)
	}
}
