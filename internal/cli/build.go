package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mvmctl/mvmctl/internal/build"
	"github.com/mvmctl/mvmctl/internal/catalog"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

// makeOptions are the flags of every command that makes an image.
type makeOptions struct {
	names    []string
	platform string
	json     bool
	quiet    bool
	fetched  bool // of the catalog, so its name is the entry's
}

func (o *makeOptions) register(f *pflag.FlagSet) {
	f.StringArrayVarP(&o.names, "tag", "t", nil, "`NAME` of the image (default: after what it is made from)")
	f.StringVar(&o.platform, "platform", "", "`OS/ARCH` of the image (default: this host's)")
	f.String("progress", "", "progress on standard error, a `MODE`: auto, plain or none (default auto)")
	f.BoolVar(&o.json, "json", false, "print everything about the image")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print the image's id alone")
}

func (a *app) buildCommand() *cobra.Command {
	var o makeOptions
	var from source
	var watch bool
	cmd := &cobra.Command{
		Use: "build [flags] [PATH | --flake REF]", GroupID: groupImages,
		Short: "Make an image from a Dockerfile, a root file system or a Nix flake",
		Long: `Make an image and print its name. What PATH is decides how: a folder with a Dockerfile or Containerfile
(or the file itself) is built with the container engine that is there; any other folder, a
tar file (gz, zst, xz) or an ext4 image is taken as a root file system. Without PATH and
--flake the mvm.toml of this folder says it.`,
		Example: `  mvmctl build .                              a folder with a Dockerfile
  mvmctl build root.tar.zst -t base
  mvmctl build --flake .#web -t web:1.0`,
		Args: func(cmd *cobra.Command, args []string) error { return tooMany(cmd, args, 1) },
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && from.given() {
				return machine.Usagef("usage.flag", "keep one of them", "PATH and --flake exclude each other")
			}
			if err := a.sourceOfBuild(&from, args); err != nil {
				return err
			}
			nix, err := from.nix()
			if err != nil {
				return err
			}
			once := func() error {
				return a.make(cmd, o, func(ctx context.Context, b Builder, bo build.Options) (build.Result, error) {
					bo.Nix = nix
					switch {
					case from.flake != "":
						return b.Flake(ctx, from.flake, from.profile, bo)
					case from.dockerfile != "":
						return b.Dockerfile(ctx, from.dockerfile, bo)
					}
					return b.Rootfs(ctx, from.rootfs, bo)
				})
			}
			if !watch {
				return once()
			}
			folder, err := from.watchable()
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			return build.Watch(ctx, folder, func(context.Context) error { return once() }, func(err error) { a.report(ctx, err) })
		},
	}
	from.registerFlake(cmd.Flags())
	cmd.Flags().BoolVar(&watch, "watch", false, "build again each time that something in the folder changes, until Ctrl-C")
	o.register(cmd.Flags())
	return cmd
}

// sourceOfBuild finds out what a build's argument is.
func (a *app) sourceOfBuild(from *source, args []string) error {
	if from.given() {
		return nil
	}
	if from.profile != "" {
		return from.check("")
	}
	if len(args) == 0 {
		o := upOptions{from: *from}
		if is, err := a.fromProject(&o); err != nil {
			return err
		} else if is && o.from.given() {
			*from = o.from
			return nil
		}
		return machine.Usagef("usage.args", "mvmctl build PATH, or mvmctl build --flake REF", "PATH is missing, and there is no %s here that says what to build", projectFile)
	}
	path := a.fromHere(args[0])
	file, err := build.FindDockerfile(path)
	if err != nil {
		return err
	}
	if file != "" {
		from.dockerfile = path
	} else {
		from.rootfs = path
	}
	return from.check("")
}

// make runs a builder and prints what it made.
func (a *app) make(cmd *cobra.Command, o makeOptions, do func(context.Context, Builder, build.Options) (build.Result, error)) error {
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
	r, err := do(cmd.Context(), b, build.Options{Names: o.names, Platform: o.platform, Always: true, Progress: a.buildProgress(progress)})
	progress.Stop()
	if err != nil {
		return err
	}
	if o.names != nil || !o.fetched {
		a.noteTaken(append(slices.Clone(o.names), r.Name)...)
	}
	for _, n := range r.Notes {
		a.say("note: %s\n", ui.Line(n))
	}
	switch {
	case o.json:
		return ui.JSON(a.out, r)
	case o.quiet:
		_, err = fmt.Fprintln(a.out, r.ID)
	default:
		_, err = fmt.Fprintln(a.out, ui.Line(r.Name))
	}
	return err
}

// noteTaken says what takenNotes finds.
func (a *app) noteTaken(names ...string) {
	for _, n := range a.takenNotes(names...) {
		a.say("%s\n", n)
	}
}

