package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/flock"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// Image is one bootable root file system of the store.
type Image struct {
	Manifest
	Names []Name // that point at it, sorted
	Path  string // ext4 image, read-only, shared by all machines
}

// Name returns the name by which people know the image: the shortest to write, or a short ID.
func (i Image) Name() string {
	if len(i.Names) == 0 {
		return shortID(i.ID)
	}
	return slices.MinFunc(i.Names, func(a, b Name) int {
		return cmp.Or(cmp.Compare(len(a.String()), len(b.String())), cmp.Compare(a, b))
	}).String()
}

// Used returns the disk space that the image really takes, in bytes; 0 when it is gone.
func (i Image) Used() int64 {
	n, err := disk.UsedBytes(i.Path)
	if err != nil {
		return 0
	}
	return n
}

func shortID(id string) string { return id[:min(len(id), shortDigits)] }

// Store is the images below one cache directory.
//
// Layout of cacheDir/images: <id>/ holds manifest.json and rootfs.ext4 and never changes;
// refs/ has one file for each name; tmp/ has the imports under way, each with a lock that its
// process holds; lock is held while names or images are put in or taken out.
type Store struct{ dir string }

// Files and folders of the store.
const (
	refsDir    = "refs"
	tmpDir     = "tmp"
	lockFile   = "lock"
	rootfsFile = "rootfs.ext4"
	metaFile   = "manifest.json"
)

// New returns the store below cacheDir. It touches no file.
func New(cacheDir string) *Store { return &Store{dir: filepath.Join(cacheDir, "images")} }

// ref is what a name's file holds.
type ref struct {
	Name  Name      `json:"name"`
	ID    string    `json:"id"`
	Moved time.Time `json:"moved"` // to this image
}

