package engine

import (
	"cmp"
	"context"
	"io"
	"os"
	"slices"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/image"
	"github.com/mvmctl/mvmctl/internal/layer"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// Images lists what `up` can boot: what is in the store, and what is embedded and not made yet.
func (e *Engine) Images(context.Context) ([]ImageInfo, error) {
	users, err := e.imageUsers()
	if err != nil {
		return nil, err
	}
	have, err := e.ImageStore.List()
	if err != nil {
		return nil, err
	}
	var out []ImageInfo
	embedded := image.Embedded()
	for _, i := range have {
		info := ImageInfo{
			Name: i.Name(), ID: i.ID, Builder: i.Source.Builder, Source: i.Source.Ref, Arch: i.Content.Arch, Cached: true,
			Size: i.Used(), Created: i.Build.Created, InUseBy: users(i.ID),
		}
		for _, n := range i.Names {
			info.Names = append(info.Names, n.String())
			if text := embedded[n.String()]; text != "" {
				info.Description = text
				delete(embedded, n.String())
			}
		}
		out = append(out, info)
	}
	for name, text := range embedded {
		out = append(out, ImageInfo{Name: name, Names: []string{name}, Description: text, Builder: image.BuilderEmbedded, InUseBy: []string{}})
	}
	slices.SortFunc(out, func(a, b ImageInfo) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// ImageDetail is everything that is known of one image.
type ImageDetail struct {
	image.Manifest
	Names   []image.Name `json:"names"`
	Path    string       `json:"path"`
	Used    int64        `json:"disk_bytes"`
	InUseBy []string     `json:"in_use_by"`
}

// Image describes one image of the store.
func (e *Engine) Image(ctx context.Context, name string) (ImageDetail, error) {
	img, err := e.ImageStore.Ensure(ctx, name)
	if err != nil {
		return ImageDetail{}, err
	}
	users, err := e.imageUsers()
	if err != nil {
		return ImageDetail{}, err
	}
	return ImageDetail{Manifest: img.Manifest, Names: img.Names, Path: img.Path, Used: img.Used(), InUseBy: users(img.ID)}, nil
}

// TagImage gives an image one more name, which is taken from whichever image had it.
func (e *Engine) TagImage(ctx context.Context, source, name string) error {
	n, err := image.ParseName(name)
	if err != nil {
		return err
	}
	img, err := e.ImageStore.Ensure(ctx, source)
	if err != nil {
		return err
	}
	return e.ImageStore.Tag(ctx, n, img.ID)
}

// RemoveImage takes a name away, and with its last name the image.
func (e *Engine) RemoveImage(ctx context.Context, name string, force bool) error {
	_, err := e.ImageStore.Remove(ctx, name, e.imageUsers, force)
	return err
}

// PrunedImages is what PruneImages removed, or would.
type PrunedImages struct {
	Images    []string `json:"images"`
	Leftovers int      `json:"leftovers"` // imports that were killed
	Bytes     int64    `json:"bytes"`
}

// Prune says which images with a name PruneImages takes, beside those without.
type Prune int

// What goes.
const (
	PruneUnnamed Prune = iota
	PruneAgain         // and those that can be fetched or built again from what is written in them
	PruneAll
)

// takes reports whether an image with a name goes.
func (p Prune) takes(i image.Image) bool {
	switch i.Source.Builder {
	case image.BuilderEmbedded, image.BuilderOCI, image.BuilderFlake:
		return p >= PruneAgain
	}
	return p == PruneAll // a committed machine, or a folder or Dockerfile that may be gone by now
}

// PruneImages removes images that no machine uses.
func (e *Engine) PruneImages(ctx context.Context, which Prune, dryRun bool) (PrunedImages, error) {
	p, err := e.ImageStore.Prune(ctx, e.imageUsers, which.takes, dryRun)
	out := PrunedImages{Images: []string{}, Leftovers: p.Leftovers, Bytes: p.Bytes}
	for _, img := range p.Images {
		out.Images = append(out.Images, img.Name())
	}
	return out, err
}

// VerifyImages reads images whole and holds them against their digests: those named, or all.
// each hears of every one; the error is that there is none of a name.
func (e *Engine) VerifyImages(ctx context.Context, names []string, each func(ImageInfo, error)) error {
	var ids []string
	asked := map[int]string{} // which name an id was asked for by
	if len(names) == 0 {
		var err error
		if ids, err = e.ImageStore.IDs(); err != nil {
			return err
		}
	}
	for _, n := range names {
		img, err := e.ImageStore.Find(n)
		if err != nil && machine.CodeOf(err) != "image.damaged" {
			return err
		}
		if err != nil {
			each(ImageInfo{Name: n}, err)
			continue
		}
		asked[len(ids)] = n
		ids = append(ids, img.ID)
	}
	for i, id := range ids {
		err := e.ImageStore.Verify(ctx, id)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		info := ImageInfo{ID: id, Name: id[:12]}
		if n := asked[i]; n != "" {
			info.Name = n
		} else if img, ferr := e.ImageStore.Find(id); ferr == nil {
			info.Name = img.Name()
		}
		each(info, err)
	}
	return nil
}

// imageUsers returns which machines were made from an image. One whose record cannot be read
// may be of any image.
func (e *Engine) imageUsers() (func(id string) []string, error) {
	recs, unknown, err := e.records()
	if err != nil {
		return nil, err
	}
	users := map[string][]string{}
	for _, rec := range recs {
		users[rec.ImageID] = append(users[rec.ImageID], rec.Name)
	}
	return func(id string) []string { return append(slices.Concat([]string{}, users[id]), unknown...) }, nil
}

// records returns all machines' records, and the names of those that cannot be read.
func (e *Engine) records() (recs []machine.Record, unknown []string, err error) {
	names, err := e.Records.Names()
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		rec, err := e.Records.Load(name)
		switch {
		case err == nil:
			recs = append(recs, rec)
		case machine.CodeOf(err) != "machine.not_found" && machine.CodeOf(err) != "state.incomplete" && machine.CodeOf(err) != "env.ownership": // the last is no machine
			unknown = append(unknown, name)
		}
	}
	return recs, unknown, nil
}

// ExportImage writes an image's root file system: as "tar" to w or a new file, as "ext4" to a
// new file. A file appears whole or not at all.
func (e *Engine) ExportImage(ctx context.Context, name, format, to string, w io.Writer) error {
	img, err := e.ImageStore.Ensure(ctx, name)
	if err != nil {
		return err
	}
	if format == "ext4" {
		return paths.TargetError("writing "+to, disk.CopySparse(to, img.Path))
	}
	fs, closeDisk, err := openDisk(img.Path)
	if err != nil {
		return err
	}
	defer closeDisk()
	if to == "" {
		_, err = layer.ToTar(ctx, fs, w)
		return err
	}
	return paths.TargetError("writing "+to, disk.Atomically(to, func(f *os.File) error {
		_, err := layer.ToTar(ctx, fs, f)
		return err
	}))
}
