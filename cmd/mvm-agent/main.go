// Command mvm-agent is the guest's agent and user land: PID 1 of a microVM, or one of the small
// commands when it is started by another name.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestproc"
	"github.com/mvmctl/mvmctl/internal/userland"
)

// version is set by the build (-ldflags -X main.version=…).
var version = "dev"

func main() { os.Exit(run(os.Args)) }

func run(args []string) int {
	if len(args) > 1 && args[1] == guestproc.InitCommand {
		return becomeInit(args[2:])
	}
	if len(args) > 1 && args[1] == agentproto.ContainerCommand {
		return containerProcess()
	}
	if os.Getpid() == 1 {
		initProcess()
	}
	if len(args) > 1 && args[1] == agentproto.BridgeCommand {
		return bridge(os.Stdin, os.Stdout)
	}
	if name := filepath.Base(args[0]); userland.Has(name) {
		return userland.Main(append([]string{name}, args[1:]...))
	}
	if len(args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: mvm-agent version | serve … | COMMAND …")
		return 2
	}
	switch {
	case args[1] == "serve":
		return serve(args[2:])
	case args[1] == "version":
		_, _ = fmt.Fprintln(os.Stdout, version)
		return 0
	case userland.Has(args[1]):
		return userland.Main(args[1:])
	}
	fmt.Fprintf(os.Stderr, "mvm-agent: no command %q\n", args[1])
	return 2
}
