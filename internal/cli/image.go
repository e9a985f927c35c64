package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/catalog"
	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

func (a *app) imageCommand() *cobra.Command {
	return a.family(&cobra.Command{
		Use: "image", GroupID: groupImages,
		Short: "Images: list, search, pull, import, export, info, tag, rm, prune, verify",
		Long: `Images are what "up" starts machines from. They are read-only and shared by all
machines: what a machine writes goes to a disk of its own.`,
	}, a.imageListCommand(), a.imageSearchCommand(), a.imagePullCommand(), a.imageImportCommand(), a.imageExportCommand(), a.imageInfoCommand(), a.imageTagCommand(), a.imageRemoveCommand(), a.imagePruneCommand(), a.imageVerifyCommand())
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
			list, err := a.allImages(cmd.Context(), eng)
			if err != nil {
				return err
			}
			if asJSON {
				return ui.JSON(a.out, append([]engine.ImageInfo{}, list...))
			}
			if quiet {
				return a.imageNames(list)
			}
			t := ui.Table{Header: []string{"NAME", "ID", "BUILDER", "SIZE", "CACHED", "IN USE", "AGE"}}
			for _, i := range list {
				row := []string{i.Name, shortID(i.ID), i.Builder, "", yes(i.Cached), strconv.Itoa(len(i.InUseBy)), ""}
				if size, err := machine.ParseSize(i.Expected); err == nil && i.Expected != "" {
					row[3] = "~" + machine.FormatSize(size)
				}
				if i.Cached {
					row[3], row[6] = machine.FormatSize(i.Size), ui.Age(time.Since(i.Created))
				}
				t.Row(row...)
				for _, n := range i.Names {
					if n != i.Name {
						row[0] = n
						t.Row(row...)
					}
				}
			}
			return t.Print(a.out, a.width())
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names only")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

// allImages are the images of the store and those of the catalog that are not in it.
func (a *app) allImages(ctx context.Context, eng Engine) ([]engine.ImageInfo, error) {
	list, err := eng.Images(ctx)
	if err != nil || a.deps.Catalog == nil {
		return list, err
	}
	c, err := a.deps.Catalog()
	if err != nil {
		return nil, err
	}
	have := map[string]int{}
	for i, info := range list {
		for _, n := range info.Names {
			have[n] = i
		}
	}
	for _, e := range c.All() {
		if i, ok := have[e.Name]; ok {
			list[i].Description, list[i].Tags = e.Description, e.Tags
			list[i].CPUs, list[i].Memory, list[i].Disk = e.CPUs, e.Memory, e.Disk
			continue
		}
		list = append(list, listedImage(e))
	}
	slices.SortStableFunc(list, func(x, y engine.ImageInfo) int {
		return cmp.Or(strings.Compare(yes(y.Cached), yes(x.Cached)), strings.Compare(x.Name, y.Name))
	})
	return list, nil
}

// listedImage is an entry of the catalog as an image that is not in the store.
func listedImage(e catalog.Entry) engine.ImageInfo {
	return engine.ImageInfo{
		Name: e.Name, Names: []string{e.Name}, Description: e.Description, Builder: e.Builder, Source: e.Ref, Tags: e.Tags,
		Expected: e.Size, CPUs: e.CPUs, Memory: e.Memory, Disk: e.Disk, InUseBy: []string{},
	}
}

func (a *app) imageSearchCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "search [flags] WORD...",
		Short:   "Look for images in the catalog, by name, description and tags",
		Example: "  mvmctl image search http",
		Args:    atLeastOne("WORD"),
		RunE: func(_ *cobra.Command, args []string) error {
			if a.deps.Catalog == nil {
				return machine.Errorf("internal.engine", "install a complete build of mvmctl", "this program has no catalog")
			}
			all, err := a.deps.Catalog()
			if err != nil {
				return err
			}
			found := all.Search(args...)
			if asJSON {
				return ui.JSON(a.out, append([]catalog.Entry{}, found...))
			}
			t := ui.Table{Header: []string{"NAME", "BUILDER", "SIZE", "TAGS", "DESCRIPTION"}}
			for _, e := range found {
				t.Row(e.Name, e.Builder, e.Size, strings.Join(e.Tags, ","), e.Description)
			}
			return t.Print(a.out, a.width())
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return c
}

func (a *app) imageInfoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "info [flags] IMAGE", Aliases: []string{"inspect"},
		Short: "Print everything about an image, as JSON",
		Long: `Print everything about an image, as JSON. Of one of the catalog that was not fetched yet
that is what the catalog says.`,
		Example:           "  mvmctl image info minimal",
		Args:              exactly("IMAGE"),
		ValidArgsFunction: a.completeStored,
		RunE: func(cmd *cobra.Command, args []string) error {
			eng, err := a.settledEngine()
			if err != nil {
				return err
			}
			d, err := eng.Image(cmd.Context(), args[0])
			if machine.CodeOf(err) == "image.not_found" {
				entry, listed, cerr := a.inCatalog(args[0])
				if cerr != nil {
					return cerr
				}
				if listed {
					a.say("note: %s is of the catalog and not fetched; `mvmctl image pull %s` fetches it\n", entry.Name, entry.Name)
					return ui.JSON(a.out, listedImage(entry))
				}
			}
			if err != nil {
				return err
			}
			return ui.JSON(a.out, d)
		},
	}
	jsonAnyway(cmd)
	return cmd
}

