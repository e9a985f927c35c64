package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// completer answers one Tab.
type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

func (a *app) completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use: "completion SHELL", GroupID: groupHost,
		Short: "Print a completion script for bash, zsh, fish or powershell",
		Long: `Print a completion script. It completes commands, flags and the names of machines and
images; it starts nothing and never touches the network.`,
		Example: `  source <(mvmctl completion bash)
  mvmctl completion zsh > "${fpath[1]}/_mvmctl"
  mvmctl completion fish > ~/.config/fish/completions/mvmctl.fish
  mvmctl completion powershell | Out-String | Invoke-Expression`,
		Args:      exactly("SHELL"),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.out, true)
			case "zsh":
				return root.GenZshCompletion(a.out)
			case "fish":
				return root.GenFishCompletion(a.out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.out)
			}
			return oneOf("input.shell", "a shell that has completion here", args[0], shells)
		},
	}
}

// completeNames completes machine names for the first most arguments; any number when most is
// negative. A mistake in the settings completes nothing: there is no place to report it.
func (a *app) completeNames(most int) completer {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if most >= 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return a.namesWith(cmd, prefix, args), cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) namesWith(cmd *cobra.Command, prefix string, not []string) []string {
	eng, err := a.settledEngine()
	if err != nil {
		return nil
	}
	var out []string
	for _, n := range eng.Names(cmd.Context()) {
		if strings.HasPrefix(n, prefix) && machine.CheckName(n) == nil && !slices.Contains(not, n) {
			out = append(out, n)
		}
	}
	return out
}

// completeImages completes what `up` takes: images, and machines to start again.
func (a *app) completeImages(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	out := a.namesWith(cmd, prefix, nil)
	eng, err := a.settledEngine()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	images, err := eng.Images(cmd.Context())
	if err != nil {
		return out, cobra.ShellCompDirectiveNoFileComp
	}
	for _, i := range images {
		for _, n := range i.Names {
			if strings.HasPrefix(n, prefix) {
				out = append(out, n)
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeBackends completes what --hypervisor takes, whether it can be used here or not.
func (a *app) completeBackends(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	eng, err := a.settledEngine()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, n := range append([]string{"auto"}, eng.BackendNames()...) {
		if strings.HasPrefix(n, prefix) {
			out = append(out, n)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeVolumes completes volumes' names.
func (a *app) completeVolumes(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	var out []string
	eng, err := a.settledEngine()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := eng.Volumes(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	for _, v := range list {
		if strings.HasPrefix(v.Name, prefix) && !slices.Contains(args, v.Name) {
			out = append(out, v.Name)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeStored completes images of the store, by name.
func (a *app) completeStored(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	var out []string
	eng, err := a.settledEngine()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := eng.Images(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	for _, i := range list {
		for _, n := range i.Names {
			if strings.HasPrefix(n, prefix) && !slices.Contains(args, n) {
				out = append(out, n)
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeCopy completes NAME: for one side of a copy, and leaves paths to the shell.
func (a *app) completeCopy(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 1 || strings.ContainsAny(prefix, "/:.") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	out := a.namesWith(cmd, prefix, nil)
	for i := range out {
		out[i] += ":"
	}
	return out, cobra.ShellCompDirectiveNoSpace
}