// Open returns the image with an ID: image.gone when it is not here.
func (s *Store) Open(id string) (Image, error) {
	if !validID(id) {
		return Image{}, machine.Errorf("image.gone", "`mvmctl image list` shows what there is", "%q is not an image id", clip(id, 80))
	}
	dir := filepath.Join(s.dir, id)
	f, err := os.Open(filepath.Join(dir, metaFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, machine.Errorf("image.gone", "get it again: `mvmctl image pull`, `mvmctl build`, or `mvmctl image import`", "image %s is not in the store", shortID(id))
	}
	if err != nil {
		return Image{}, fmt.Errorf("opening image %s: %w", shortID(id), err)
	}
	defer func() { _ = f.Close() }()
	m, err := decodeManifest(f)
	if err == nil && m.ID != id {
		err = errors.New("it is of another image")
	}
	if err != nil {
		return Image{}, damaged(id, fmt.Errorf("its manifest cannot be used: %w", err))
	}
	img := Image{Manifest: m, Path: filepath.Join(dir, rootfsFile)}
	info, err := os.Lstat(img.Path)
	switch {
	case err != nil:
		return Image{}, damaged(id, err)
	case !info.Mode().IsRegular() || info.Size() != m.Content.Size:
		return Image{}, damaged(id, fmt.Errorf("its root file system has %d bytes and not %d", info.Size(), m.Content.Size))
	}
	return img, nil
}

func damaged(id string, err error) error {
	return machine.Errorf("image.damaged", fmt.Sprintf("`mvmctl image rm --force %s` removes it; then get it again", shortID(id)), "image %s is damaged: %w", shortID(id), err)
}

func validID(id string) bool {
	return len(id) == 64 && strings.Trim(id, "0123456789abcdef") == ""
}

// Find returns the image that a name or the beginning of an ID (6 digits or more) means:
// image.not_found when there is none.
func (s *Store) Find(text string) (Image, error) {
	name, nameErr := ParseName(text)
	if nameErr == nil {
		r, err := s.readRef(name)
		if err == nil {
			return s.named(r)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return Image{}, err
		}
	}
	ids, err := s.startingWith(text)
	switch {
	case err != nil:
		return Image{}, err
	case len(ids) == 1:
		return s.named(ref{ID: ids[0]})
	case len(ids) > 1:
		return Image{}, machine.Usagef("image.ambiguous", "write more of it", "%q is the beginning of %d images", text, len(ids))
	case nameErr != nil:
		return Image{}, nameErr
	}
	return Image{}, s.notFound(text)
}

func (s *Store) notFound(text string) error {
	e := machine.Errorf("image.not_found", "`mvmctl image list` shows what there is", "there is no image %q", text)
	var names []string
	refs, _, _ := s.refs() // only for a suggestion
	for _, r := range refs {
		names = append(names, r.Name.String())
	}
	if near := machine.Nearest(text, append(names, minimalName)); near != "" && near != text {
		e.Remedy = fmt.Sprintf("did you mean %q? `mvmctl image list` shows what there is", near)
	}
	return e
}

// named opens the image of a ref and fills in all of its names.
func (s *Store) named(r ref) (Image, error) {
	img, err := s.Open(r.ID)
	if err != nil {
		return Image{}, err
	}
	img.Names, err = s.namesOf(img.ID)
	return img, err
}

func (s *Store) namesOf(id string) ([]Name, error) {
	refs, _, err := s.refs()
	var names []Name
	for _, r := range refs {
		if r.ID == id {
			names = append(names, r.Name)
		}
	}
	return names, err
}

// startingWith returns the IDs that begin with text, which has six digits at least.
func (s *Store) startingWith(text string) ([]string, error) {
	text = strings.TrimPrefix(text, "sha256:")
	if len(text) < 6 || strings.Trim(text, "0123456789abcdef") != "" {
		return nil, nil
	}
	ids, err := s.IDs()
	return slices.DeleteFunc(ids, func(id string) bool { return !strings.HasPrefix(id, text) }), err
}

// IDs returns the IDs of all images, whole or damaged, sorted.
func (s *Store) IDs() ([]string, error) {
	entries, err := readDir(s.dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() && validID(e.Name()) {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// readDir reads a folder of the store. One that was never made is empty; one that cannot be read
// may hold anything, so nothing must be concluded from it.
func readDir(dir string) ([]fs.DirEntry, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, machine.Errorf("state.unreadable", "make it readable, or choose another with MVM_CACHE_DIR", "listing the images: %w", err)
	}
	return entries, nil
}

// refs returns all names with what they point at, sorted by name, and the files of names that
// cannot be used.
func (s *Store) refs() (names []ref, bad []string, err error) {
	dir := filepath.Join(s.dir, refsDir)
	entries, err := readDir(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		switch r, err := s.readRefFile(e.Name()); {
		case err == nil:
			names = append(names, r)
		case !strings.HasPrefix(e.Name(), "."): // else one that is being written
			bad = append(bad, filepath.Join(dir, e.Name()))
		}
	}
	slices.SortFunc(names, func(a, b ref) int { return cmp.Compare(a.Name, b.Name) })
	return names, bad, nil
}

func (s *Store) readRef(n Name) (ref, error) {
	r, err := s.readRefFile(n.file())
	if err == nil && r.Name != n {
		err = fs.ErrNotExist // a damaged file names nothing
	}
	return r, err
}

func (s *Store) readRefFile(file string) (ref, error) {
	data, err := os.ReadFile(filepath.Join(s.dir, refsDir, file))
	if err != nil {
		return ref{}, err
	}
	var r ref
	if err := json.Unmarshal(data, &r); err != nil || !validID(r.ID) || r.Name.file() != file {
		return ref{}, fs.ErrNotExist
	}
	return r, nil
}

// CheckNew refuses names that no image should get: names go before IDs, so one that reads like
// an ID, in the length that lists show, would hide an image now or later. A shorter one may be a
// word ("decade") and is refused when there is such an ID.
func (s *Store) CheckNew(names ...Name) error {
	for _, n := range names {
		digits := n.asID()
		if digits == "" {
			continue
		}
		why := "it reads like the id of an image"
		if len(digits) < shortDigits {
			ids, err := s.startingWith(digits)
			if err != nil {
				return err
			}
			if len(ids) == 0 {
				continue
			}
			why = "it is the beginning of the id of an image that is here"
		}
		return machine.Usagef("image.name", "choose another name, for example img-"+digits[:6], "%q cannot become an image's name: %s", n.String(), why)
	}
	return nil
}

// List returns all images, named ones first, sorted by name. A damaged one is left out; Verify
// names it.
func (s *Store) List() ([]Image, error) {
	refs, _, err := s.refs()
	if err != nil {
		return nil, err
	}
	ids, err := s.IDs()
	if err != nil {
		return nil, err
	}
	names := map[string][]Name{}
	for _, r := range refs {
		names[r.ID] = append(names[r.ID], r.Name)
	}
	var out []Image
	for _, id := range ids {
		if img, err := s.Open(id); err == nil {
			img.Names = names[id]
			out = append(out, img)
		}
	}
	slices.SortFunc(out, func(a, b Image) int {
		return cmp.Or(cmp.Compare(len(b.Names), 0)-cmp.Compare(len(a.Names), 0), cmp.Compare(a.Name(), b.Name()))
	})
	return out, nil
}

// Tag makes a name point at an image.
func (s *Store) Tag(ctx context.Context, n Name, id string) error {
	if err := s.CheckNew(n); err != nil {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := s.Open(id); err != nil {
		return err
	}
	return s.point(n, id)
}

// point writes a name's file, in the caller's lock.
func (s *Store) point(n Name, id string) error {
	data, err := json.Marshal(ref{Name: n, ID: id, Moved: time.Now().UTC()})
	if err != nil {
		return fmt.Errorf("encoding name: %w", err)
	}
	dir := filepath.Join(s.dir, refsDir)
	if err := paths.MakePrivate(dir); err != nil {
		return err
	}
	err = disk.Atomically(filepath.Join(dir, n.file()), func(f *os.File) error {
		_, err := f.Write(append(data, '\n'))
		return err
	})
	return paths.CacheError("naming image "+n.String(), err)
}

// lock is held by whoever puts images or names in or takes them out.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	if err := paths.MakePrivate(s.dir); err != nil {
		return nil, err
	}
	unlock, err = flock.Lock(ctx, filepath.Join(s.dir, lockFile))
	if err != nil {
		return nil, fmt.Errorf("locking the image store: %w", err)
	}
	return unlock, nil
}
