package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

func (a *app) volumeCommand() *cobra.Command {
	return a.family(&cobra.Command{
		Use: "volume", GroupID: groupImages,
		Short: "Volumes: ls, create, inspect, rm, prune",
		Long: `Volumes are disks with a name that outlive the machines they are attached to:

  mvmctl up redis:7 -d --name cache -v data:/data

makes the volume "data" if it is not there. Only one running machine can write it. A volume is
a disk image for every backend that boots a kernel here, or is kept by a Docker engine for machines
in its containers, or by the Lima virtual machine for those in it; its first machine decides, and
data does not move.`,
	}, a.volumeListCommand(), a.volumeCreateCommand(), a.volumeInspectCommand(), a.volumeRemoveCommand(), a.volumePruneCommand())
}

func (a *app) volumeListCommand() *cobra.Command {
	var quiet, asJSON bool
	cmd := &cobra.Command{
		Use: "ls [flags]", Aliases: []string{"list"},
		Short:   "List the volumes",
		Example: "  mvmctl volume ls",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			eng, err := a.settledEngine()
			if err != nil {
				return err
			}
			list, err := eng.Volumes(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return ui.JSON(a.out, append([]engine.VolumeInfo{}, list...))
			}
			t := ui.Table{Header: []string{"NAME", "SIZE", "USED", "KEPT BY", "IN USE BY", "AGE"}}
			for _, v := range list {
				if quiet {
					if _, err := fmt.Fprintln(a.out, v.Name); err != nil {
						return err
					}
					continue
				}
				size, used := machine.FormatSize(v.Size), machine.FormatSize(v.Used)
				if v.KeptBy != "" { // which counts it itself
					used = "-"
					if !v.Held {
						size = "-"
					}
				}
				t.Row(v.Name, size, used, cmp.Or(v.KeptBy, "disk image"), strings.Join(v.InUseBy, ","), ui.Age(time.Since(v.Created)))
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

func (a *app) volumeCreateCommand() *cobra.Command {
	var size string
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "create [flags] NAME",
		Short:   "Make a volume; one that is there already is left as it is",
		Example: "  mvmctl volume create data --size 20G",
		Args:    oneVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			var bytes int64
			if size != "" {
				n, err := positiveSize(size, machine.MinDisk, machine.MaxDisk, "size")
				if err != nil {
					return err
				}
				bytes = n
			}
			eng, err := a.settledEngine()
			if err != nil {
				return err
			}
			if err := eng.CreateVolume(cmd.Context(), args[0], bytes); err != nil {
				return err
			}
			if asJSON {
				v, err := eng.Volume(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return ui.JSON(a.out, v)
			}
			_, err = fmt.Fprintln(a.out, args[0])
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything about the volume as JSON; errors are JSON too")
	cmd.Flags().StringVar(&size, "size", "", "`SIZE` of the volume, sparse (default 8G)")
	return cmd
}

func (a *app) volumeInspectCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "inspect [flags] NAME",
		Short:             "Print everything about a volume, as JSON",
		Example:           "  mvmctl volume inspect data",
		Args:              oneVolume,
		ValidArgsFunction: a.completeVolumes,
		RunE: func(cmd *cobra.Command, args []string) error {
			eng, err := a.settledEngine()
			if err != nil {
				return err
			}
			v, err := eng.Volume(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return ui.JSON(a.out, v)
		},
	}
	jsonAnyway(cmd)
	return cmd
}

func (a *app) volumeRemoveCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "rm [flags] NAME...", Aliases: []string{"remove", "delete"},
		Short:             "Delete volumes and their data",
		Long:              "Delete volumes and their data, for good. A volume that a machine has attached, running or\nnot, is refused.",
		Example:           "  mvmctl volume rm data",
		ValidArgsFunction: a.completeVolumes,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return machine.Usagef("usage.args", "usage: "+cmd.UseLine(), "NAME is missing")
			}
			return checkVolumeNames(args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			eng, err := a.settledEngine()
			if err != nil {
				return err
			}
			return a.every(cmd.Context(), args, asJSON, func(ctx context.Context, name string) error { return eng.RemoveVolume(ctx, name) })
		},
	}
	jsonOfNames(cmd, &asJSON)
	return cmd
}

func (a *app) volumePruneCommand() *cobra.Command {
	var dryRun, force, asJSON bool
	cmd := &cobra.Command{
		Use:     "prune [flags]",
		Short:   "Delete the volumes that no machine has attached",
		Example: "  mvmctl volume prune --dry-run",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			eng, err := a.settledEngine()
			if err != nil {
				return err
			}
			list, err := eng.Volumes(cmd.Context())
			if err != nil {
				return err
			}
			var names []string
			for _, v := range list {
				if len(v.InUseBy) == 0 {
					names = append(names, v.Name)
				}
			}
			if dryRun || len(names) == 0 {
				return a.every(cmd.Context(), names, asJSON, func(context.Context, string) error { return nil })
			}
			if !force {
				if err := a.confirm("mvmctl volume prune --force", "Delete with all data: "+strings.Join(names, ", ")+"?"); err != nil {
					return err
				}
			}
			return a.every(cmd.Context(), names, asJSON, func(ctx context.Context, name string) error { return eng.RemoveVolume(ctx, name) })
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be deleted, and delete nothing")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	jsonOfNames(cmd, &asJSON)
	return cmd
}

// checkVolumeNames refuses what cannot be a volume's name.
func checkVolumeNames(names []string) error {
	for _, n := range names {
		if err := machine.CheckVolumeName(n); err != nil {
			return err
		}
	}
	return nil
}

// oneVolume is the argument check of a command about one volume.
func oneVolume(cmd *cobra.Command, args []string) error {
	if err := exactly("NAME")(cmd, args); err != nil {
		return err
	}
	return checkVolumeNames(args)
}

// jsonOfNames registers --json of a command that prints the names with which it worked.
func jsonOfNames(cmd *cobra.Command, asJSON *bool) {
	cmd.Flags().BoolVar(asJSON, "json", false, "print a JSON array of what was done; errors are JSON too")
}

// every does something with each name and prints the names with which it worked.
func (a *app) every(ctx context.Context, names []string, asJSON bool, do func(context.Context, string) error) error {
	var errs several
	done := []map[string]string{}
	for _, n := range names {
		if err := do(ctx, n); err != nil {
			errs = append(errs, err)
			continue
		}
		done = append(done, map[string]string{"name": n})
		if asJSON {
			continue
		}
		if _, err := fmt.Fprintln(a.out, ui.Line(n)); err != nil {
			return err
		}
	}
	if asJSON {
		if err := ui.JSON(a.out, done); err != nil {
			return err
		}
	}
	if len(errs) > 0 {
		return errs
	}
	return nil
}
