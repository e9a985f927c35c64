package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/build"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

func (a *app) commitCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "commit [flags] NAME IMAGE", GroupID: groupImages,
		Short: "Make an image of a stopped machine",
		Long: `Make an image of a stopped machine, its image with what it has changed, under a new
name, and print the name. What is on volumes is not part of it.`,
		Example:           "  mvmctl down web && mvmctl commit web web:configured",
		ValidArgsFunction: a.completeNames(1),
		Args: func(cmd *cobra.Command, args []string) error {
			if err := exactly("NAME", "IMAGE")(cmd, args); err != nil {
				return err
			}
			return checkNames(args[:1])
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			eng, err := a.settledEngine()
			if err != nil {
				return err
			}
			d, err := eng.Commit(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			a.noteTaken(args[1])
			if asJSON {
				return ui.JSON(a.out, d)
			}
			_, err = fmt.Fprintln(a.out, ui.Line(build.ImageName(args[1])))
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything about the image")
	return cmd
}

func (a *app) resetCommand() *cobra.Command {
	var force, asJSON bool
	cmd := &cobra.Command{
		Use: "reset [flags] NAME...", GroupID: groupMachines,
		Short:             "Take stopped machines back to their image",
		Long:              "Take stopped machines back to their image: everything that they changed is deleted. Volumes\nand settings stay.",
		Example:           "  mvmctl down web && mvmctl reset --force web",
		ValidArgsFunction: a.completeNames(-1),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return machine.Usagef("usage.args", "usage: mvmctl reset NAME...", "NAME is missing")
			}
			return checkNames(args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			eng, err := a.settledEngine()
			if err != nil {
				return err
			}
			all := eng.Names(cmd.Context())
			for _, n := range args {
				if !slices.Contains(all, n) {
					return notFound(n, all)
				}
			}
			if !force {
				what := "machine " + args[0] + " has"
				if len(args) > 1 {
					what = fmt.Sprintf("%d machines have", len(args))
				}
				if err := a.confirm("mvmctl reset --force "+strings.Join(args, " "), "Delete everything that "+what+" changed?"); err != nil {
					return err
				}
			}
			return a.every(cmd.Context(), args, asJSON, func(ctx context.Context, name string) error { return eng.Reset(ctx, name) })
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	jsonOfNames(cmd, &asJSON)
	return cmd
}
