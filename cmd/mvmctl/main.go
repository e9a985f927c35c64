// Command mvmctl builds, boots and manages microVMs.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/mvmctl/mvmctl/internal/cli"
	"github.com/mvmctl/mvmctl/internal/linuxenv"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// version is set by the build (-ldflags -X main.version=…).
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	if len(os.Args) > 1 && os.Args[1] == superviseCommand {
		return runSupervisor()
	}
	if len(os.Args) > 1 && os.Args[1] == linuxenv.Command {
		return serveLinux()
	}
	return cli.Run(context.Background(), os.Args[1:], cli.Stdio(), deps())
}

func runSupervisor() int {
	p, err := paths.Find(os.Getenv, os.Geteuid())
	if err == nil {
		err = supervise(p)
	}
	if err != nil {
		// Standard error is the supervisor's log; who started it has been told by event.
		_, _ = fmt.Fprintln(os.Stderr, "supervisor:", err)
		return 1
	}
	return 0
}
