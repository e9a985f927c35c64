package cli

import (
	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/config"
	"github.com/mvmctl/mvmctl/internal/ui"
)

type settingJSON struct {
	Key     string `json:"key"`
	Value   string `json:"value"`
	Source  string `json:"source"` // "default", "user file", "project file", "environment"
	Where   string `json:"where,omitempty"`
	Default string `json:"default"`
	Env     string `json:"env"`
	Doc     string `json:"doc"`
}

func (a *app) configCommand() *cobra.Command {
	return a.family(&cobra.Command{
		Use: "config", GroupID: groupHost,
		Short: "Settings: show",
		Long: `Settings come from flags, MVM_* variables, mvm.toml in the working directory and the
user's config.toml; the first that says something wins. Both files are TOML with lines
such as: memory = "2G"`,
	}, a.configShowCommand())
}

func (a *app) configShowCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "show [flags]",
		Short:   "Show every setting, its value and where it came from",
		Example: "  mvmctl config show\n  MVM_CPUS=4 mvmctl config show --json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := a.settings()
			if err != nil {
				return err
			}
			if _, err := a.project(); err != nil {
				return err
			}
			rows := []settingJSON{}
			t := ui.Table{Header: []string{"KEY", "VALUE", "SOURCE", "WHERE", "MEANING"}}
			for _, k := range config.Keys() {
				v := c.Value(k.Name)
				rows = append(rows, settingJSON{k.Name, v.Text, v.Source.String(), v.Where, k.Default, k.Env, k.Doc})
				t.Row(k.Name, v.Text, v.Source.String(), v.Where, k.Doc)
			}
			if asJSON {
				return ui.JSON(a.out, rows)
			}
			return t.Print(a.out, a.width())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}
