package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// Users answers which machines use an image's ID: such an image is refused, or left out. It is
// called in the store's lock, so that a machine that is being made cannot slip through: it is
// written down before it, too, looks whether its image is still there.
type Users func() (func(id string) []string, error)

// Remove takes a name away, and with its last name the image; with an ID, the image and all its
// names. An image that a machine uses is refused. A damaged one is removed with force, which
// changes nothing for the others.
func (s *Store) Remove(ctx context.Context, text string, users Users, force bool) (Image, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	img, err := s.Find(text)
	if machine.CodeOf(err) == "image.damaged" && force {
		img, err = s.damagedImage(text)
	}
	if err != nil {
		return Image{}, err
	}
	name, nameErr := ParseName(text)
	if nameErr == nil && slices.Contains(img.Names, name) && len(img.Names) > 1 {
		return img, s.unname(name)
	}
	used, err := users()
	if err != nil {
		return Image{}, err
	}
	if by := used(img.ID); len(by) > 0 {
		return Image{}, machine.Errorf("image.in_use", "delete the machines first: mvmctl rm "+strings.Join(by, " "),
			"image %s is used by %s", img.Name(), strings.Join(by, ", "))
	}
	return img, s.delete(img)
}

// damagedImage finds an image that cannot be opened.
func (s *Store) damagedImage(text string) (Image, error) {
	var img Image
	if name, err := ParseName(text); err == nil {
		if r, err := s.readRef(name); err == nil {
			img.ID = r.ID
		}
	}
	ids, err := s.startingWith(text)
	if err != nil {
		return Image{}, err
	}
	if img.ID == "" && len(ids) == 1 {
		img.ID = ids[0]
	}
	if img.ID == "" {
		return Image{}, s.notFound(text)
	}
	img.Names, err = s.namesOf(img.ID)
	return img, err
}

// delete removes an image's names and then its files: what is left of a killed removal is an
// image without a name.
func (s *Store) delete(img Image) error {
	for _, n := range img.Names {
		if err := s.unname(n); err != nil {
			return err
		}
	}
	dir := filepath.Join(s.dir, img.ID)
	// Renamed first, so that it is never seen half removed.
	gone := filepath.Join(s.dir, tmpDir, "removed-"+img.ID)
	if err := paths.MakePrivate(filepath.Dir(gone)); err != nil {
		return err
	}
	if err := os.RemoveAll(gone); err != nil {
		return paths.CacheError("removing "+gone, err)
	}
	if err := os.Rename(dir, gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return paths.CacheError("removing image "+shortID(img.ID), err)
	}
	if err := os.RemoveAll(gone); err != nil {
		return paths.CacheError("removing "+gone, err)
	}
	return nil
}

func (s *Store) unname(n Name) error {
	err := os.Remove(filepath.Join(s.dir, refsDir, n.file()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return paths.CacheError("removing the name "+n.String(), err)
	}
	return nil
}

// Pruned is what Prune removed, or would.
type Pruned struct {
	Images    []Image
	Leftovers int   // killed imports
	Bytes     int64 // of the host's disk
}

// Prune removes images that no machine uses: those that have no name, those with one for which
// named is true, and what killed imports left. With dryRun it only says so.
func (s *Store) Prune(ctx context.Context, users Users, named func(Image) bool, dryRun bool) (Pruned, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return Pruned{}, err
	}
	defer unlock()
	var out Pruned
	_, bad, err := s.refs()
	if err != nil {
		return out, err
	}
	if len(bad) > 0 {
		return out, machine.Errorf("image.damaged", "name the images that you want to keep again, with `mvmctl image tag`, and remove the damaged files",
			"the names in %s cannot be read, so nobody knows which images have none", strings.Join(bad, ", "))
	}
	used, err := users()
	if err != nil {
		return out, err
	}
	images, err := s.List()
	if err != nil {
		return out, err
	}
	if out.Leftovers, out.Bytes, err = s.leftovers(!dryRun); err != nil {
		return out, err
	}
	for _, img := range images {
		if len(img.Names) > 0 && !named(img) || len(used(img.ID)) > 0 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return out, err
		}
		bytes := img.Used()
		if !dryRun {
			if err := s.delete(img); err != nil {
				return out, err
			}
		}
		out.Images = append(out.Images, img)
		out.Bytes += bytes
	}
	return out, nil
}

// Verify reads an image whole and holds it against its digests; the error is image.damaged.
func (s *Store) Verify(ctx context.Context, id string) error {
	img, err := s.Open(id)
	if err != nil {
		return err
	}
	digest, _, err := digestFile(ctx, img.Path)
	if err != nil {
		return err
	}
	if digest != img.Content.Rootfs {
		return damaged(id, fmt.Errorf("its root file system is %s and not %s", digest, img.Content.Rootfs))
	}
	return nil
}
