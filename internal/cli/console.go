package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/engine"
)

// detachKey is Ctrl-], which leaves a console whatever the guest does (as telnet and virsh have
// it).
const detachKey = 0x1d

// errDetached is the cause with which the detach key ends a console.
var errDetached = errors.New("left by Ctrl-]")

func (a *app) consoleCommand() *cobra.Command {
	var command, user, workdir string
	cmd := &cobra.Command{
		Use: "console [flags] NAME", GroupID: groupMachines,
		Short: "Open a shell in a running machine",
		Long: `Open a shell in a running machine, on a terminal of its own. A machine has one console;
it ends with the shell, with Ctrl-], and after 15 minutes without a sign of life. With
--command it runs one line of shell instead and exits with its exit code.`,
		Example: `  mvmctl console web
  mvmctl console web --command 'dmesg | tail'`,
		Args:              oneMachine,
		ValidArgsFunction: a.completeNames(1),
	}
	f := cmd.Flags()
	f.StringVarP(&command, "command", "c", "", "run this `LINE` of shell instead of an interactive one")
	f.StringVarP(&user, "user", "u", "", "`USER`: a name or uid[:gid] (default root)")
	f.StringVarP(&workdir, "workdir", "w", "", "`DIRECTORY` to start in (default: the user's home)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o := engine.ExecOptions{User: user, Dir: workdir}
		if cmd.Flags().Changed("command") {
			o.Args = []string{"sh", "-c", command}
		}
		return a.console(cmd.Context(), args[0], o)
	}
	return cmd
}

func (a *app) console(ctx context.Context, name string, o engine.ExecOptions) error {
	eng, err := a.settledEngine()
	if err != nil {
		return err
	}
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	s := a.newSession(true, true)
	defer s.end()
	interactive := a.terminal(a.io.In)
	if interactive && len(o.Args) == 0 {
		a.say("mvmctl: console; Ctrl-] leaves it\n")
	}
	s.begin()
	o.Streams = s.streams()
	if interactive {
		o.Streams.Stdin = &detachReader{r: a.io.In, leave: func() { leave(errDetached) }}
	}
	res, err := eng.Console(ctx, name, o)
	s.end()
	if errors.Is(context.Cause(ctx), errDetached) {
		a.say("\n")
		return nil
	}
	if err != nil {
		return err
	}
	return guestExit(res.ExitCode)
}

// detachReader passes input on until the detach key.
type detachReader struct {
	r     io.Reader
	leave func()
	off   atomic.Bool // the key is a key like others
}

// Read implements io.Reader.
func (d *detachReader) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	if d.off.Load() {
		return n, err
	}
	if i := bytes.IndexByte(p[:n], detachKey); i >= 0 {
		d.leave()
		return i, io.EOF
	}
	return n, err
}
