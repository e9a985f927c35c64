package build

import (
	"context"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/fault"
	"github.com/mvmctl/mvmctl/internal/image"
	"github.com/mvmctl/mvmctl/internal/layer"
	"github.com/mvmctl/mvmctl/internal/oci"
)

// Pull makes an image from a container image, wherever it is: see oci.ParseSource. One that the
// store has already, from the same manifest, is only named.
func (b *Builder) Pull(ctx context.Context, ref string, o Options) (Result, error) {
	r, err := b.pull(ctx, ref, ref, image.BuilderOCI, o)
	if err != nil && ctx.Err() == nil && !oci.HasTransport(ref) {
		return r, hinted(err, localHint(ctx, ref))
	}
	return r, err
}

// pull is Pull for an image that came to where it is by another builder; shown is what the user
// gave.
func (b *Builder) pull(ctx context.Context, ref, shown, builder string, o Options) (Result, error) {
	begin := time.Now()
	src, err := oci.ParseSource(ref)
	if err != nil {
		return Result{}, err
	}
	names, err := b.names(o, suggestName(ref, src)...)
	if err != nil {
		return Result{}, err
	}
	want, err := o.platform()
	if err != nil {
		return Result{}, err
	}
	client := oci.New(oci.Options{UserAgent: "mvmctl/" + b.Version})
	defer client.Close()
	done := o.step("looking up " + shown)
	img, err := client.Resolve(ctx, src, want)
	if err != nil {
		return Result{}, err
	}
	done()
	if have, ok := b.have(img); ok {
		return b.named(ctx, have, names, begin)
	}
	blobs, err := oci.OpenBlobs(b.Blobs)
	if err != nil {
		return Result{}, err
	}
	defer blobs.Close()
	fault.Point(fault.PullResolved)
	text := "fetching " + shown
	done = o.step(text)
	img, err = client.Fetch(ctx, img, blobs, func(n, total int64) { o.bytes(text, n, max(total, 0)) })
	if err != nil {
		return Result{}, err
	}
	done()
	fault.Point(fault.PullFetched)
	d := image.Draft{
		Names: names, Arch: img.Platform.Arch, Config: configOf(img.Config), Label: "mvm-oci",
		Source: image.Source{Builder: builder, Ref: shown, Digest: sourceDigest(img)}, Build: image.Build{Version: b.Version},
	}
	made, err := b.apply(ctx, d, img, blobs, o)
	if err != nil {
		return Result{}, err
	}
	return result(made, names, false, begin), nil
}

// apply writes the layers of an image that was fetched.
func (b *Builder) apply(ctx context.Context, d image.Draft, img oci.Image, blobs *oci.Blobs, o Options) (image.Image, error) {
	const text = "writing the image"
	done := o.step(text)
	before := make([]int64, len(img.Layers)) // stored bytes of the layers below
	for i := 1; i < len(img.Layers); i++ {
		before[i] = before[i-1] + img.Layers[i-1].Size
	}
	layers := make([]layer.Layer, len(img.Layers))
	for i, l := range img.Layers {
		layers[i] = layer.Layer{Name: short(l.Digest), DiffID: l.DiffID, Open: func(ctx context.Context) (io.ReadCloser, error) { return blobs.Open(ctx, l) }}
	}
	made, err := b.Images.Import(ctx, d, func(w *disk.Writer) (image.Notes, error) {
		stats, err := layer.Apply(ctx, w, layers, layer.Options{Progress: func(i int, stored int64) { o.bytes(text, before[i]+stored, max(img.Size, 0)) }})
		return stats.Skipped, err
	})
	if err == nil {
		done()
	}
	return made, err
}

// have finds an image of the store that was made from the same manifest.
func (b *Builder) have(img oci.Image) (image.Image, bool) {
	digest := sourceDigest(img)
	images, _ := b.Images.List() // a store that cannot be read is the import's error
	for _, i := range images {
		if digest != "" && i.Source.Digest == digest && i.Content.Arch == img.Platform.Arch {
			return i, true
		}
	}
	return image.Image{}, false
}

// sourceDigest names what an image was made from: its configuration, which lists the layers by
// content and is the same whichever way the image comes.
func sourceDigest(img oci.Image) string { return img.ConfigDigest }

// suggestName is the name that an image gets when the user gives none.
func suggestName(ref string, src oci.Source) []string {
	if !oci.HasTransport(ref) {
		return []string{ref}
	}
	kind, rest, _ := strings.Cut(ref, ":")
	rest = strings.TrimPrefix(rest, "//")
	if kind == "docker" || kind == "docker-daemon" {
		if src.Pinned() {
			return nil
		}
		return []string{rest}
	}
	path, tag, tagged := strings.Cut(rest, ":")
	switch name := nameOf(filepath.Base(path)); {
	case kind == "docker-archive" && tagged:
		return []string{tag}
	case tagged:
		return []string{name + ":" + tag}
	default:
		return []string{name}
	}
}

// configOf turns a container's configuration into an image's.
func configOf(c oci.Config) image.Config {
	out := image.Config{
		Entrypoint: c.Entrypoint, Command: c.Cmd, Dir: c.WorkingDir, User: c.User, StopSignal: c.StopSignal,
		Ports: c.ExposedPorts, Volumes: c.Volumes, Env: map[string]string{},
	}
	for _, e := range c.Env {
		if k, v, ok := strings.Cut(e, "="); ok && k != "" {
			out.Env[k] = v
		}
	}
	if len(out.Env) == 0 {
		out.Env = nil
	}
	if h := c.Healthcheck; h != nil {
		if check, ok := checkOf(*h); ok {
			out.Checks = []agentproto.Check{check}
		}
	}
	return out
}

// checkOf turns a container's health check into ours.
func checkOf(h oci.Healthcheck) (agentproto.Check, bool) {
	if len(h.Test) < 2 {
		return agentproto.Check{}, false // NONE, or nothing
	}
	c := agentproto.Check{
		Name: "image", Interval: nanos(h.Interval), Timeout: nanos(h.Timeout), Grace: nanos(h.StartPeriod), Retries: min(max(h.Retries, 0), 1000),
	}
	switch h.Test[0] {
	case "CMD":
		c.Command = slices.Clone(h.Test[1:])
	case "CMD-SHELL":
		c.Command = []string{"/bin/sh", "-c", h.Test[1]}
	}
	return c, len(c.Command) > 0 && c.Command[0] != ""
}

// nanos bounds a stranger's duration.
func nanos(n int64) agentproto.Duration {
	return agentproto.Duration(min(max(n, 0), int64(24*time.Hour)))
}

func short(digest string) string {
	digest = strings.TrimPrefix(digest, "sha256:")
	return digest[:min(len(digest), 12)]
}
