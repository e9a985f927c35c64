package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the scripts run this test program as `mvmctl`.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"mvmctl": func() { os.Exit(run()) }})
}

// TestScripts runs testdata/script: each file is one part of the command line's behaviour, told
// as a session. The machines are real ones on the fake backend: real supervisor processes and
// the real guest agent, as processes of this host.
//
// What the scripts have beside testscript's own commands:
//
//	exits CODE COMMAND ARG...   runs a command and wants this exit code
//	await FILE                  waits until the file exists
func TestScripts(t *testing.T) {
	agent := buildAgent(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Vars = append(
				env.Vars,
				"HOME="+filepath.Join(env.WorkDir, "home"),
				"MVM_RUNTIME_DIR="+filepath.Join(env.WorkDir, "r"),
				"MVM_AGENT="+agent,
				"MVM_HYPERVISOR=fake",
			)
			env.Defer(func() { removeAll(t, env.Vars) })
			return os.Mkdir(filepath.Join(env.WorkDir, "home"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "await": await},
	})
}

// buildAgent builds the guest agent. The sources are looked at from this process too, so that
// `go test` knows that its result depends on them.
func buildAgent(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{"../mvm-agent", "../../internal"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".go" {
				return err
			}
			_, err = os.Stat(path)
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a file that an editor just replaced
			t.Fatal(err)
		}
	}
	out := filepath.Join(t.TempDir(), "mvm-agent")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", out, "../mvm-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the guest agent: %v\n%s", err, text)
	}
	return out
}

// removeAll ends what a script left running.
func removeAll(t *testing.T, env []string) {
	cmd := exec.Command("mvmctl", "rm", "--all", "--force", "--quiet")
	cmd.Env = env
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("removing the script's machines: %v\n%s", err, text)
	}
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARG...")
	}
	want, err := strconv.Atoi(args[0])
	if err != nil {
		ts.Fatalf("usage: exits CODE COMMAND ARG...")
	}
	err = ts.Exec(args[1], args[2:]...)
	code := 0
	var ee *exec.ExitError
	switch {
	case errors.As(err, &ee):
		code = ee.ExitCode()
	case err != nil:
		ts.Fatalf("%s: %v", strings.Join(args[1:], " "), err)
	}
	if code != want {
		ts.Fatalf("%s: exit code %d, want %d", strings.Join(args[1:], " "), code, want)
	}
}

// awaitTime is how long a script may wait for something that a command does at its own pace.
const awaitTime = 30 * time.Second

func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: await FILE")
	}
	path := ts.MkAbs(args[0])
	for end := time.Now().Add(awaitTime); ; {
		if _, err := os.Stat(path); err == nil {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%s did not appear within %s", args[0], awaitTime)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
