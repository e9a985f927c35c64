package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

type versionJSON struct {
	Version    string      `json:"version"`
	Commit     string      `json:"commit,omitempty"`
	Date       string      `json:"date,omitempty"`
	Go         string      `json:"go"`
	Platform   string      `json:"platform"`
	Components []Component `json:"components"`
}

func (a *app) versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "version", GroupID: groupHost,
		Short:   "Print the version",
		Long:    "Print the version. With --json also those of the parts.",
		Example: "  mvmctl version\n  mvmctl version --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := a.deps.Version
			if !asJSON {
				_, err := fmt.Fprintf(a.out, "mvmctl %s\n", v.Version)
				return err
			}
			out := versionJSON{
				Version: v.Version, Commit: v.Commit, Date: v.Date, Go: runtime.Version(),
				Platform: runtime.GOOS + "/" + runtime.GOARCH, Components: []Component{},
			}
			if v.Components != nil {
				out.Components = append(out.Components, v.Components(cmd.Context())...)
			}
			return ui.JSON(a.out, out)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

// superviseCommand is how the engine starts a machine's supervisor; people have no use for it.
func (a *app) superviseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "supervise", Hidden: true, DisableFlagParsing: true,
		Short: "Run a machine's supervisor (used by mvmctl itself)",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.deps.Supervise == nil {
				return machine.Usagef("usage.command", "`mvmctl up` starts machines", "supervise is for mvmctl itself")
			}
			return a.deps.Supervise(cmd.Context(), args)
		},
	}
}
