package cli

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

func (a *app) cacheCommand() *cobra.Command {
	return a.family(&cobra.Command{
		Use: "cache", GroupID: groupHost,
		Short: "The cache: info, prune",
		Long:  "The cache holds what can be fetched or made again: images, layers, kernels, initramfs, agents.",
	}, a.cacheInfoCommand(), a.cachePruneCommand())
}

func (a *app) cacheInfoCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "info [flags]",
		Short:   "Say where the cache is and what it takes",
		Example: "  mvmctl cache info",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			eng, err := a.settledEngine()
			if err != nil {
				return err
			}
			parts, err := eng.CacheInfo(cmd.Context())
			if err != nil {
				return err
			}
			return a.cacheTable(parts, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

func (a *app) cachePruneCommand() *cobra.Command {
	var all, dryRun, asJSON bool
	cmd := &cobra.Command{
		Use:   "prune [flags]",
		Short: "Remove from the cache what nothing uses",
		Long: `Remove from the cache what can be fetched or made again and nothing uses: images without
a name, layers of finished imports, initramfs and agents of other versions, leftovers of
killed builds. What a machine was made from stays, and so does what is not ours. With --all
images with a name go too if they can be fetched or built again; a committed machine, an
imported root file system and what a Dockerfile made stay: see "image prune --all".`,
		Example: "  mvmctl cache prune --dry-run\n  mvmctl cache prune --all",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			eng, err := a.settledEngine()
			if err != nil {
				return err
			}
			parts, err := eng.CachePrune(cmd.Context(), all, dryRun)
			if err != nil {
				return err
			}
			if err := a.cacheTable(parts, asJSON); err != nil || asJSON {
				return err
			}
			what := "freed"
			if dryRun {
				what = "would be freed"
			}
			a.say("mvmctl: %s %s\n", machine.FormatSize(total(parts)), what)
			return nil
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also images with a name that can be had again, and what is new")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be removed, and remove nothing")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	return cmd
}

func (a *app) cacheTable(parts []engine.CacheUse, asJSON bool) error {
	if asJSON {
		return ui.JSON(a.out, parts)
	}
	t := ui.Table{Header: []string{"PART", "COUNT", "SIZE", "PATH", "WHAT"}}
	for _, p := range parts {
		t.Row(p.Part, strconv.Itoa(p.Count), machine.FormatSize(p.Bytes), p.Path, p.About)
	}
	return t.Print(a.out, a.width())
}

func total(parts []engine.CacheUse) int64 {
	var sum int64
	for _, p := range parts {
		sum += p.Bytes
	}
	return sum
}

// caches is what the cache commands ask of the engine.
type caches interface {
	CacheInfo(ctx context.Context) ([]engine.CacheUse, error)
	CachePrune(ctx context.Context, all, dryRun bool) ([]engine.CacheUse, error)
}
