package userland

import (
	"context"
	"os"
	"path/filepath"

	"golang.org/x/term"
)

// Main is the whole program of a multi-call binary: args[0] is the name the
// process was started by, as in os.Args, or, when that is no command, args[1]
// is taken as the command ("mvm-agent ls -l"). It uses the process's streams,
// directory, environment and signals and returns the exit status for os.Exit.
//
// The shell starts the running binary again under a command's name, so the
// binary must call Main whenever Has(filepath.Base(os.Args[0])).
func Main(args []string) int {
	if len(args) > 0 && !Has(commandName(args[0])) { // started under the binary's own name
		args = args[1:]
	}
	if len(args) == 0 {
		return exitNotFound
	}
	argv := append([]string{commandName(args[0])}, args[1:]...)
	setProcessName(argv[0])
	dir, err := os.Getwd()
	if err != nil {
		dir = "/" // the directory was removed; absolute paths still work
	}
	return runCommand(context.Background(), argv, process{
		dir:   dir,
		env:   os.Environ(),
		stdio: Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr},
		self:  selfPath(),
		tty:   false,
	})
}

// commandName is the command that a process was started as. A login shell has
// a dash before its name.
func commandName(arg0 string) string {
	name := filepath.Base(arg0)
	if name == "-sh" {
		return "sh"
	}
	return name
}

// isTerminal reports whether v is a file on a terminal.
func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && f != nil && term.IsTerminal(int(f.Fd()))
}
