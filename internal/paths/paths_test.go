package paths

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/machine"
)

func env(pairs ...string) func(string) string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(k string) string { return m[k] }
}

func TestOverridesBeatXDGBeatDefaults(t *testing.T) {
	home := Paths{Cache: "/h/.cache/mvm", Config: "/h/.config/mvm", State: "/h/.local/state/mvm", Data: "/h/.local/share/mvm", Runtime: "/tmp/mvm-1000"}
	xdg := home
	xdg.State, xdg.Runtime = "/x/state/mvm", "/run/user/1000/mvm"
	own := xdg
	own.State = "/own"
	for name, tt := range map[string]struct {
		env  func(string) string
		want Paths
	}{
		"defaults":               {env("HOME", "/h"), home},
		"XDG":                    {env("HOME", "/h", "XDG_STATE_HOME", "/x/state", "XDG_RUNTIME_DIR", "/run/user/1000"), xdg},
		"override":               {env("HOME", "/h", "XDG_STATE_HOME", "/x/state", "XDG_RUNTIME_DIR", "/run/user/1000", "MVM_STATE_DIR", "/own/"), own},
		"relative XDG is nought": {env("HOME", "/h", "XDG_STATE_HOME", "x", "XDG_RUNTIME_DIR", "y"), home},
	} {
		got, err := Find(tt.env, 1000)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestNoHomeAndRelativeOverridesAreSaidSo(t *testing.T) {
	if _, err := Find(env(), 1000); machine.CodeOf(err) != "env.home" {
		t.Errorf("no HOME: %v", err)
	}
	for _, c := range []struct {
		env    func(string) string
		remedy string
	}{
		{env(), "set HOME, or MVM_CACHE_DIR, MVM_CONFIG_DIR, MVM_STATE_DIR and MVM_DATA_DIR"},
		{env("MVM_CACHE_DIR", "/a", "XDG_STATE_HOME", "/c"), "set HOME, or MVM_CONFIG_DIR and MVM_DATA_DIR"},
		{env("HOME", "h", "MVM_CACHE_DIR", "/a", "MVM_CONFIG_DIR", "/b", "MVM_DATA_DIR", "/d"), "set HOME, or MVM_STATE_DIR"},
	} {
		_, err := Find(c.env, 1000)
		if me, ok := errors.AsType[*machine.Error](err); !ok || me.Remedy != c.remedy {
			t.Errorf("%v; want the remedy %q", err, c.remedy)
		}
	}
	if _, err := Find(env("HOME", "/h", "MVM_CACHE_DIR", "x"), 1000); machine.CodeOf(err) != "env.path" {
		t.Errorf("relative override: %v", err)
	}
	all := env("MVM_CACHE_DIR", "/a", "MVM_CONFIG_DIR", "/b", "MVM_STATE_DIR", "/c", "MVM_DATA_DIR", "/d", "MVM_RUNTIME_DIR", "/e")
	if p, err := Find(all, 1000); err != nil || p.Data != "/d" {
		t.Errorf("all overridden, no HOME: %+v, %v", p, err)
	}
}

func TestTooLongSocketPathsAreRefusedWithTheRemedy(t *testing.T) {
	long := Paths{Runtime: "/tmp/" + strings.Repeat("x", 120)}
	err := long.Machine("web", "0123456789abcdef").CheckSocket()
	var e *machine.Error
	if !errors.As(err, &e) || e.Code != "env.path" || !strings.Contains(e.Remedy, "MVM_RUNTIME_DIR") {
		t.Errorf("CheckSocket: %v", err)
	}
	if err := (Paths{Runtime: "/run/user/1000/mvm"}).Machine("web", "0123456789abcdef").CheckSocket(); err != nil {
		t.Error(err)
	}
}

func TestPrivateDirectories(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err := MakePrivate(dir); err != nil {
		t.Fatal(err)
	}
	for _, shared := range []os.FileMode{0o777, 0o775, 0o700 | os.ModeSticky} {
		if err := os.Chmod(dir, shared); err != nil {
			t.Fatal(err)
		}
		if err := MakePrivate(dir); machine.CodeOf(err) != "env.ownership" {
			t.Errorf("mode %v: %v, want env.ownership", shared, err)
		}
		if info, _ := os.Stat(dir); info.Mode().Perm() != shared.Perm() {
			t.Errorf("mode %v was changed to %v", shared, info.Mode())
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := MakePrivate(dir); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, want 0700", info.Mode())
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if err := MakePrivate(link); machine.CodeOf(err) != "env.ownership" {
		t.Errorf("a link: %v, want env.ownership", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := MakePrivate(file); err == nil {
		t.Error("a file was accepted")
	}
}

func TestAStrangersDirectoryIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a directory that belongs to somebody else")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if err := MakePrivate(dir); machine.CodeOf(err) != "env.ownership" {
		t.Errorf("MakePrivate: %v, want env.ownership", err)
	}
}

func TestWriteErrorsSayWhatToDo(t *testing.T) {
	for errno, code := range map[syscall.Errno]string{syscall.ENOSPC: "limit.disk", syscall.EDQUOT: "limit.disk", syscall.EROFS: "state.readonly", syscall.EACCES: "state.readonly", syscall.EIO: ""} {
		err := WriteError("writing x", &os.PathError{Op: "write", Path: "x", Err: errno})
		if machine.CodeOf(err) != code || !errors.Is(err, errno) {
			t.Errorf("%v: %v (code %q, want %q)", errno, err, machine.CodeOf(err), code)
		}
	}
}

// What makes room is said by what is there: machines are not in the cache.
func TestRemediesOfAFullDisk(t *testing.T) {
	full := &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}
	for _, c := range []struct {
		err        error
		with, sans string
	}{
		{WriteError("x", full), "`mvmctl rm`", "cache prune"},
		{CacheError("x", full), "`mvmctl cache prune --all`", "`mvmctl rm`"},
		{TargetError("x", full), "another place", "mvmctl"},
	} {
		e, ok := errors.AsType[*machine.Error](c.err)
		if !ok || !strings.Contains(e.Remedy, c.with) || strings.Contains(e.Remedy, c.sans) {
			t.Errorf("%+v: with %q, without %q", c.err, c.with, c.sans)
		}
	}
}
