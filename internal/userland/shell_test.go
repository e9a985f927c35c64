package userland

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// shellProcess starts our sh as a process, as a guest does.
func shellProcess(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	bin := multicall(t)
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "sh"), args...)
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"PATH=" + bin, "HOME=" + cmd.Dir, "LC_ALL=C", "TZ=UTC"}
	return cmd
}

func resultOf(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

// shellScripts behave the same in our shell as in bash. $T is not used: each
// runs in an empty directory.
var shellScripts = []string{
	"echo a; echo b", "exit 3", "false", "true && echo y || echo n", "! true", "(exit 4)", "f() { return 5; }; f",
	"nosuchcommand 2>/dev/null; echo $?", "touch x; ./x 2>/dev/null; echo $?", "./nosuch 2>/dev/null; echo $?", "mkdir d; ./d 2>/dev/null; echo $?",
	"printf 'echo from script $1\\n' >s; chmod +x s; ./s arg", "printf '#!/bin/sh\\necho shebang\\n' >s; chmod +x s; ./s",
	"echo hi | cat | tr h j", "seq 5 | { read a; read b; echo $b; }", "echo x >f; echo y >>f; cat <f", "cat <<E\na $((1+2))\nE\n", "cat <<'E'\na $x\nE\n", "cat <<-E\n\ttab\n\tE\n", "cat nosuch 2>&1 | sed 's/.*: //'", "ls nosuch >/dev/null 2>&1; echo $?", "{ echo o; echo e >&2; } 2>f; cat f", "cat <<< word",
	"set -e; false; echo no", "set -e; false || true; echo yes", "set -e; if false; then :; fi; echo yes", "set -o pipefail; false | true; echo $?", "false | true; echo $?",
	"set -- a b c; echo $# $1 \"$*\"; shift; echo $@", "for i in 1 2 3; do [ $i = 2 ] && continue; echo $i; done", "i=0; while [ $i -lt 3 ]; do i=$((i+1)); done; echo $i", "until false; do break; done; echo ok", "case abc in a*) echo star;; *) echo other;; esac",
	"x=5; (x=6); echo $x", "x=5; x=7 env | grep '^x='", "export Y=1; sh -c 'echo $Y'", "unset HOME; echo ${HOME-unset}", "a=hello; echo ${#a} ${a#he} ${a%lo} ${a:-d} ${b:-d} ${b:=set} $b", "echo $(echo a $(echo b))", "echo `echo old`", "echo \"a  b\"  'c  d' e\\ f", "touch a1 a2; echo a*; echo 'a*'; echo b*", "echo {1..3} x{a,b}",
	"trap 'echo bye' EXIT; echo hi", "trap 'echo bye $?' EXIT; exit 3", "trap 'echo usr' USR1; kill -USR1 $$; echo after", "trap '' TERM; kill $$; echo survived", "trap 'echo t' TERM; trap - TERM; (kill $$); echo no", "trap 'echo one; exit 9' HUP; kill -HUP $$; sleep 1; echo no",
	"sleep 0.05 & wait; echo $?", "(exit 7) & wait $!; echo $?", "sleep 5 & kill $!; wait $!; echo $?", "sleep 5 & kill -9 $!; wait $!; echo $?", "{ sleep 0.05; exit 6; } & wait $!; echo $?", "sleep 0.05 & p=$!; kill -0 $p && echo alive; wait $p; kill -0 $p 2>/dev/null || echo gone", "wait 999999 2>/dev/null; echo $?", "f() { sleep 5; }; f & kill $!; wait $! 2>/dev/null; echo $?", "true & true & wait; echo $?", "(sleep 0.05; echo late) & echo early; wait", "for i in 1 2 3; do (exit $i) & p=\"$p $!\"; done; for q in $p; do wait $q; echo $?; done", "x=$(sleep 0 & wait; echo in); echo $x", "sleep 3 & p=$!; sh -c \"kill $p\"; wait $p; echo $?", "cat & wait $!; echo eof", "eval 'sleep 0.01 & wait $!'; echo $?",
	"while :; do sleep 5; done & kill $!; wait $! 2>/dev/null; echo $?",
	"echo x | read v; echo [$v]", "echo x | { read v; echo $v; exit 3; }; echo $?", "x=1; echo | x=2; echo $x", "f() { cat; }; echo a | f", "trap 'echo w' USR1; (sleep 0.1; kill -USR1 $$) & wait; echo $?",
	"exec echo replaced; echo no", "exec >f; echo into; exec >&2; cat f 2>/dev/null", "(exec sh -c 'exit 3'); echo $?", "exec nosuch 2>/dev/null; echo no", "if true; then exec echo x; fi; echo no", "echo a | exec cat; echo still",
	"cd /; pwd; cd - >/dev/null", "cd nosuch 2>/dev/null; echo $?", "mkdir -p a/b; cd a/b; pwd | sed 's,.*/a,a,'; cd ..; pwd | sed 's,.*/,,'", "umask 077; touch f; ls -l f | cut -c1-10", "echo $0 $1", "type cd >/dev/null; echo $?", "command -v sh >/dev/null; echo $?", "command -v nosuch; echo $?", ". ./nosuch 2>/dev/null; echo $?", "echo 'v=1; f() { echo fn; }' >lib; . ./lib; f; echo $v",
	"yes | head -n 1", "yes 2>/dev/null | true; echo ok", "seq 100000 | head -n 1; echo $?", "echo $((0x10 + 010 * 2 % 3))", "read a b <<E\n1 2 3\nE\necho $b", "IFS=:; set -- $(echo a:b); echo $2", "printf '%s\\n' a b | while read l; do echo [$l]; done", "printf '%03d|%-4s|%x\\n' 7 ab 255", "printf '%b' 'a\\n'", "echo -n a; echo -e 'b\\tc'", "test -f /etc/passwd && echo file", "[ a = b ] || echo differ", "[[ abc == a* ]] && echo match",
	"kill -l 15", "kill -TERM 999999999 2>/dev/null; echo $?", "ulimit -n >/dev/null; echo $?", "jobs", "getopts ab: o -b x; echo $o $OPTARG", "local x 2>/dev/null; echo $?", "f() { local y=1; echo $y; }; f; echo $y", "if ! grep -q x /dev/null; then echo none; fi", "true | false | true; echo $?", "set -x; echo traced", "echo a#b # comment", "a=1 b=2; echo $a$b", "echo \"$(printf 'x\\n\\n')\"", "$(echo echo) indirect", "'ec'ho quoted",
	"timeout 0.05 sleep 3; echo $?", "env -i sh -c 'echo ok'", "nohup sh -c 'echo nh' 2>/dev/null", "echo x | xargs -I{} sh -c 'echo got {}'", "find . -maxdepth 0 -exec sh -c 'echo f' \\;", "sh -c 'kill -TERM $$'; echo $?", "sh -c 'kill -INT $$'; echo $?", "sh -c 'exit 300'; echo $?",
}

func TestShellScriptsAsInBash(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("missing: bash")
	}
	for _, script := range shellScripts {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			theirs := exec.CommandContext(t.Context(), bash, "-c", script, "sh", "arg1")
			theirs.Dir = t.TempDir()
			theirs.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + theirs.Dir, "LC_ALL=C", "TZ=UTC"}
			want := resultOf(t, theirs)
			got := resultOf(t, shellProcess(t, "-c", script, "sh", "arg1"))
			if diff := cmp.Diff(want.out, got.out); diff != "" || want.code != got.code {
				t.Errorf("status %d, bash has %d; output (-bash +ours):\n%s\nbash: %s\nours: %s", got.code, want.code, diff, want.err, got.err)
			}
		})
	}
}

