package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestLoadProject(t *testing.T) {
	t.Parallel()
	path := write(t, `
name = "web"
image = "nginx:1.27"
cpus = 2
memory = "1G"
ports = ["8080:80"]
volumes = ["data:/var/lib/data", "./etc:/etc/app"]
command = ["serve", "--port", "80"]

[env]
MODE = "dev"

[services.worker]
command = ["work"]
user = "app"
restart = "on-failure"

[health.http]
command = ["wget", "-q", "-O-", "http://localhost/"]
grace = "10s"
retries = 2
`)
	got, err := LoadProject(path)
	want := Project{
		Path: path, Name: "web", Image: "nginx:1.27", Ports: []string{"8080:80"}, Volumes: []string{"data:/var/lib/data", "./etc:/etc/app"},
		Command: []string{"serve", "--port", "80"}, Env: map[string]string{"MODE": "dev"},
		Services: map[string]Service{"worker": {Command: []string{"work"}, User: "app", Restart: "on-failure"}},
		Health:   map[string]Health{"http": {Command: []string{"wget", "-q", "-O-", "http://localhost/"}, Grace: "10s", Retries: 2}},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Project{}, "At")); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	c, err := Load(Options{Project: path})
	if err != nil || c.Said("cpus") != "2" || c.Said("memory") != "1G" {
		t.Errorf("the settings of the same file: %+v, %v", c, err)
	}
	if p, err := LoadProject("/nowhere/mvm.toml"); err != nil || p.Path != "" {
		t.Errorf("no file: %+v, %v", p, err)
	}
	// The user's own file describes no machine.
	if _, err := Load(Options{User: path}); err == nil {
		t.Error("a user's file with an image was accepted")
	}
}

func TestProjectMistakes(t *testing.T) {
	t.Parallel()
	tests := []struct{ text, code, where, says string }{
		{"image = \"a\"\nflake = \".\"\n", "config.invalid", ":2:1", "image and flake"},
		{"image = \"a\"\n\n[services.w]\ncomand = [\"x\"]\n", "config.unknown_key", ":4:1", "services.w.comand"},
		{"image = \"a\"\nports = \"80\"\n", "config.invalid", ":2:1", "ports is a text, and has to be a list of texts"},
		{"image = \"a\"\nports = [80]\n", "config.invalid", ":2:1", "ports is a list with a number in it, and"},
		{"image = 3\n", "config.invalid", ":1:1", "image is a number, and has to be a text"},
		{"sealed = 1\n", "config.invalid", ":1:1", "sealed is a number, and has to be true or false"},
		{"[env]\nA = 1\n", "config.invalid", ":2:1", "env.A is a number, and has to be a text"},
		{"env = { A = 1 }\n", "config.invalid", ":1:1", "env.A is a number"},
		{"env = [\"A=1\"]\n", "config.invalid", ":1:1", "env is a list of texts, and has to be a table of texts"},
		{"services = \"x\"\n", "config.invalid", ":1:1", "services is a text, and has to be a table of tables"},
		{"[services]\nweb = \"x\"\n", "config.invalid", ":2:1", "services.web is a text, and has to be a table"},
		{"[health.a]\nretries = \"3\"\n", "config.invalid", ":2:1", "health.a.retries is a text, and has to be a number"},
		{"[health.a]\nretries = 99999999999\n", "config.invalid", ":2:1", "99999999999"},
		{"image = 2026-01-01\n", "config.invalid", ":1:1", "a date"},
		{"image = \"a\"\nworkdir = \"rel\"\n", "config.invalid", ":2:1", "workdir is \"rel\", and has to be an absolute path in the guest"},
		{"image = \"a\"\n[services.w]\nworkdir = \"rel\"\n", "config.invalid", ":3:1", "services.w.workdir is \"rel\""},
		{"image = \"a\"\nprofile = \"web\"\n", "config.invalid", ":2:1", "there is no flake"},
		{"nom = \"a\"\n", "config.unknown_key", ":1:1", "nom"},
		{"image = \"a\n", "config.invalid", ":1:", "not TOML"},
		{strings.Repeat("[", 100), "config.invalid", ":1:", "nest"},
	}
	for _, tt := range tests {
		_, err := LoadProject(write(t, tt.text))
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Code != tt.code || !strings.Contains(e.Where, tt.where) || !strings.Contains(e.Message, tt.says) || e.Remedy == "" ||
			strings.Contains(e.Message+e.Remedy, "docs/") || strings.Contains(e.Message, "struct") {
			t.Errorf("%q: %#v", tt.text, err)
		}
	}
}

func FuzzProject(f *testing.F) {
	f.Add("image = \"a\"\n[services.w]\ncommand = [\"x\"]\n")
	f.Add("[[env]]\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := LoadProject(write(t, text))
		if _, ok := errors.AsType[*Error](err); err != nil && !ok {
			t.Errorf("%q: %v", text, err)
		}
		if err == nil && len(p.Sources()) > 1 {
			t.Errorf("%+v", p)
		}
	})
}
