package cli

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

// maxParallel is how many machines one command works on at a time.
const maxParallel = 8

// targets are the machines that a command is about: names, or all.
type targets struct {
	all  bool
	json bool
	q    bool
}

func (t *targets) register(cmd *cobra.Command, all string) {
	f := cmd.Flags()
	f.BoolVar(&t.all, "all", false, all)
	f.BoolVar(&t.json, "json", false, "print a JSON array of what was done; errors are JSON too")
	f.BoolVarP(&t.q, "quiet", "q", false, "print nothing")
}

// check wants names or --all, not both.
func (t *targets) check(cmd *cobra.Command, args []string) error {
	switch {
	case t.all && len(args) > 0:
		return machine.Usagef("usage.args", "leave out the names, or --all", "--all and names exclude each other")
	case !t.all && len(args) == 0:
		return machine.Usagef("usage.args", "name machines (`mvmctl ls` lists them), or use --all", "NAME is missing")
	}
	return checkNames(args)
}

// each does one thing to every machine, some at a time, and prints the names of those for
// which it worked, in order.
func (a *app) each(ctx context.Context, eng Engine, t targets, args []string, do func(context.Context, string) error) error {
	var names []string
	for _, n := range args {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	if t.all {
		names = eng.Names(ctx)
	}
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxParallel)
	for i, name := range names {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			errs[i] = do(ctx, name)
		})
	}
	wg.Wait()
	done := []map[string]string{}
	var failed several
	for i, name := range names {
		switch {
		case errs[i] != nil && t.all && machine.CodeOf(errs[i]) == "machine.not_found":
			// it ended and was removed while we looked
		case errs[i] != nil:
			failed = append(failed, errs[i])
		default:
			done = append(done, map[string]string{"name": name})
		}
	}
	if err := a.printDone(t, done); err != nil {
		return err
	}
	if len(failed) > 0 {
		return failed
	}
	return nil
}

func (a *app) printDone(t targets, done []map[string]string) error {
	switch {
	case t.json:
		return ui.JSON(a.out, done)
	case t.q:
		return nil
	}
	for _, d := range done {
		if _, err := fmt.Fprintln(a.out, d["name"]); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) downCommand() *cobra.Command {
	var t targets
	var grace string
	var force bool
	cmd := &cobra.Command{
		Use: "down [flags] NAME... | --all", GroupID: groupMachines,
		Short: "Stop machines",
		Long: `Stop machines and print the names of those that are stopped now.

The guest's services get 10 seconds (--time) to end by themselves. Stopping a machine
that does not run is no error. A stopped machine keeps its disk; a machine that was
started with --rm is removed.`,
		Example: `  mvmctl down web
  mvmctl down web db --time 30s
  mvmctl down --all
  mvmctl down --force web      when it does not answer`,
		Args:              func(cmd *cobra.Command, args []string) error { return t.check(cmd, args) },
		ValidArgsFunction: a.completeNames(-1),
	}
	t.register(cmd, "stop every machine")
	cmd.Flags().StringVarP(&grace, "time", "t", "10s", "`DURATION` that the guest's services may take")
	cmd.Flags().StringVar(&grace, "grace", "10s", "`DURATION`, the same as --time")
	_ = cmd.Flags().MarkHidden("grace")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "end the machine at once, without asking its programs")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		d, err := parseGrace(grace)
		if err != nil {
			return err
		}
		eng, err := a.settledEngine()
		if err != nil {
			return err
		}
		return a.each(cmd.Context(), eng, t, args, func(ctx context.Context, name string) error {
			notice := func(text string) { a.say("mvmctl: %s\n", ui.Line(text)) }
			return eng.Down(ctx, name, engine.DownOptions{Grace: d, Force: force, Notice: notice})
		})
	}
	return cmd
}

func (a *app) rmCommand() *cobra.Command {
	var t targets
	var force bool
	cmd := &cobra.Command{
		Use: "rm [flags] NAME... | --all", GroupID: groupMachines,
		Short: "Delete machines and their disks",
		Long: `Delete machines with everything of them: disk, logs, record. The names of those that
are gone are printed. A running machine is refused unless --force is given. Images and
kernels stay.`,
		Example: `  mvmctl rm web
  mvmctl rm --force web db
  mvmctl rm --all --force`,
		Args:              func(cmd *cobra.Command, args []string) error { return t.check(cmd, args) },
		ValidArgsFunction: a.completeNames(-1),
	}
	t.register(cmd, "delete every machine")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also delete running machines, and do not ask")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		eng, err := a.settledEngine()
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		if t.all && !force {
			if err := a.confirmAll(eng.Names(ctx)); err != nil {
				return err
			}
		}
		return a.each(ctx, eng, t, args, func(ctx context.Context, name string) error {
			return eng.Remove(ctx, name, force)
		})
	}
	return cmd
}

// confirmAll asks before everything is deleted.
func (a *app) confirmAll(names []string) error {
	if len(names) == 0 {
		return nil
	}
	what := "the machine " + names[0] + " and its disk"
	if len(names) > 1 {
		what = fmt.Sprintf("all %d machines and their disks", len(names))
	}
	return a.confirm("mvmctl rm --all --force", "Delete "+what+"?")
}

// confirm asks before something is deleted for good; without a terminal there is nobody to ask,
// and forced is the command that does it without.
func (a *app) confirm(forced, question string) error {
	if !a.terminal(a.io.In) || !a.terminal(a.io.Err) {
		return machine.Usagef("usage.confirm", forced, "deleting this needs --force here: there is no terminal to ask %s", quoted(question))
	}
	yes, err := ui.Confirm(a.io.In, a.io.Err, question)
	if err != nil {
		return err
	}
	if !yes {
		return machine.Errorf("cancelled", "answer y to delete", "nothing was deleted")
	}
	return nil
}
