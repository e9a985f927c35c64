package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// TestMistakes: each mistake on a command line exits 2 (or 125) before the engine is asked for
// anything, says what is wrong on one line and what to do on the next, and has a stable code.
func TestMistakes(t *testing.T) {
	tests := []struct {
		args   string
		code   string
		says   string // in the cause
		remedy string // in the remedy
	}{
		{"lss", "usage.command", `mvmctl has no command "lss"`, "did you mean `mvmctl ls`?"},
		{"kernel fetchh", "usage.command", `no command "fetchh"`, "did you mean `mvmctl kernel fetch`?"},
		{"nosuch --frob", "usage.command", `mvmctl has no command "nosuch"`, "mvmctl --help"},
		{"image nosuch --frob", "usage.command", `mvmctl image has no command "nosuch"`, "mvmctl image --help"},
		{"ls -l=", "input.label", `"=" is not a label`, "KEY=VALUE"},
		{"volume create Bad_", "name.invalid", `"Bad_" is not a volume name`, "lower-case"},
		{"volume rm Bad_", "name.invalid", `"Bad_" is not a volume name`, "lower-case"},
		{"up minimal -v a:/proc", "input.volume", "/proc is the guest's own", "NAME:/path"},
		{"ls --jsn", "usage.flag", "mvmctl ls has no flag --jsn", "did you mean --json?"},
		{"ls -Z", "usage.flag", "no flag -Z", "mvmctl ls --help"},
		{"help kernel fetchh", "usage.command", `no command "fetchh"`, "did you mean `mvmctl kernel fetch`?"},
		{"help lss", "usage.command", `no command "lss"`, "did you mean `mvmctl ls`?"},
		{"version x", "usage.args", `"x" is one argument too many`, "usage: mvmctl version"},

		{"up", "usage.args", "IMAGE is missing", "image list"},
		{"up minimal echo hi", "usage.args", `"echo" is one argument too many`, "mvmctl up minimal -- echo hi"},
		{"up minimal --", "usage.args", "nothing after --", "leave -- out"},
		{"up minimal --cpus 0", "input.range", `"0" CPUs`, "--cpus 1"},
		{"up minimal --cpus two", "input.range", `"two" CPUs`, "--cpus 1"},
		{"up minimal --cpus 1000", "input.range", "1000 CPUs", "--cpus"},
		{"up minimal -m 3X", "input.size", `"3X" is not a size`, "512M"},
		{"up minimal -m 1K", "input.range", "memory of 1 KiB", "use --memory 96M or more"},
		{"up minimal -m 99999T", "input.range", "memory of 97.7 PiB", "use --memory 4T or less"},
		{"up minimal -m 0", "input.range", "memory of 0 B", "--memory 96M"},
		{"up minimal --disk 1", "input.range", "disk of 1 B", "use --disk 16M or more"},
		{"up minimal --timeout 5", "input.duration", `"5" is not a duration`, "30s"},
		{"up minimal --timeout=-5s", "input.duration", `"-5s"`, "30s"},
		{"up minimal --name Web", "name.invalid", `"Web"`, "lower-case"},
		{"up minimal --name ../x", "name.invalid", `"../x"`, "lower-case"},
		{"up minimal --name=", "name.invalid", `""`, "lower-case"},
		{"up minimal --hypervisor=", "usage.flag", "--hypervisor is empty", "leave it out"},
		{"up minimal -p 99999:80", "input.port", "99999", "8080:80"},
		{"up minimal -p 0:0", "input.port", "guest port 0", "8080:80"},
		{"up minimal -p 80:80 -p 80:81", "input.port", "twice", "its own host port"},
		{"up minimal -e =x", "input.env", `"=x"`, "KEY=VALUE"},
		{"up minimal --env-file /dev/null", "input.not_regular", "/dev/null is not a regular file", "regular file"},
		{"up minimal --env-file nowhere", "input.file", "reading nowhere: no such file", "check the path"},
		{"up minimal --label =x", "input.label", `"=x" is not a label`, "KEY=VALUE"},
		{"up minimal --require-isolation vmm", "input.isolation", `"vmm"`, `did you mean "vm"?`},
		{"up minimal --progress loud", "input.progress", `"loud"`, "auto, plain or none"},
		{"up minimal --dev --sealed", "usage.flag", "exclude each other", "leave one of them out"},
		{"up minimal -t --no-tty", "usage.flag", "exclude each other", "leave one of them out"},
		{"up minimal --network x", "usage.flag", "no flag --network", "mvmctl up --help"},
		{"up minimal --memory", "usage.flag", "the flag --memory needs a value", "mvmctl up --help"},

		{"down", "usage.args", "NAME is missing", "--all"},
		{"down --all web", "usage.args", "exclude each other", "leave out"},
		{"down web --time soon", "input.duration", `"soon"`, "30s"},
		{"rm Web", "name.invalid", `"Web"`, "lower-case"},
		{"ls --state rnning", "input.state", `"rnning"`, `did you mean "running"?`},
		{"ls -a --running", "usage.flag", "exclude each other", "leave one"},
		{"inspect", "usage.args", "NAME is missing", "usage: mvmctl inspect"},
		{"inspect a b", "usage.args", `"b" is one argument too many`, "usage:"},
		{"logs web --source kernel", "input.source", `"kernel"`, "guest, console, vmm or supervisor"},
		{"logs web -n many", "input.tail", `"many"`, "--tail 20"},
		{"logs web --since yesterday", "input.time", `"yesterday"`, "10m"},
		{"logs web --since 5m --source vmm", "usage.flag", "--since does not go with", "leave out"},
		{"exec", "usage.args", "NAME is missing", "usage: mvmctl exec"},
		{"exec web", "usage.args", "COMMAND is missing", "mvmctl console web"},
		{"exec web --frob ls", "usage.flag", "no flag --frob", "goes after --"},
		{"exec web --timeout never -- ls", "input.duration", `"never"`, "30s"},
		{"console", "usage.args", "NAME is missing", "usage: mvmctl console"},
		{"cp a b", "copy.sides", "neither side", "NAME:PATH"},
		{"cp a:/x b:/y", "copy.sides", "only one side", "this host first"},
		{"cp A:/x .", "name.invalid", `"A"`, "lower-case"},
		{"cp web:/x", "usage.args", "DESTINATION is missing", "usage: mvmctl cp"},
		{"forward", "usage.args", "NAME is missing", "usage: mvmctl forward"},
		{"forward web 1:2:3:4", "input.port", "too many colons", "8080:80"},
		{"forward -d web", "usage.args", "PORT is missing", "usage: mvmctl forward"},
		{"wait", "usage.args", "NAME is missing", "usage: mvmctl wait"},
		{"completion bsh", "input.shell", `"bsh"`, `did you mean "bash"?`},
		{"supervise", "usage.command", "for mvmctl itself", "mvmctl up"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			a := call{}.run(t, strings.Fields(tt.args)...)
			cause, remedy, _ := strings.Cut(a.err, "\n")
			if a.code != 2 || a.out != "" {
				t.Errorf("exit code %d, standard output %q; want 2 and nothing", a.code, a.out)
			}
			if !strings.HasPrefix(a.err, "mvmctl: ") || !strings.Contains(cause, tt.says) {
				t.Errorf("cause %q does not say %q", cause, tt.says)
			}
			if !strings.HasPrefix(remedy, "  ") || strings.Count(remedy, "\n") != 1 || !strings.Contains(remedy, tt.remedy) {
				t.Errorf("remedy %q does not say %q on one line", remedy, tt.remedy)
			}
		})
		name, rest, _ := strings.Cut(tt.args, " ")
		if !slices.Contains([]string{"down", "rm", "ls", "inspect", "logs", "cp", "forward", "wait"}, name) {
			continue // no --json, or adding it would be another mistake
		}
		t.Run(tt.args+" --json", func(t *testing.T) {
			a := call{}.run(t, append([]string{name, "--json"}, strings.Fields(rest)...)...)
			var got map[string]errorJSON
			if err := json.Unmarshal([]byte(a.err), &got); err != nil {
				t.Fatalf("standard error is %q: %v", a.err, err)
			}
			if e := got["error"]; a.code != 2 || e.Code != tt.code || e.Exit != 2 || e.Message == "" || e.Remedy == "" {
				t.Errorf("exit code %d, error %+v; want code %q and exit code 2", a.code, e, tt.code)
			}
		})
	}
}