// jsonAnyway gives --json to a command that prints nothing else: for its errors, and so that
// nobody has to know which commands those are.
func jsonAnyway(cmd *cobra.Command) {
	cmd.Flags().Bool("json", false, "JSON is printed anyway; with this, errors are JSON too")
}

func (a *app) imageTagCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "tag [flags] IMAGE NAME",
		Short:             "Give an image one more name",
		Long:              "Give an image one more name. A name that another image has is moved.",
		Example:           "  mvmctl image tag web:1.2 web:stable",
		Args:              exactly("IMAGE", "NAME"),
		ValidArgsFunction: a.completeStored,
		RunE: func(cmd *cobra.Command, args []string) error {
			eng, err := a.settledEngine()
			if err != nil {
				return err
			}
			if err := eng.TagImage(cmd.Context(), args[0], args[1]); err != nil {
				return err
			}
			a.noteTaken(args[1])
			if !asJSON {
				return nil
			}
			d, err := eng.Image(cmd.Context(), args[1])
			if err != nil {
				return err
			}
			return ui.JSON(a.out, d)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything about the image; errors are JSON too")
	return cmd
}

func (a *app) imageRemoveCommand() *cobra.Command {
	var force, asJSON bool
	cmd := &cobra.Command{
		Use: "rm [flags] IMAGE...", Aliases: []string{"remove", "delete"},
		Short: "Take names away, and delete images whose last name that was",
		Long: `Take names away, and delete an image with its last name. An image from which a machine
was made is refused: the machine's disk only has what differs from it.`,
		Example:           "  mvmctl image rm web:1.2",
		ValidArgsFunction: a.completeStored,
		Args:              atLeastOne("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			eng, err := a.settledEngine()
			if err != nil {
				return err
			}
			return a.every(cmd.Context(), args, asJSON, func(ctx context.Context, name string) error { return eng.RemoveImage(ctx, name, force) })
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also delete a damaged image")
	jsonOfNames(cmd, &asJSON)
	return cmd
}

func (a *app) imagePruneCommand() *cobra.Command {
	var all, force, dryRun, asJSON bool
	cmd := &cobra.Command{
		Use:     "prune [flags]",
		Short:   "Delete images that have no name and no machine",
		Example: "  mvmctl image prune --dry-run\n  mvmctl image prune --all",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			eng, err := a.settledEngine()
			if err != nil {
				return err
			}
			which := engine.PruneUnnamed
			if all {
				which = engine.PruneAll
			}
			if all && !force && !dryRun {
				if err := a.confirmImages(cmd.Context(), eng); err != nil {
					return err
				}
			}
			p, err := eng.PruneImages(cmd.Context(), which, dryRun)
			if err != nil {
				return err
			}
			if asJSON {
				return ui.JSON(a.out, p)
			}
			for _, n := range p.Images {
				if _, err := fmt.Fprintln(a.out, ui.Line(n)); err != nil {
					return err
				}
			}
			what := "freed"
			if dryRun {
				what = "would be freed"
			}
			a.say("mvmctl: %s %s\n", machine.FormatSize(p.Bytes), what)
			return nil
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also those with a name, after asking")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be deleted, and delete nothing")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

// imageNames prints every name once: an image may have several.
func (a *app) imageNames(list []engine.ImageInfo) error {
	seen := map[string]bool{}
	for _, i := range list {
		for _, n := range append([]string{i.Name}, i.Names...) {
			if seen[n] {
				continue
			}
			seen[n] = true
			if _, err := fmt.Fprintln(a.out, ui.Line(n)); err != nil {
				return err
			}
		}
	}
	return nil
}

// confirmImages asks before images with a name go: some cannot be had again.
func (a *app) confirmImages(ctx context.Context, eng Engine) error {
	would, err := eng.PruneImages(ctx, engine.PruneAll, true)
	if err != nil || len(would.Images) == 0 {
		return err
	}
	return a.confirm("mvmctl image prune --all --force", fmt.Sprintf("Delete %s?", ui.Line(strings.Join(would.Images, ", "))))
}

func (a *app) imageVerifyCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "verify [flags] [IMAGE...]",
		Short:             "Read images whole and hold them against their digests",
		Example:           "  mvmctl image verify",
		ValidArgsFunction: a.completeStored,
		RunE: func(cmd *cobra.Command, args []string) error {
			eng, err := a.settledEngine()
			if err != nil {
				return err
			}
			var errs several
			var broken error
			err = eng.VerifyImages(cmd.Context(), args, func(i engine.ImageInfo, err error) {
				if err != nil {
					errs = append(errs, err)
					return
				}
				if asJSON {
					err = ui.JSONLine(a.out, verifiedJSON{i.Name, i.ID, true})
				} else {
					_, err = fmt.Fprintf(a.out, "%s  ok\n", ui.Line(i.Name))
				}
				if err != nil {
					broken = err
				}
			})
			switch {
			case err != nil:
				return err
			case len(errs) > 0:
				return errs
			}
			return broken
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON Lines, one for each image that is whole; errors are JSON too")
	return cmd
}

// verifiedJSON is an image that `image verify` found whole.
type verifiedJSON struct {
	Name string `json:"name"`
	ID   string `json:"id"`
	OK   bool   `json:"ok"`
}

// atLeastOne is the argument check of a command about one or more things.
func atLeastOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return machine.Usagef("usage.args", "usage: "+cmd.UseLine(), "%s is missing", name)
		}
		return nil
	}
}
