//go:build unix

package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

func TestInitStopSignal(t *testing.T) {
	dir := t.TempDir()
	for name, want := range map[string]string{"systemd": "SIGRTMIN+3", "busybox": "SIGUSR2", "init": "SIGPWR", "runit": "SIGTERM"} {
		prog := filepath.Join(dir, name)
		if err := os.WriteFile(prog, nil, 0o755); err != nil {
			t.Fatal(err)
		}
		link := filepath.Join(dir, "link-to-"+name)
		if err := os.Symlink(name, link); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{prog, link} {
			if got := initStopSignal(path); got != want {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
	}
	if got := initStopSignal("/no/such/file"); got != "SIGTERM" {
		t.Errorf("missing: %s", got)
	}
}

func TestWhatTheEndOfAnInitMeans(t *testing.T) {
	for _, tt := range []struct{ is, want agentproto.Exit }{
		{agentproto.Exit{Code: 130, Signal: "SIGINT"}, agentproto.Exit{}}, // power-off, halt
		{agentproto.Exit{Code: 129, Signal: "SIGHUP"}, agentproto.Exit{}}, // reboot
		{agentproto.Exit{Code: 137, Signal: "SIGKILL"}, agentproto.Exit{Code: 137, Signal: "SIGKILL"}},
		{agentproto.Exit{Code: 3}, agentproto.Exit{Code: 3}},
	} {
		if got := initExit(tt.is); got != tt.want {
			t.Errorf("%+v: %+v", tt.is, got)
		}
	}
}
