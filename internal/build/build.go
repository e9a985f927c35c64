// Package build makes images for the store from what people have: container images of a
// registry or of another tool, Dockerfiles, root file systems, Nix flakes.
//
// It decides and connects: oci fetches and verifies, layer writes file trees, nix runs nix, and
// image keeps the result. It starts no machine and keeps nothing of its own but the blobs that
// it fetched. Package cli calls it.
package build

import (
	"context"
	"time"

	"github.com/mvmctl/mvmctl/internal/image"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/nix"
	"github.com/mvmctl/mvmctl/internal/oci"
)

// Builder makes images.
type Builder struct {
	Images  *image.Store
	Blobs   string   // folder of fetched layers
	Work    string   // folder for what a build leaves on its way
	Version string   // of this program, for the build record
	Environ []string // of the tools that are run
	// Linux is where nix runs, on a host that is not Linux itself; nil: here.
	Linux nix.Linux
}

// stopDelay is how long a tool may take to end when it is told to.
const stopDelay = 10 * time.Second

// Progress is one step of a build, for people.
type Progress struct {
	Step           string
	Done           bool
	Duration       time.Duration
	Current, Total int64 // bytes, when Total > 0
}

// Options say how an image is made.
type Options struct {
	Names    []string // of the image; empty: after its source
	Platform string   // "linux/arm64"; "": this host's
	Always   bool     // also when the store has it
	Nix      NixOptions
	Progress func(Progress)
}

// NixOptions say how a flake is evaluated.
type NixOptions struct {
	Inputs  map[string]string // overrides of the flake's inputs: name → flake reference
	Offline bool              // use only what this host has
}

// Result is an image that was made, or was there.
type Result struct {
	ID      string        `json:"id"`
	Name    string        `json:"name"`
	Source  string        `json:"source"`
	Digest  string        `json:"digest,omitempty"` // of the source
	Rootfs  string        `json:"rootfs"`           // digest of the root file system
	Bytes   int64         `json:"disk_bytes"`       // really used
	Cached  bool          `json:"cached"`           // nothing had to be made
	Took    time.Duration `json:"took_ns"`
	Notes   []string      `json:"notes,omitempty"`
	Exposed []string      `json:"ports,omitempty"`
}

// result describes an image of the store, by the name that was asked for.
func result(img image.Image, names []image.Name, cached bool, begin time.Time) Result {
	name := img.Name()
	if len(names) > 0 {
		name = names[0].String()
	}
	return Result{
		ID: img.ID, Name: name, Source: img.Source.Ref, Digest: img.Source.Digest, Rootfs: img.Content.Rootfs, Bytes: img.Used(),
		Cached: cached, Took: time.Since(begin), Notes: img.Build.Notes, Exposed: img.Content.Config.Ports,
	}
}

// Embedded makes an image that is inside this program, which has it for this host's kind of processor.
func (b *Builder) Embedded(ctx context.Context, name string, o Options) (Result, error) {
	begin := time.Now()
	want, err := o.platform()
	if err != nil {
		return Result{}, err
	}
	if host := oci.HostPlatform(); want != host {
		return Result{}, machine.Errorf("image.platform", "leave out --platform, or use an image of a registry", "there is no image %q for %s; mvmctl has it inside for %s", name, want, host)
	}
	names, err := b.names(o)
	if err != nil {
		return Result{}, err
	}
	img, err := b.Images.Ensure(ctx, name)
	if err != nil {
		return Result{}, err
	}
	if len(names) > 0 {
		return b.named(ctx, img, names, begin)
	}
	return result(img, nil, img.Build.Created.Before(begin), begin), nil
}

// named gives an image that the store has already the names asked for.
func (b *Builder) named(ctx context.Context, have image.Image, names []image.Name, begin time.Time) (Result, error) {
	for _, n := range names {
		if err := b.Images.Tag(ctx, n, have.ID); err != nil {
			return Result{}, err
		}
	}
	have, err := b.Images.Find(have.ID)
	if err != nil {
		return Result{}, err
	}
	return result(have, names, true, begin), nil
}

// platform is what the image is to run on.
func (o Options) platform() (oci.Platform, error) {
	if o.Platform == "" {
		return oci.HostPlatform(), nil
	}
	return oci.ParsePlatform(o.Platform)
}

// guestPlatform is platform, for what itself does not say what it runs on.
func (o Options) guestPlatform() (oci.Platform, error) {
	p, err := o.platform()
	if err == nil && (p.OS != "linux" || p.Variant != "" || nixSystem(p.Arch) == "") {
		err = machine.Usagef("input.platform", "use linux/amd64 or linux/arm64", "there are no machines for %s", p)
	}
	return p, err
}

// step reports a step that begins and returns what reports its end.
func (o Options) step(text string) (done func()) {
	if o.Progress == nil {
		return func() {}
	}
	begin := time.Now()
	o.Progress(Progress{Step: text})
	return func() { o.Progress(Progress{Step: text, Done: true, Duration: time.Since(begin)}) }
}

func (o Options) bytes(text string, current, total int64) {
	if o.Progress != nil {
		o.Progress(Progress{Step: text, Current: current, Total: total})
	}
}

// ImageName returns a name in the form in which lists show it; what is no name stays as it is.
func ImageName(text string) string {
	n, err := image.ParseName(text)
	if err != nil {
		return text
	}
	return n.String()
}

// names parses the names that were asked for, or those that the source suggests.
func (b *Builder) names(o Options, suggested ...string) ([]image.Name, error) {
	texts := o.Names
	if len(texts) == 0 {
		texts = suggested
	}
	var out []image.Name
	for _, t := range texts {
		n, err := image.ParseName(t)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, b.Images.CheckNew(out...)
}
