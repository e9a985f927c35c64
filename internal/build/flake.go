package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/image"
	"github.com/mvmctl/mvmctl/internal/layer"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/nix"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// maxImageJSON bounds the configuration that a flake gives, in bytes.
const maxImageJSON = 4 << 20

// Flake makes an image from a guest that a Nix flake describes. A store path that was imported
// before is only named.
func (b *Builder) Flake(ctx context.Context, ref, profile string, o Options) (Result, error) {
	begin := time.Now()
	done := o.step("building " + ref)
	no, err := b.nixOptions(ctx, ref, profile, o)
	if err != nil {
		return Result{}, err
	}
	if b.builtBefore(ref) {
		// Evaluating says what a build would give. Nix may have deleted it since it was imported.
		// What is wrong with the flake the build says better.
		if r, err := nix.Evaluate(ctx, no); err == nil {
			if res, ok, err := b.imported(ctx, r, o, begin); ok || err != nil {
				done()
				return res, err
			}
		}
	}
	if no.Linux != nil {
		if err := paths.MakePrivate(b.Work); err != nil {
			return Result{}, err
		}
		if no.Fetched, err = os.MkdirTemp(b.Work, "nix-"); err != nil {
			return Result{}, paths.WriteError("making a folder in "+b.Work, err)
		}
		defer func() { _ = os.RemoveAll(no.Fetched) }()
	}
	r, err := nix.Build(ctx, no)
	if err != nil {
		return Result{}, err
	}
	done()
	// The same guest by another reference.
	if res, ok, err := b.imported(ctx, r, o, begin); ok || err != nil {
		return res, err
	}
	names, err := b.names(o, nameOf(r.Name))
	if err != nil {
		return Result{}, err
	}
	cfg, err := readImageJSON(r.ImageJSON)
	if err != nil {
		return Result{}, err
	}
	d := image.Draft{
		Names: names, Arch: archOf(r.System), Config: cfg, Label: "mvm-nix",
		Source: image.Source{Builder: image.BuilderFlake, Ref: ref, Digest: nixDigest(r)}, Build: image.Build{Version: b.Version},
	}
	done = o.step("writing the image")
	img, err := b.Images.Import(ctx, d, func(w *disk.Writer) (image.Notes, error) {
		stats, err := layer.FromTar(ctx, w, layer.Layer{
			Name: "rootfs.tar", Open: func(context.Context) (io.ReadCloser, error) { return os.Open(r.RootfsTar) },
		}, layer.Options{})
		return stats.Skipped, err
	})
	if err != nil {
		return Result{}, err
	}
	done()
	return result(img, names, false, begin), nil
}

// Runner is a runner of microvm.nix.
type Runner = nix.Runner

// Runner builds the machine that a flake describes with microvm.nix. ok is false when the reference
// means a package, which Flake makes an image of.
func (b *Builder) Runner(ctx context.Context, ref, profile string, o Options) (r Runner, ok bool, err error) {
	if strings.HasPrefix(ref, templatePrefix) {
		return r, false, nil
	}
	done := o.step("building " + ref)
	no, err := b.nixOptions(ctx, ref, profile, o)
	if err != nil {
		return r, false, err
	}
	name, err := nix.FindRunner(ctx, no)
	if err != nil || name == "" {
		return r, false, err
	}
	r, err = nix.BuildRunner(ctx, no, name)
	if err == nil {
		done()
	}
	return r, true, err
}

func nixDigest(r nix.Result) string { return "nix:" + r.StoreHash }

// builtBefore reports whether an image of the store was made from a flake reference.
func (b *Builder) builtBefore(ref string) bool {
	have, _ := b.Images.List() // a store that cannot be read is the import's error
	return slices.ContainsFunc(have, func(i image.Image) bool {
		return i.Source.Builder == image.BuilderFlake && i.Source.Ref == ref
	})
}

// imported looks for the image of a guest in the store, and gives it the names asked for.
func (b *Builder) imported(ctx context.Context, r nix.Result, o Options, begin time.Time) (Result, bool, error) {
	images, err := b.Images.List()
	if err != nil {
		return Result{}, false, err
	}
	at := slices.IndexFunc(images, func(i image.Image) bool { return i.Source.Digest == nixDigest(r) })
	if at < 0 {
		return Result{}, false, nil
	}
	names, err := b.names(o, nameOf(r.Name))
	if err != nil {
		return Result{}, false, err
	}
	res, err := b.named(ctx, images[at], names, begin)
	return res, err == nil, err
}

// templatePrefix marks a reference to one of this program's templates.
const templatePrefix = "template:"