func TestShellStartsAndReadsScripts(t *testing.T) {
	for _, test := range []struct {
		name  string
		args  []string
		stdin string
		want  result
	}{
		{"command", []string{"-c", "echo $0 $1", "name", "arg"}, "", result{out: "name arg\n"}},
		{"options with the command", []string{"-ec", "false; echo no"}, "", result{code: 1}},
		{"script from standard input", nil, "echo one\nread line\ndata\necho got $line\nexit 4\n", result{out: "one\ngot data\n", code: 4}},
		{"standard input with arguments", []string{"-s", "x", "y"}, "echo $1 $2\n", result{out: "x y\n"}},
		{"trap at the end of standard input", nil, "trap 'echo bye $?' EXIT\n(exit 5)\n", result{out: "bye 5\n", code: 5}},
		{"input without a last newline", nil, "echo a; echo b", result{out: "a\nb\n"}},
		{"here-document on standard input", nil, "cat <<E\nx\nE\necho y\n", result{out: "x\ny\n"}},
		{"syntax error", []string{"-c", "if true"}, "", result{err: "sh: sh:1:1: `if <cond>` must be followed by `then`\n", code: 2}},
		{"no such script", []string{"nosuch"}, "", result{err: "sh: nosuch: No such file or directory\n", code: 127}},
		{"command not found", []string{"-c", "nosuch"}, "", result{err: "sh: nosuch: not found\n", code: 127}},
		{"not executable", []string{"-c", "/"}, "", result{err: "sh: /: Permission denied\n", code: 126}},
		{"invalid option", []string{"-Z"}, "", result{err: "sh: invalid option -- 'Z'\nusage: sh [-c COMMAND | -s | FILE] [-efilnuvx] [-o OPTION] [ARG]...\n", code: 2}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := shellProcess(t, test.args...)
			cmd.Stdin = strings.NewReader(test.stdin)
			if diff := cmp.Diff(test.want, resultOf(t, cmd), cmp.AllowUnexported(result{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A command given with -c and "exec" take the shell's own process, so that a
// signal to the process that the agent started reaches the command itself.
func TestShellGivesItsProcessToTheLastCommand(t *testing.T) {
	for _, script := range []string{"sh -c 'echo $$; :'", "exec sh -c 'echo $$; :'", "x=1; if true; then exec sh -c 'echo $$; :'; fi"} {
		cmd := shellProcess(t, "-c", script)
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		if got, want := strings.TrimSpace(out.String()), cmd.ProcessState.Pid(); got == "" || got != strconv.Itoa(want) {
			t.Errorf("%s: ran as process %s, the shell was %d", script, got, want)
		}
	}
}

// Statements on standard input run as they arrive, not at its end.
func TestShellRunsStreamedStatementsAtOnce(t *testing.T) {
	cmd := shellProcess(t)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	for _, step := range []struct{ send, want string }{{"echo one\n", "one\n"}, {"for i in 1 2; do\n", ""}, {"echo $i; done\n", "1\n2\n"}, {"echo two\n", "two\n"}} {
		if _, err := in.Write([]byte(step.send)); err != nil {
			t.Fatal(err)
		}
		got := ""
		for len(got) < len(step.want) {
			n, err := out.Read(buf)
			if err != nil {
				t.Fatalf("after %q: %v", step.send, err)
			}
			got += string(buf[:n])
		}
		if got != step.want {
			t.Errorf("after %q: %q, want %q", step.send, got, step.want)
		}
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}

// An embedded shell ends with its context, also while a command of it runs.
func TestEmbeddedShellEndsWithItsContext(t *testing.T) {
	for _, script := range []string{"sleep 100", "while :; do :; done", "sleep 100 | cat", "sleep 100 & wait", "yes >/dev/null", "tail -f /dev/null"} {
		start := time.Now()
		code := runFor(t, 50*time.Millisecond, "sh", "-c", script)
		if took := time.Since(start); code == 0 || took > 10*time.Second {
			t.Errorf("%s: status %d after %v", script, code, took)
		}
	}
}

func TestEmbeddedShellLeavesTheProcessAlone(t *testing.T) {
	before, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	mask := currentUmask()
	got := run(t, t.TempDir(), "", "sh", "-c", "cd /; umask 077; echo $?; pwd; exec echo end")
	if want := (result{"1\n/\nend\n", "sh: umask: the mask cannot be changed here\n", 0}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if after, _ := os.Getwd(); after != before || currentUmask() != mask {
		t.Error("the process's directory or mask has changed")
	}
}
