package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

func (a *app) imageCommand() *cobra.Command {
	return a.family(&cobra.Command{
		Use: "image", GroupID: groupImages,
		Short: "Images: list",
		Long:  "Images are what `up` starts machines from. They are read-only and shared by all machines.",
	}, a.imageListCommand())
}

func (a *app) imageListCommand() *cobra.Command {
	var quiet, asJSON bool
	cmd := &cobra.Command{
		Use: "list [flags]", Aliases: []string{"ls"},
		Short:   "List the images that up can start",
		Example: "  mvmctl image list\n  mvmctl image list -q",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			eng, err := a.settledEngine()
			if err != nil {
				return err
			}
			list, err := eng.Images(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return ui.JSON(a.out, append([]engine.ImageInfo{}, list...))
			}
			t := ui.Table{Header: []string{"NAME", "ID", "SIZE", "CACHED", "DESCRIPTION"}}
			for _, i := range list {
				if quiet {
					if _, err := fmt.Fprintln(a.out, ui.Line(i.Name)); err != nil {
						return err
					}
					continue
				}
				size := ""
				if i.Cached {
					size = machine.FormatSize(i.Size)
				}
				t.Row(i.Name, shortID(i.ID), size, yes(i.Cached), i.Description)
			}
			if quiet {
				return nil
			}
			return t.Print(a.out, a.width())
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names only")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}
