package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

type execOptions struct {
	env           envFlags
	workdir, user string
	timeout       string
	tty           ttyFlags
	stats         bool
	name          string
	args          []string
}

func (a *app) execCommand() *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{
		Use: "exec [flags] NAME [--] COMMAND [ARG...]", GroupID: groupMachines,
		Short: "Run a command in a running machine",
		Long: `Run a command in a running machine, with your standard input, output and error, and
exit with its exit code. No shell is involved unless you name one. A terminal is given
when you have one; --tty and --no-tty say otherwise.

Ctrl-C goes to the command; the second one ends it. When the command runs longer than
--timeout, it is killed and the exit code is 124.`,
		Example: `  mvmctl exec web -- uname -a
  mvmctl exec web -- sh -c 'ls /etc | wc -l'
  mvmctl exec -it web sh
  tar c . | mvmctl exec web -- tar x -C /srv
  mvmctl exec --timeout 10s -u nobody -w /tmp web -- ./job`,
		Args:              func(cmd *cobra.Command, args []string) error { return o.split(cmd, args) },
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.exec(cmd.Context(), o) },
		ValidArgsFunction: a.completeNames(1),
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	o.env.register(f)
	f.StringVarP(&o.workdir, "workdir", "w", "", "`DIRECTORY` to start in (default: the user's home)")
	f.StringVarP(&o.user, "user", "u", "", "`USER`: a name or uid[:gid] (default root)")
	f.StringVar(&o.timeout, "timeout", "", "kill the command after this `DURATION` (default: never)")
	o.tty.register(f)
	f.BoolVar(&o.stats, "stats", false, "print the guest's own times on standard error afterwards")
	return cmd
}

// split takes the machine's name, then further flags, then the command. Flags end at the
// command's first word: what follows is the command's.
func (o *execOptions) split(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return machine.Usagef("usage.args", "usage: "+cmd.UseLine(), "NAME is missing")
	}
	o.name = args[0]
	if err := machine.CheckName(o.name); err != nil {
		return err
	}
	f := cmd.Flags()
	if err := f.Parse(args[1:]); err != nil {
		return &flagError{err}
	}
	o.args = f.Args()
	if len(o.args) == 0 {
		return machine.Usagef("usage.args", fmt.Sprintf("for a shell: mvmctl console %s", o.name), "COMMAND is missing")
	}
	return nil
}

func (a *app) exec(ctx context.Context, o execOptions) error {
	tty, err := a.wantTTY(o.tty)
	if err != nil {
		return err
	}
	eo := engine.ExecOptions{Args: o.args, Dir: o.workdir, User: o.user}
	if eo.Env, err = o.env.read(a); err != nil {
		return err
	}
	if o.timeout != "" {
		if eo.Timeout, err = parseDuration(o.timeout); err != nil {
			return err
		}
	}
	eng, err := a.settledEngine()
	if err != nil {
		return err
	}
	s := a.newSession(tty, true)
	defer s.end()
	s.begin()
	eo.Streams = s.streams()
	res, err := eng.Exec(ctx, o.name, eo)
	s.end()
	if o.stats {
		a.printStats(res)
	}
	if err != nil {
		return err
	}
	return guestExit(res.ExitCode)
}

// printStats prints what the guest measured of the command.
func (a *app) printStats(r engine.ExecResult) {
	a.say("wall %s  user %s  system %s  max-rss %s\n",
		ui.Took(time.Duration(r.Exit.WallTime)), ui.Took(time.Duration(r.Exit.UserTime)), ui.Took(time.Duration(r.Exit.SystemTime)),
		machine.FormatSize(r.Exit.MaxRSS))
}
