package cli

import (
	"context"
	"strings"

	"github.com/spf13/pflag"

	"github.com/mvmctl/mvmctl/internal/build"
	"github.com/mvmctl/mvmctl/internal/catalog"
	"github.com/mvmctl/mvmctl/internal/config"
	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

// Builder is what the commands ask of package build: making images from whatever there is.
type Builder interface {
	Pull(ctx context.Context, ref string, o build.Options) (build.Result, error)
	Rootfs(ctx context.Context, path string, o build.Options) (build.Result, error)
	Dockerfile(ctx context.Context, path string, o build.Options) (build.Result, error)
	FlakeCheck(ctx context.Context, ref string, o build.Options) error
	Embedded(ctx context.Context, name string, o build.Options) (build.Result, error)
	Flake(ctx context.Context, ref, profile string, o build.Options) (build.Result, error)
	Runner(ctx context.Context, ref, profile string, o build.Options) (r build.Runner, ok bool, err error)
}

// source is what an image is made from when it is not in the store.
type source struct {
	flake, profile     string
	inputs             []string // overrides of the flake's inputs: NAME=REF
	offline            bool     // for the flake
	dockerfile, rootfs string
}

func (s source) given() bool { return s.flake != "" || s.dockerfile != "" || s.rootfs != "" }

// register adds the flags of `up`.
func (s *source) register(f *pflag.FlagSet) {
	s.registerFlake(f)
	f.StringVar(&s.rootfs, "rootfs", "", "make the image from a `PATH`: a folder, a tar (gz, zst, xz) or an ext4 image")
}

// registerFlake adds the flags about flakes that build and up have in common.
func (s *source) registerFlake(f *pflag.FlagSet) {
	f.StringVar(&s.flake, "flake", "", "build the image from a Nix flake: a `REF` such as . or github:owner/repo")
	f.StringVar(&s.profile, "profile", "", "`NAME` of the flake's package (default \"default\")")
	s.registerNix(f)
}

// registerNix adds the flags that say how a flake is evaluated.
func (s *source) registerNix(f *pflag.FlagSet) {
	f.StringArrayVar(&s.inputs, "override-input", nil, "use another source for an input of the flake: `NAME=REF`")
	f.BoolVar(&s.offline, "offline", false, "let Nix use only what this host has already")
}

// nix returns how a flake is evaluated.
func (s source) nix() (build.NixOptions, error) {
	o := build.NixOptions{Offline: s.offline}
	for _, text := range s.inputs {
		name, ref, ok := strings.Cut(text, "=")
		if !ok || name == "" || ref == "" || strings.HasPrefix(name, "-") || strings.HasPrefix(ref, "-") {
			return o, machine.Usagef("input.override", "write NAME=REF, for example --override-input nixpkgs=github:NixOS/nixpkgs/nixos-unstable", "%s is no override of an input", quoted(text))
		}
		if o.Inputs == nil {
			o.Inputs = map[string]string{}
		}
		o.Inputs[name] = ref
	}
	return o, nil
}

// check refuses sources that exclude each other.
func (s source) check(image string) error {
	n := 0
	for _, x := range []string{image, s.flake, s.dockerfile, s.rootfs} {
		if x != "" {
			n++
		}
	}
	if n > 1 {
		return machine.Usagef("usage.flag", "keep one of IMAGE, --flake and --rootfs", "a machine is made from one thing")
	}
	if s.flake == "" {
		project := image == "" && !s.given() // the project file may name a flake
		for _, f := range []struct {
			flag string
			set  bool
		}{{"--profile", s.profile != ""}, {"--override-input", len(s.inputs) > 0 && !project}, {"--offline", s.offline && !project}} {
			if f.set {
				return machine.Usagef("usage.flag", "add --flake REF, or leave it out", "%s is of a flake", f.flag)
			}
		}
	}
	_, err := s.nix()
	return err
}

// builder makes the builder for the settings in force.
func (a *app) builder(c config.Config) (Builder, error) {
	if a.deps.Builder == nil {
		return nil, machine.Errorf("internal.engine", "install a complete build of mvmctl", "this program cannot make images")
	}
	return a.deps.Builder(c)
}

// provision is where the image of a machine may come from, and who hears of it.
type provision struct {
	cfg      config.Config
	eng      Engine
	from     source // what to make it from; nothing: the image has a name
	progress *ui.Progress
}

// imageFor gives a Spec the name of the image that `up` is to start: it is built or fetched first
// when it has to be. What the catalog says of a machine of it fills what nobody said.
func (a *app) imageFor(ctx context.Context, spec *machine.Spec, p provision) error {
	s := p.from
	if spec.Image == "" && !s.given() {
		return nil // a machine that exists
	}
	nix, err := s.nix()
	if err != nil {
		return err
	}
	o := build.Options{Progress: a.buildProgress(p.progress), Nix: nix}
	entry, listed, err := a.inCatalog(spec.Image)
	if err != nil {
		return err
	}
	if !s.given() {
		_, err := p.eng.Image(ctx, spec.Image)
		unknown := machine.CodeOf(err) == "image.not_found" || machine.CodeOf(err) == "image.name"
		if !unknown || !listed && !looksRemote(spec.Image) {
			spec.Image = build.ImageName(spec.Image) // the store has it, or says what is near
			return a.suggest(spec, entry)
		}
	}
	b, err := a.builder(p.cfg)
	if err != nil {
		return err
	}
	if s.flake != "" && p.eng.StartsRunners(spec.Driver) {
		if done, err := a.runnerFor(ctx, spec, p, b, o); done || err != nil {
			return err
		}
	}
	var r build.Result
	switch {
	case listed:
		r, err = fetchEntry(ctx, b, entry, o)
	case s.flake != "":
		r, err = b.Flake(ctx, s.flake, s.profile, o)
	case s.dockerfile != "":
		r, err = b.Dockerfile(ctx, s.dockerfile, o)
	case s.rootfs != "":
		r, err = b.Rootfs(ctx, s.rootfs, o)
	default:
		r, err = b.Pull(ctx, spec.Image, o)
	}
	if err != nil {
		return err
	}
	if s.given() {
		for _, n := range a.takenNotes(r.Name) {
			p.progress.Print(n)
		}
	}
	spec.Image = r.Name
	return a.suggest(spec, entry)
}

// suggest fills in what the catalog says of a machine, where nobody else did.
func (a *app) suggest(spec *machine.Spec, e catalog.Entry) error {
	for _, s := range []struct {
		text string
		to   *int64
	}{{e.Memory, &spec.Memory}, {e.Disk, &spec.Disk}} {
		if s.text == "" || *s.to != 0 {
			continue
		}
		n, err := machine.ParseSize(s.text)
		if err != nil {
			return err
		}
		*s.to = n
	}
	if spec.CPUs == 0 {
		spec.CPUs = e.CPUs
	}
	return nil
}

// inCatalog finds the entry of a bare word.
func (a *app) inCatalog(image string) (catalog.Entry, bool, error) {
	if a.deps.Catalog == nil || machine.CheckName(image) != nil {
		return catalog.Entry{}, false, nil
	}
	c, err := a.deps.Catalog()
	if err != nil {
		return catalog.Entry{}, false, err
	}
	e, ok := c.Find(image)
	return e, ok && e.Builder != catalog.BuilderEmbedded, nil
}

// fetchEntry gets an image of the catalog, under the entry's name.
func fetchEntry(ctx context.Context, b Builder, e catalog.Entry, o build.Options) (build.Result, error) {
	if len(o.Names) == 0 {
		o.Names = []string{e.Name}
	}
	if e.Builder == catalog.BuilderNix {
		return b.Flake(ctx, e.Ref, e.Profile, o)
	}
	return b.Pull(ctx, e.Ref, o)
}

// looksRemote reports whether a text can only mean an image of a registry or of another tool: a
// bare word could be a slip of the pen, and is looked for in the store alone.
func looksRemote(image string) bool {
	return strings.ContainsAny(image, ":/@") && !strings.HasPrefix(image, "sha256:")
}

// buildProgress shows what a builder reports.
func (a *app) buildProgress(p *ui.Progress) func(build.Progress) {
	show := newSteps(p)
	return func(g build.Progress) {
		show.report(engine.Progress{Step: g.Step, Done: g.Done, Duration: g.Duration, Current: g.Current, Total: g.Total})
	}
}

// watchable returns the folder that a build's source lies in, for --watch.
func (s source) watchable() (string, error) {
	for _, path := range []string{s.dockerfile, s.rootfs} {
		if path != "" {
			return path, nil
		}
	}
	if s.flake == "" {
		return "", machine.Usagef("usage.flag", "add --flake FOLDER or --rootfs PATH, or leave out --watch", "there is no source that --watch could watch")
	}
	if folder := build.LocalFlake(s.flake); folder != "" {
		return folder, nil
	}
	return "", machine.Usagef("usage.flag", "leave out --watch", "%s is not a folder of this host, so it cannot be watched", quoted(s.flake))
}
