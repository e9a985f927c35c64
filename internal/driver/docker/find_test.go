package docker

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFindSocket(t *testing.T) {
	home, run := t.TempDir(), t.TempDir()
	sum := sha256.Sum256([]byte("desktop"))
	meta := filepath.Join("contexts", "meta", hex.EncodeToString(sum[:]), "meta.json")
	write(t, filepath.Join(home, ".docker", meta), `{"Name":"desktop","Endpoints":{"docker":{"Host":"unix:///desktop.sock"}}}`)
	write(t, filepath.Join(home, ".docker", "config.json"), `{"currentContext":"desktop","auths":{}}`)
	remote := t.TempDir()
	write(t, filepath.Join(remote, meta), `{"Endpoints":{"docker":{"Host":"ssh://me@far"}}}`)
	write(t, filepath.Join(remote, "config.json"), `{"currentContext":"desktop"}`)
	broken := t.TempDir()
	write(t, filepath.Join(broken, "config.json"), `{"currentContext":`)
	plain := t.TempDir()
	rootless := filepath.Join(run, "docker.sock")
	ln, err := net.Listen("unix", rootless)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()

	tests := []struct {
		name       string
		env        map[string]string
		want, code string
	}{
		{"DOCKER_HOST comes first", map[string]string{"DOCKER_HOST": "unix:///a/b.sock", "HOME": home}, "/a/b.sock", ""},
		{"another host", map[string]string{"DOCKER_HOST": "tcp://far:2375"}, "", "backend.remote"},
		{"a relative socket", map[string]string{"DOCKER_HOST": "unix://s"}, "", "backend.remote"},
		{"the current context", map[string]string{"HOME": home}, "/desktop.sock", ""},
		{"a context by name", map[string]string{"DOCKER_CONFIG": filepath.Join(home, ".docker"), "DOCKER_CONTEXT": "desktop"}, "/desktop.sock", ""},
		{"a context that is not there", map[string]string{"HOME": home, "DOCKER_CONTEXT": "gone"}, "", "backend.remote"},
		{"a context elsewhere", map[string]string{"DOCKER_CONFIG": remote}, "", "backend.remote"},
		{"settings that cannot be read", map[string]string{"DOCKER_CONFIG": broken}, "", "backend.remote"},
		{"an engine without root", map[string]string{"HOME": plain, "XDG_RUNTIME_DIR": run}, rootless, ""},
		{"none", map[string]string{"HOME": plain}, "", "backend.missing"},
	}
	_, err = os.Stat("/var/run/docker.sock")
	system := err == nil
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if system && (tt.want == rootless || tt.code == "backend.missing") {
				t.Skip("this host has /var/run/docker.sock")
			}
			got, err := findSocket(func(k string) string { return tt.env[k] })
			if got != tt.want || machine.CodeOf(err) != tt.code {
				t.Errorf("%q, %v; want %q, %s", got, err, tt.want, tt.code)
			}
			if err != nil && !errors.Is(err, driver.ErrUnavailable) {
				t.Errorf("%v is no reason to look for another backend", err)
			}
		})
	}
}