// TestUnknownFlagsOfLaterVersions: what does not exist yet is refused, never ignored.
func TestUnknownFlagsOfLaterVersions(t *testing.T) {
	for _, flag := range []string{"--image", "--template", "--network", "--secret", "--seccomp", "--config"} {
		a := call{}.run(t, "up", "minimal", flag, "x")
		if a.code != 2 || !strings.Contains(a.err, "no flag "+flag) {
			t.Errorf("up %s: exit code %d, %q", flag, a.code, a.err)
		}
	}
}

// TestNamesAreCheckedFirst (threat A001): no name reaches the engine unless it is one.
func TestNamesAreCheckedFirst(t *testing.T) {
	bad := []string{
		"", ".", "..", "a/b", "../x", strings.Repeat("a", 64), "a\x00b", "a\nb", "a\x1b[2J", "\u202eabc", "a\u200bb", "cafe\u0301", "café", "a.", "a ", "A", "_a",
	}
	commands := [][]string{{"down"}, {"rm"}, {"inspect"}, {"logs"}, {"console"}, {"diff"}, {"wait"}, {"forward"}, {"ls"}, {"exec"}}
	for _, c := range commands {
		for _, name := range bad {
			args := append(append([]string{}, c...), name)
			if c[0] == "exec" {
				args = append(args, "--", "true")
			}
			a := call{}.run(t, args...)
			if a.code != 2 || !strings.Contains(a.err, "is not a machine name") {
				t.Errorf("%q: exit code %d, %q", args, a.code, a.err)
			}
			if strings.ContainsAny(a.err, "\x00\x1b\u202e\u200b") {
				t.Errorf("%q: the error shows the name raw: %q", args, a.err)
			}
		}
	}
	if a := (call{}).run(t, "up", "minimal", "--json"); a.code != 2 || !strings.Contains(a.err, "--json needs -d") {
		t.Errorf("up --json in the foreground: exit code %d, %q", a.code, a.err)
	}
	// A name that begins with a dash is a flag, or a name after --.
	if a := (call{}).run(t, "rm", "--", "-x"); a.code != 2 || !strings.Contains(a.err, `"-x" is not a machine name`) {
		t.Errorf("rm -- -x: exit code %d, %q", a.code, a.err)
	}
}

