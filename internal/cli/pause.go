package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/machine"
)

func (a *app) pauseCommand() *cobra.Command {
	return a.pausing(&cobra.Command{
		Use: "pause [flags] NAME... | --all", GroupID: groupMachines,
		Short: "Make running machines stand still",
		Long: `Make running machines stand still and print their names. A paused machine keeps its memory
and its ports and uses no processor; what is asked of it waits or says so. Its clock may be
behind when it goes on. Pausing a paused machine is no error.`,
		Example: "  mvmctl pause web\n  mvmctl pause --all",
	}, machine.StateRunning, Engine.Pause)
}

func (a *app) resumeCommand() *cobra.Command {
	return a.pausing(&cobra.Command{
		Use: "resume [flags] NAME... | --all", GroupID: groupMachines,
		Short:   "Let paused machines go on",
		Long:    "Let paused machines go on and print their names. Resuming one that runs is no error.",
		Example: "  mvmctl resume web\n  mvmctl resume --all",
	}, machine.StatePaused, Engine.Resume)
}

// pausing completes a command; --all means the machines in the state from which it takes them.
func (a *app) pausing(cmd *cobra.Command, from machine.State, do func(Engine, context.Context, string) error) *cobra.Command {
	var t targets
	cmd.ValidArgsFunction = a.completeNames(-1)
	cmd.Args = func(cmd *cobra.Command, args []string) error { return t.check(cmd, args) }
	t.register(cmd, "every "+string(from)+" machine")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		eng, err := a.settledEngine()
		if err != nil {
			return err
		}
		if t.all {
			list, err := eng.List(cmd.Context())
			if err != nil {
				return err
			}
			for _, v := range list {
				if v.State == from {
					args = append(args, v.Name)
				}
			}
			t.all = false
		}
		return a.each(cmd.Context(), eng, t, args, func(ctx context.Context, name string) error { return do(eng, ctx, name) })
	}
	return cmd
}
