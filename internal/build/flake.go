package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
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
	r, err := nix.Build(ctx, no)
	if err != nil {
		return Result{}, err
	}
	done()
	names, err := o.names(nameOf(r.Name))
	if err != nil {
		return Result{}, err
	}
	digest := "nix:" + r.StoreHash
	for _, have := range b.Images.List() {
		if have.Source.Digest != digest {
			continue
		}
		for _, n := range names {
			if err := b.Images.Tag(ctx, n, have.ID); err != nil {
				return Result{}, err
			}
		}
		if have, err = b.Images.Find(have.ID); err != nil {
			return Result{}, err
		}
		return result(have, names, true, begin), nil
	}
	cfg, err := readImageJSON(r.ImageJSON)
	if err != nil {
		return Result{}, err
	}
	d := image.Draft{
		Names: names, Arch: archOf(r.System), Config: cfg, Label: "mvm-nix",
		Source: image.Source{Builder: image.BuilderFlake, Ref: ref, Digest: digest}, Build: image.Build{Version: b.Version},
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

// templatePrefix marks a reference to one of this program's templates.
const templatePrefix = "template:"

// nixOptions prepares a flake for nix: its input "mvm", where it has one, is the library inside
// this program, so that the two never differ and no network is needed for it.
func (b *Builder) nixOptions(ctx context.Context, ref, profile string, o Options) (nix.Options, error) {
	no := nix.Options{Flake: ref, Profile: profile, Progress: func(e nix.Event) {
		if e.Text != "" && o.Progress != nil {
			o.Progress(Progress{Step: e.Text, Current: int64(e.Bytes.Done), Total: int64(e.Bytes.Expected)})
		}
	}}
	if name, ok := strings.CutPrefix(ref, templatePrefix); ok {
		dir := filepath.Join(b.Work, "template-"+name)
		if err := os.RemoveAll(dir); err != nil {
			return no, paths.WriteError("removing "+dir, err)
		}
		if err := paths.MakePrivate(b.Work); err != nil {
			return no, err
		}
		if _, err := nix.WriteTemplate(name, dir); err != nil {
			return no, err
		}
		no.Flake = dir
	}
	m, err := nix.ReadMetadata(ctx, no)
	if err != nil {
		return no, err
	}
	if _, has := m.Inputs["mvm"]; has {
		lib, err := nix.WriteLibrary(b.Work)
		if err != nil {
			return no, err
		}
		no.Inputs = map[string]string{"mvm": lib}
	}
	return no, nil
}

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
