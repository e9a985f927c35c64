package vmm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mvmctl/mvmctl/internal/driver"
)

// A gated program is not run before its pid is noted, is the process of that pid, and gets its own
// arguments and an empty input.
func TestGate(t *testing.T) {
	t.Parallel()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	noted, ran := 0, ""
	c := Command{
		Name: "it", Argv: []string{"/bin/sh", "-c", `echo "$$ $0 $1"; cat; echo end`, "a b", "$HOME; 'x'"}, Stdout: out, Stderr: out, Gated: true,
		Began: func(pid int) {
			noted = pid
			said, err := os.ReadFile(out.Name())
			line, cerr := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if err != nil || cerr != nil {
				t.Errorf("%v, %v", err, cerr)
			}
			if ran = string(said); !strings.Contains(string(line), gateScript) {
				t.Errorf("what runs before it is noted: %q", line)
			}
		},
	}
	child, err := c.Start()
	if err != nil {
		t.Fatal(err)
	}
	<-child.Exited
	said, err := os.ReadFile(out.Name())
	if want := fmt.Sprintf("%d a b $HOME; 'x'\nend\n", child.Pid); err != nil || string(said) != want || noted != child.Pid || ran != "" {
		t.Errorf("%q (%v), want %q; noted %d, before that it said %q", said, err, want, noted, ran)
	}
	c.Argv = []string{"/nowhere/vmm"}
	if _, err := c.Start(); !errors.Is(err, driver.ErrUnavailable) {
		t.Errorf("a program that is not there: %v", err)
	}
}

// The end of whoever was to note the pid is the end of what waits for that.
func TestGateOfTheDead(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "ran")
	cmd := exec.CommandContext(context.Background(), shell, "-c", gateScript, shell, "touch", file)
	if err := cmd.Run(); err == nil { // its input is empty
		t.Error("it ended well")
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the program was run")
	}
}