// TestHelp: every command has a short and a long text, and examples, on standard output.
func TestHelp(t *testing.T) {
	root := call{}.run(t, "--help")
	for _, want := range []string{"MVM_MEMORY", "MVM_STATE_DIR", "125", "Examples:", "Machines:", "This host:"} {
		if !strings.Contains(root.out, want) {
			t.Errorf("mvmctl --help does not mention %s", want)
		}
	}
	if root.code != 0 || root.err != "" || strings.Contains(root.out, "supervise") {
		t.Errorf("mvmctl --help: exit code %d, standard error %q", root.code, root.err)
	}
	for _, c := range commands() {
		if c.name == "supervise" {
			continue
		}
		for _, name := range append([]string{c.name}, c.aliases...) {
			a := call{}.run(t, name, "--help")
			if a.code != 0 || a.err != "" {
				t.Errorf("%s --help: exit code %d, standard error %q", name, a.code, a.err)
			}
			if !strings.Contains(a.out, "Usage:") || !strings.Contains(a.out, "Examples:") && !strings.Contains(a.out, "Available Commands:") {
				t.Errorf("%s --help has no usage or no examples:\n%s", name, a.out)
			}
		}
	}
	if a, b := (call{}).run(t, "help", "up"), (call{}).run(t, "up", "--help"); a.code != 0 || a.out != b.out {
		t.Errorf("help up: exit code %d, not the page of up --help:\n%s", a.code, a.out)
	}
	if a := (call{}).run(t); a.code != 0 || a.out != root.out {
		t.Errorf("mvmctl alone: exit code %d, not the help page", a.code)
	}
}

// TestEnvFile: lines, comments and positions of mistakes.
func TestEnvFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "bad.env"), []byte("# comment\n\nA=1\nB C=2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := call{dir: dir}.run(t, "up", "minimal", "--env-file", "bad.env")
	if a.code != 2 || !strings.Contains(a.err, `bad.env:4: "B C=2" is not an environment entry`) {
		t.Errorf("exit code %d, %q", a.code, a.err)
	}
	var many strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&many, "K%d=v\n", i)
	}
	if err := os.WriteFile(filepath.Join(dir, "many.env"), []byte(many.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	a = call{dir: dir}.run(t, "exec", "--env-file", "many.env", "web", "true")
	if a.code != 2 || !strings.Contains(a.err, "2000 environment entries are more than 1024") {
		t.Errorf("exit code %d, %q", a.code, a.err)
	}
}

// A machine that does not exist is said to be none before anybody is asked for --force, and the
// command that forces it is whole.
func TestResetAsksLast(t *testing.T) {
	eng := &scripted{views: []machine.View{view("web", machine.StateExited)}}
	a := call{eng: eng}.run(t, "reset", "nosuch")
	if a.code != 125 || !strings.Contains(a.err, `there is no machine "nosuch"`) {
		t.Errorf("exit code %d, %q", a.code, a.err)
	}
	a = call{eng: eng}.run(t, "reset", "web")
	if a.code != 2 || !strings.Contains(a.err, "mvmctl reset --force web\n") || !strings.Contains(a.err, "machine web has changed") {
		t.Errorf("exit code %d, %q", a.code, a.err)
	}
	a = call{eng: eng}.run(t, "rm", "--all")
	if a.code != 2 || strings.Contains(a.err, "1 machines") {
		t.Errorf("exit code %d, %q", a.code, a.err)
	}
}

// Every command that prints an answer has it as JSON too.
func TestCommandsThatAnswerHaveJSON(t *testing.T) {
	a := &app{}
	root := a.root(nil)
	// These print what is not ours to shape, or nothing.
	without := map[string]bool{
		"mvmctl exec": true, "mvmctl console": true, "mvmctl completion": true, "mvmctl supervise": true, "mvmctl help": true,
		"mvmctl image export": true,
	}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		if c.HasSubCommands() || without[c.CommandPath()] {
			return
		}
		if c.Flags().Lookup("json") == nil {
			t.Errorf("%s has no --json", c.CommandPath())
		}
	}
	walk(root)
}
