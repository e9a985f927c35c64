package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/ui"
)

func (a *app) diffCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "diff [flags] NAME", GroupID: groupMachines,
		Short: "List what a running machine changed against its image",
		Long: `List what a running machine changed in its file system against its image: A added,
M modified, D deleted.`,
		Example:           "  mvmctl diff web\n  mvmctl diff web --json | jq -r 'select(.kind==\"A\").path'",
		Args:              oneMachine,
		ValidArgsFunction: a.completeNames(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			eng, err := a.settledEngine()
			if err != nil {
				return err
			}
			return eng.Diff(cmd.Context(), args[0], func(c agentproto.Change) error {
				if c.End {
					return nil // the channel's own end mark
				}
				if asJSON {
					return ui.JSONLine(a.out, c)
				}
				_, err := fmt.Fprintf(a.out, "%s %s\n", ui.Line(c.Kind), ui.Line(c.Path))
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON Lines")
	return cmd
}