// nixOptions prepares a flake for nix: its input "mvm", where it has one, is the library inside
// this program, so that the two never differ and no network is needed for it.
func (b *Builder) nixOptions(ctx context.Context, ref, profile string, o Options) (nix.Options, error) {
	no := nix.Options{Linux: b.Linux, Flake: ref, Profile: profile, Offline: o.Nix.Offline, Inputs: maps.Clone(o.Nix.Inputs), Progress: func(e nix.Event) {
		if e.Text != "" && o.Progress != nil {
			o.Progress(Progress{Step: e.Text, Current: int64(e.Bytes.Done), Total: int64(e.Bytes.Expected)})
		}
	}}
	platform, err := o.guestPlatform()
	if err != nil {
		return no, err
	}
	no.System = nixSystem(platform.Arch)
	if name, ok := strings.CutPrefix(ref, templatePrefix); ok {
		dir, err := nix.KeepTemplate(name, b.Work)
		if err != nil {
			return no, err
		}
		no.Flake = dir
	}
	if _, own := no.Inputs[libraryInput]; own {
		return no, nil
	}
	lib, err := nix.WriteLibrary(b.Work)
	if err != nil {
		return no, err
	}
	// Asking with the override in place needs no network for a flake that has no lock yet. Without
	// such an input the flake is left to Nix as it is, so that its lock is written as ever.
	with := no
	with.Progress, with.Inputs = nil, map[string]string{libraryInput: lib}
	maps.Copy(with.Inputs, no.Inputs)
	m, err := nix.ReadMetadata(ctx, with)
	if err != nil {
		return no, err
	}
	if _, has := m.Inputs[libraryInput]; has {
		no.Inputs = with.Inputs
	}
	return no, nil
}

// libraryInput is the name under which flakes have the library with mkGuest as an input.
const libraryInput = "mvm"

// FlakeCheck evaluates everything that a flake offers and builds its checks.
func (b *Builder) FlakeCheck(ctx context.Context, ref string, o Options) error {
	done := o.step("checking " + ref)
	no, err := b.nixOptions(ctx, ref, "", o)
	if err != nil {
		return err
	}
	if err := nix.Check(ctx, no); err != nil {
		return err
	}
	done()
	return nil
}

// Template is a flake to begin with.
type Template = nix.Template

// Templates lists the templates inside this program.
func Templates() []Template { return nix.Templates() }

// WriteTemplate writes a template into a folder and returns the files; it overwrites nothing.
func WriteTemplate(name, dir string) ([]string, error) { return nix.WriteTemplate(name, dir) }

// LocalFlake returns the folder of a flake reference that is one, or "".
func LocalFlake(ref string) string {
	path, _, _ := strings.Cut(strings.TrimPrefix(ref, "path:"), "#")
	if path == "" {
		path = "."
	}
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		return ""
	}
	return path
}

// Watch calls do now and each time that something below a folder has changed, until ctx ends.
// An error of do ends nothing: report hears of it, and the next change tries again.
func Watch(ctx context.Context, folder string, do func(context.Context) error, report func(error)) error {
	if info, err := os.Stat(folder); err == nil && !info.IsDir() {
		folder = filepath.Dir(folder)
	}
	w, err := nix.NewWatcher(folder)
	if err != nil {
		return err
	}
	defer func() { _ = w.Close() }()
	for {
		if err := do(ctx); err != nil {
			if ctx.Err() != nil {
				return err
			}
			report(err)
		}
		if _, err := w.Next(ctx); err != nil {
			return err
		}
	}
}

// readImageJSON reads the configuration that mkGuest writes, strictly.
func readImageJSON(path string) (image.Config, error) {
	invalid := func(err error) error {
		return machine.Errorf("flake.image", "build it with mkGuest of the same version as this mvmctl", "%s is not an image's configuration: %w", path, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return image.Config{}, invalid(err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxImageJSON+1))
	if err == nil && len(data) > maxImageJSON {
		err = errors.New("it has more than 4 MiB")
	}
	if err != nil {
		return image.Config{}, invalid(err)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var c image.Config
	if err := dec.Decode(&c); err != nil {
		return image.Config{}, invalid(err)
	}
	return c, nil
}

// nixSystem is Nix's name of Linux on a processor; "" when no machine has that.
func nixSystem(arch string) string {
	switch arch {
	case "amd64":
		return "x86_64-linux"
	case "arm64":
		return "aarch64-linux"
	}
	return ""
}

// archOf turns Nix's name of a system into Go's of its processor.
func archOf(system string) string {
	switch arch, _, _ := strings.Cut(system, "-"); arch {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	default:
		return arch
	}
}
