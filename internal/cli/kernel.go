package cli

import (
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

func (a *app) kernelCommand() *cobra.Command {
	return a.family(&cobra.Command{
		Use: "kernel", GroupID: groupImages,
		Short: "Guest kernels: list, fetch, build",
		Long:  "Guest kernels, kept in the cache. `up --kernel` takes a path, a release or an id.",
	}, a.kernelListCommand(), a.kernelFetchCommand(), a.kernelBuildCommand())
}

func (a *app) kernelListCommand() *cobra.Command {
	var quiet, asJSON bool
	cmd := &cobra.Command{
		Use: "list [flags]", Aliases: []string{"ls"},
		Short:   "List the guest kernels in the cache, the default first",
		Example: "  mvmctl kernel list\n  mvmctl kernel list --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			eng, err := a.settledEngine()
			if err != nil {
				return err
			}
			list, err := eng.Kernels(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return ui.JSON(a.out, append([]engine.KernelInfo{}, list...))
			}
			t := ui.Table{Header: []string{"ID", "RELEASE", "ARCH", "SIZE", "MODULES", "IN USE", "DEFAULT", "SOURCE"}}
			for _, k := range list {
				if quiet {
					if _, err := fmt.Fprintln(a.out, ui.Line(k.ID)); err != nil {
						return err
					}
					continue
				}
				t.Row(shortID(k.ID), k.Release, k.Arch, machine.FormatSize(k.Size), modules(k.Modules), strconv.Itoa(len(k.InUseBy)), yes(k.Default), k.Source)
			}
			if quiet {
				return nil
			}
			return t.Print(a.out, a.width())
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print ids only")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

func (a *app) kernelFetchCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "fetch [flags]",
		Short:   "Download the default guest kernel, unless it is in the cache",
		Example: "  mvmctl kernel fetch",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.settingsOf(cmd)
			if err != nil {
				return err
			}
			eng, err := a.engine(cfg)
			if err != nil {
				return err
			}
			progress := a.newProgress(cfg)
			defer progress.Stop()
			k, err := eng.FetchKernel(cmd.Context(), newSteps(progress).report)
			progress.Stop()
			if err != nil {
				return err
			}
			if asJSON {
				return ui.JSON(a.out, k)
			}
			_, err = fmt.Fprintln(a.out, ui.Line(k.Release))
			return err
		},
	}
	cmd.Flags().String("progress", "", "progress on standard error, a `MODE`: auto, plain or none (default auto)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

func (a *app) kernelBuildCommand() *cobra.Command {
	var want engine.KernelBuild
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "build [flags]",
		Short: "Build a small guest kernel without modules, and print its id",
		Long: `Build a small guest kernel with everything that machines need built in, and print its id. It
boots faster than a distribution's, and "mvmctl up --kernel ID" uses it; the default stays as it
is. Its source is the distribution's package (Debian's linux-source-6.1), which apt checks and
nothing installs. It takes some minutes; a second build from the same source, options and
compiler does nothing, and one that was interrupted is continued. The programs that it needs and
that are missing are named all at once, with the command that installs them.`,
		Example: "  mvmctl kernel build\n" +
			"  mvmctl up -d --kernel \"$(mvmctl kernel build)\" minimal\n" +
			"  mvmctl kernel build --config my-options.config --source ./linux-6.1.tar.xz",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("jobs") && (want.Jobs < 1 || want.Jobs > maxJobs) {
				return machine.Usagef("input.range", "one job for each processor is the default", "--jobs is %d, and must be from 1 to %d", want.Jobs, maxJobs)
			}
			want.Config, want.Source = a.fromHere(want.Config), a.fromHere(want.Source)
			cfg, err := a.settingsOf(cmd)
			if err != nil {
				return err
			}
			eng, err := a.engine(cfg)
			if err != nil {
				return err
			}
			progress := a.newProgress(cfg)
			defer progress.Stop()
			want.Progress = newSteps(progress).report
			k, err := eng.BuildKernel(cmd.Context(), want)
			progress.Stop()
			if err != nil {
				return err
			}
			if asJSON {
				return ui.JSON(a.out, k)
			}
			said := "built"
			if !k.Made {
				said = "nothing to do: the cache has what the same source, options and compiler give,"
			}
			a.say("mvmctl: %s kernel %s (%s)\n", said, ui.Line(k.Release), machine.FormatSize(k.Size))
			_, err = fmt.Fprintln(a.out, ui.Line(k.ID))
			return err
		},
	}
	cmd.Flags().StringVar(&want.Arch, "arch", "", "processor, `ARCH`: amd64 or arm64 (default this host's); another one needs its cross compiler")
	cmd.Flags().StringVar(&want.Config, "config", "", "`FILE` of kernel options (CONFIG_X=y) that win over ours")
	cmd.Flags().StringVar(&want.Source, "source", "", "source, a `PATH` of a clean folder or a tar file (default the distribution's package)")
	cmd.Flags().IntVarP(&want.Jobs, "jobs", "j", 0, "compile `N` files at a time (default one for each processor)")
	cmd.Flags().String("progress", "", "progress on standard error, a `MODE`: auto, plain or none (default auto)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

// maxJobs bounds --jobs: more is a slip of the hand.
const maxJobs = 1024

// fromHere makes a path of the command line mean what it says in the caller's folder.
func (a *app) fromHere(path string) string {
	if path == "" || a.io.Dir == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(a.io.Dir, path)
}

// modules says how many modules a kernel brings.
func modules(n int) string {
	if n == 0 {
		return "none"
	}
	return strconv.Itoa(n)
}

// shortID is the beginning of an id: enough for people, and for --kernel.
func shortID(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
