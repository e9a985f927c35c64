package cli

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

func (a *app) kernelCommand() *cobra.Command {
	return a.family(&cobra.Command{
		Use: "kernel", GroupID: groupImages,
		Short: "Guest kernels: list, fetch",
		Long:  "Guest kernels, kept in the cache. `up --kernel` takes a path, a release or an id.",
	}, a.kernelListCommand(), a.kernelFetchCommand())
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
			t := ui.Table{Header: []string{"ID", "RELEASE", "ARCH", "SIZE", "IN USE", "DEFAULT", "SOURCE"}}
			for _, k := range list {
				if quiet {
					if _, err := fmt.Fprintln(a.out, ui.Line(k.ID)); err != nil {
						return err
					}
					continue
				}
				t.Row(shortID(k.ID), k.Release, k.Arch, machine.FormatSize(k.Size), strconv.Itoa(k.InUseBy), yes(k.Default), k.Source)
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
