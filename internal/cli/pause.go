package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/machine"
)

func (a *app) pauseCommand() *cobra.Command {
	return a.pausing(&cobra.Command{
		Use: "pause [flags] NAME...", GroupID: groupMachines,
		Short: "Make running machines stand still",
		Long: `Make running machines stand still and print their names. A paused machine keeps its memory
and its ports and uses no processor; what is asked of it waits or says so. Its clock may be
behind when it goes on. Pausing a paused machine is no error.`,
		Example: "  mvmctl pause web",
	}, Engine.Pause)
}

func (a *app) resumeCommand() *cobra.Command {
	return a.pausing(&cobra.Command{
		Use: "resume [flags] NAME...", GroupID: groupMachines,
		Short:   "Let paused machines go on",
		Long:    "Let paused machines go on and print their names. Resuming one that runs is no error.",
		Example: "  mvmctl resume web",
	}, Engine.Resume)
}

func (a *app) pausing(cmd *cobra.Command, do func(Engine, context.Context, string) error) *cobra.Command {
	var asJSON bool
	cmd.ValidArgsFunction = a.completeNames(-1)
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return machine.Usagef("usage.args", "usage: "+cmd.UseLine(), "NAME is missing")
		}
		return checkNames(args)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		eng, err := a.settledEngine()
		if err != nil {
			return err
		}
		return a.every(cmd.Context(), args, asJSON, func(ctx context.Context, name string) error { return do(eng, ctx, name) })
	}
	jsonOfNames(cmd, &asJSON)
	return cmd
}
