// Package image is the local store of bootable images: what a name means, where its root file
// system is, and what runs in it by default. For now it holds what is embedded in the program:
// the "minimal" image, whose user land is the guest agent itself.
//
// It boots nothing and keeps no machine's own writes: an image is read-only and shared. The
// engine calls it.
package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// Image is one bootable root file system.
type Image struct {
	Name        string
	ID          string // digest of its content
	Description string
	Builder     string   // what makes it: "embedded"
	Path        string   // ext4 image, read-only, shared by all machines; "" when not made yet
	Command     []string // default main program; empty: the machine just runs
	Env         map[string]string
	Dir         string
	User        string
}

// Store is the images below one cache directory.
type Store struct{ dir string }

// New returns the store below cacheDir. It touches no file.
func New(cacheDir string) *Store { return &Store{dir: filepath.Join(cacheDir, "images")} }

// Names returns the names that Ensure knows.
func (s *Store) Names() []string { return []string{minimalName} }

// List returns all known images, made or not.
func (s *Store) List() []Image {
	img := minimalImage()
	if ok(s.path(img.ID)) {
		img.Path = s.path(img.ID)
	}
	return []Image{img}
}

// Ensure returns the named image, ready to boot, making it if needed.
func (s *Store) Ensure(ctx context.Context, name string) (Image, error) {
	if name != minimalName {
		e := machine.Usagef("image.not_found", "`mvmctl image list` shows what there is", "there is no image %q", name)
		if near := machine.Nearest(name, s.Names()); near != "" {
			e.Remedy = fmt.Sprintf("did you mean %q? `mvmctl image list` shows what there is", near)
		}
		return Image{}, e
	}
	img := minimalImage()
	img.Path = s.path(img.ID)
	if ok(img.Path) {
		return img, nil
	}
	if err := ctx.Err(); err != nil {
		return Image{}, err
	}
	if err := paths.MakePrivate(filepath.Dir(img.Path)); err != nil {
		return Image{}, err
	}
	err := disk.CreateFile(img.Path, disk.Options{Label: "mvm-" + minimalName}, func(w *disk.Writer) error {
		for _, f := range minimalTree() {
			if err := f.add(w); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return Image{}, paths.WriteError("making image "+name, err)
	}
	return img, nil
}

func (s *Store) path(id string) string { return filepath.Join(s.dir, id, "rootfs.ext4") }

func ok(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() > 0
}

// Used returns the disk space that an image really takes, in bytes; 0 when it is not made.
func (i Image) Used() int64 {
	if i.Path == "" {
		return 0
	}
	n, err := disk.UsedBytes(i.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	return n
}

// digest names a tree by its content.
func digest(tree []file) string {
	h := sha256.New()
	for _, f := range tree {
		_, _ = fmt.Fprintf(h, "%q %v %o %d %d %q %q\n", f.Path, f.Type, f.Mode, f.UID, f.GID, f.Target, f.content)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}