// takenNotes tells when an image was given a name that means something else to whoever has not
// seen this command: one of the catalog, or of the image inside this program.
func (a *app) takenNotes(names ...string) []string {
	if a.deps.Catalog == nil {
		return nil
	}
	c, err := a.deps.Catalog()
	if err != nil {
		return nil // it is no part of what was asked
	}
	var notes []string
	seen := map[string]bool{}
	for _, name := range names {
		name = build.ImageName(name)
		e, ok := c.Find(name)
		if !ok || seen[name] {
			continue
		}
		seen[name] = true
		if e.Builder == catalog.BuilderEmbedded {
			notes = append(notes, fmt.Sprintf("note: %s is the image inside mvmctl, and means that again as soon as it is used; choose another name", name))
			continue
		}
		notes = append(notes, fmt.Sprintf("note: %s is also a name of the catalog (%s); from now on it means this image", name, ui.Line(e.Ref)))
	}
	return notes
}

func (a *app) imagePullCommand() *cobra.Command {
	var o makeOptions
	cmd := &cobra.Command{
		Use: "pull [flags] IMAGE", Aliases: []string{"fetch"},
		Short: "Get an image from a registry, another tool, or the catalog",
		Long: `Get an image and print its name. IMAGE is a name of the catalog, or
  NAME[:TAG][@DIGEST]        of a registry, as container tools have it
  oci:FOLDER[:TAG]           an OCI image layout
  docker-archive:FILE        what "docker save" writes
  docker-daemon:NAME[:TAG]   of the container engine of this host`,
		Example: "  mvmctl image pull redis:7\n  mvmctl image pull oci:./layout:web -t web",
		Args:    exactly("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			entry, listed, err := a.inCatalog(args[0])
			if err != nil {
				return err
			}
			o.fetched = listed || args[0] == entry.Name && entry.Builder == catalog.BuilderEmbedded
			return a.make(cmd, o, func(ctx context.Context, b Builder, bo build.Options) (build.Result, error) {
				switch {
				case listed:
					return fetchEntry(ctx, b, entry, bo)
				case args[0] == entry.Name && entry.Builder == catalog.BuilderEmbedded:
					return b.Embedded(ctx, entry.Ref, bo)
				}
				return b.Pull(ctx, args[0], bo)
			})
		},
	}
	o.register(cmd.Flags())
	return cmd
}

func (a *app) imageImportCommand() *cobra.Command {
	var o makeOptions
	cmd := &cobra.Command{
		Use:     "import [flags] PATH",
		Short:   "Make an image from a root file system: a folder, a tar or an ext4 image",
		Example: "  mvmctl image import root.tar.zst -t base",
		Args:    exactly("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.make(cmd, o, func(ctx context.Context, b Builder, bo build.Options) (build.Result, error) {
				return b.Rootfs(ctx, a.fromHere(args[0]), bo)
			})
		},
	}
	o.register(cmd.Flags())
	return cmd
}

func (a *app) imageExportCommand() *cobra.Command {
	var to, format string
	cmd := &cobra.Command{
		Use:               "export [flags] IMAGE",
		Short:             "Write an image's root file system to a file",
		Long:              "Write an image's root file system to a file, as a tar file or as the ext4 image that it is.\nWith -o - the tar file goes to standard output.",
		Example:           "  mvmctl image export web:1 -o web.tar\n  mvmctl image export web:1 --format ext4 -o web.ext4\n  mvmctl image export web:1 -o - | zstd >web.tar.zst",
		Args:              exactly("IMAGE"),
		ValidArgsFunction: a.completeStored,
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "tar" && format != "ext4" {
				return oneOf("usage.flag", "a format", format, []string{"tar", "ext4"})
			}
			eng, err := a.settledEngine()
			if err != nil {
				return err
			}
			switch {
			case to == "":
				return machine.Usagef("usage.flag", "name a file with -o FILE, or - for standard output", "nothing says where to write")
			case to == "-" && format == "ext4":
				return machine.Usagef("usage.flag", "name a file with -o FILE", "an ext4 image is full of holes, which a stream cannot have")
			case to == "-" && a.terminal(a.io.Out):
				return machine.Usagef("copy.terminal", "name a file with -o FILE", "a tar file would go to the terminal")
			case to == "-":
				return eng.ExportImage(cmd.Context(), args[0], format, "", a.out)
			}
			to = a.fromHere(to)
			if err := checkTarget(to); err != nil {
				return err
			}
			return eng.ExportImage(cmd.Context(), args[0], format, to, nil)
		},
	}
	cmd.Flags().StringVarP(&to, "output", "o", "", "`FILE` to write, or - for standard output")
	cmd.Flags().StringVar(&format, "format", "tar", "`FORMAT`: tar or ext4")
	return cmd
}

// checkTarget refuses what no file can be written to, and what a new file would replace.
func checkTarget(file string) error {
	info, err := os.Stat(file)
	switch {
	case err == nil && info.IsDir():
		return machine.Usagef("input.file", "name a file in it, for example -o "+filepath.Join(file, "image.tar"), "%s is a folder", quoted(file))
	case err == nil && !info.Mode().IsRegular():
		return machine.Usagef("input.not_regular", "name a file, or - for standard output", "%s is not a regular file", quoted(file))
	case err == nil:
		return nil
	}
	dir := filepath.Dir(file)
	info, err = os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return machine.Usagef("input.file", "make it, or name a file elsewhere", "there is no folder %s", quoted(dir))
	case err == nil && !info.IsDir():
		return machine.Usagef("input.file", "name a file elsewhere", "%s is not a folder", quoted(dir))
	}
	return nil // what else is wrong is found by writing
}
