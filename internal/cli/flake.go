package cli

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/build"
	"github.com/mvmctl/mvmctl/internal/ui"
)

func (a *app) flakeCommand() *cobra.Command {
	return a.family(&cobra.Command{
		Use: "flake", GroupID: groupImages,
		Short: "Nix flakes: check",
	}, a.flakeCheckCommand())
}

func (a *app) flakeCheckCommand() *cobra.Command {
	var from source
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "check [flags] [REF]",
		Short:   "Evaluate a flake, and build its checks",
		Example: "  mvmctl flake check\n  mvmctl flake check github:owner/repo",
		Args:    func(cmd *cobra.Command, args []string) error { return tooMany(cmd, args, 1) },
		RunE: func(cmd *cobra.Command, args []string) error {
			ref := "."
			if len(args) == 1 {
				ref = args[0]
			}
			nix, err := from.nix()
			if err != nil {
				return err
			}
			cfg, err := a.settingsOf(cmd)
			if err != nil {
				return err
			}
			b, err := a.builder(cfg)
			if err != nil {
				return err
			}
			progress := a.newProgress(cfg)
			defer progress.Stop()
			if err := b.FlakeCheck(cmd.Context(), ref, build.Options{Progress: a.buildProgress(progress), Nix: nix}); err != nil {
				return err
			}
			progress.Stop()
			if asJSON {
				return ui.JSON(a.out, map[string]any{"flake": ref, "ok": true})
			}
			_, err = fmt.Fprintf(a.out, "%s  ok\n", ui.Line(ref))
			return err
		},
	}
	from.registerNix(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	cmd.Flags().String("progress", "", "progress on standard error, a `MODE`: auto, plain or none (default auto)")
	return cmd
}

func (a *app) templateCommand() *cobra.Command {
	return a.family(&cobra.Command{
		Use: "template", GroupID: groupImages,
		Short: "Templates of flakes: list, init",
	}, a.templateListCommand(), a.templateInitCommand())
}

func (a *app) templateListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list [flags]", Aliases: []string{"ls"},
		Short: "List the templates",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			if asJSON {
				return ui.JSON(a.out, build.Templates())
			}
			t := ui.Table{Header: []string{"NAME", "DESCRIPTION"}}
			for _, x := range build.Templates() {
				t.Row(x.Name, x.Description)
			}
			return t.Print(a.out, a.width())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

func (a *app) templateInitCommand() *cobra.Command {
	var preset string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "init [flags] [FOLDER]",
		Short: "Write a template into a folder",
		Long: `Write a template into a folder, this one by default, and print the files. Nothing is
overwritten. Then "mvmctl up --flake FOLDER" builds and starts it.`,
		Example: "  mvmctl template init --preset http ./site\n  mvmctl up --flake ./site",
		Args:    func(cmd *cobra.Command, args []string) error { return tooMany(cmd, args, 1) },
		RunE: func(_ *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			dir = a.fromHere(dir)
			files, err := build.WriteTemplate(preset, dir)
			if err != nil {
				return err
			}
			for i, f := range files {
				files[i] = filepath.Join(dir, f)
			}
			if asJSON {
				return ui.JSON(a.out, files)
			}
			for _, f := range files {
				if _, err := fmt.Fprintln(a.out, f); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the files as a JSON array")
	cmd.Flags().StringVar(&preset, "preset", "minimal", "`NAME` of the template: see \"mvmctl template list\"")
	_ = cmd.RegisterFlagCompletionFunc("preset", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var names []string
		for _, t := range build.Templates() {
			names = append(names, t.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}
