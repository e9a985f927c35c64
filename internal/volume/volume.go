// Package volume keeps data volumes: disks with a name that outlive the machines they are
// attached to.
//
// It does not attach them (the engine does) and knows no machine; what is in a volume only a
// guest ever mounts. Two machines cannot write one at a time: the VMM's lock on the file says so.
package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/flock"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// Store is the volumes below one data directory.
//
// Layout of dataDir/volumes: vol-<name>/ holds volume.img, a sparse ext4 image, or kept.json, which
// says which backend keeps the data instead; unused, beside volume.img, says that no machine has had
// the image yet. lock is held while a volume is made or removed.
type Store struct{ dir string }

const (
	imageFile  = "volume.img"
	unusedFile = "unused"
	lockFile   = "lock"
	blockSize  = 4096
)

// New returns the store below dataDir. It touches no file.
func New(dataDir string) *Store { return &Store{dir: filepath.Join(dataDir, "volumes")} }

// Info describes one volume.
type Info struct {
	Name    string    `json:"name"`
	Path    string    `json:"path"`
	Size    int64     `json:"size_bytes"`
	Used    int64     `json:"disk_bytes"` // of the host's disk
	Created time.Time `json:"created"`
	InUseBy []string  `json:"in_use_by"` // machines that have it attached, running or not

	// KeptBy is the backend that keeps the data, "" when Path is a disk image that all backends with a
	// kernel of their own can attach. Kept is how that backend finds it, KeptAt where.
	KeptBy string `json:"kept_by,omitempty"`
	Kept   string `json:"kept,omitempty"`
	KeptAt string `json:"kept_at,omitempty"`
	Held   bool   `json:"held,omitempty"` // that backend holds it to Size
	made   bool   // by the backend; false when that was begun

	Unused bool `json:"unused,omitempty"` // no machine has had it yet: it can still be any backend's
}

// Ensure returns the image of a volume for a machine, making it if needed, of whole blocks; size 0
// is the default. A volume that exists keeps its size, and another size is refused, as is a volume
// that a backend keeps.
func (s *Store) Ensure(ctx context.Context, name string, size int64) (path string, err error) {
	unlock, info, err := s.open(ctx, name, size)
	if err != nil {
		return "", err
	}
	defer unlock()
	if info.KeptBy != "" {
		return "", elsewhere(info)
	}
	// Also where there is no image: a Create that was killed leaves the mark alone.
	if err := os.Remove(s.unused(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", paths.WriteError("attaching volume "+name, err)
	}
	if info.Path == "" {
		return s.create(name, size)
	}
	return info.Path, nil
}

// Create makes a volume that no machine has yet. One that is there already is left as it is.
func (s *Store) Create(ctx context.Context, name string, size int64) error {
	unlock, info, err := s.open(ctx, name, size)
	if err != nil {
		return err
	}
	defer unlock()
	if info.Path != "" {
		return nil
	}
	if err := paths.MakePrivate(s.place(name)); err != nil {
		return err
	}
	if err := os.WriteFile(s.unused(name), nil, 0o600); err != nil {
		return errors.Join(paths.WriteError("making volume "+name, err), os.RemoveAll(s.place(name)))
	}
	_, err = s.create(name, size)
	return err
}

// open takes the store's lock and looks for a volume that may have this size, 0 for any: one that
// does not exist has no path.
func (s *Store) open(ctx context.Context, name string, size int64) (unlock func(), info Info, err error) {
	if err := machine.CheckVolumeName(name); err != nil {
		return nil, Info{}, err
	}
	if unlock, err = s.lock(ctx); err != nil {
		return nil, Info{}, err
	}
	info, err = s.Get(name)
	size &^= blockSize - 1
	switch {
	case machine.CodeOf(err) == "volume.not_found":
		return unlock, Info{Name: name}, nil
	case err == nil && size != 0 && size != info.Size:
		err = machine.Errorf("volume.exists", "leave out its size, or use another name", "volume %q exists already, with %s", name, sizeOf(info))
	}
	if err != nil {
		unlock()
		return nil, Info{}, err
	}
	return unlock, info, nil
}

func sizeOf(info Info) string {
	if info.Size == 0 {
		return "no size of its own"
	}
	return "a size of " + machine.FormatSize(info.Size)
}

// create makes the image of a volume that does not exist, in the store's lock.
func (s *Store) create(name string, size int64) (path string, err error) {
	dir := s.place(name)
	if err := paths.MakePrivate(dir); err != nil {
		return "", err
	}
	path = filepath.Join(dir, imageFile)
	size = cmp.Or(size&^(blockSize-1), machine.DefaultVolumeSize)
	err = disk.CreateEmpty(path, disk.Options{Size: size, Label: "mvm-volume", Journal: true})
	if err != nil {
		return "", errors.Join(paths.WriteError("making volume "+name, err), os.RemoveAll(dir))
	}
	return path, nil
}

func (s *Store) unused(name string) string { return filepath.Join(s.place(name), unusedFile) }

// place is a volume's folder. The prefix keeps names apart from files of the store.
func (s *Store) place(name string) string { return filepath.Join(s.dir, "vol-"+name) }

// Get describes a volume: volume.not_found when there is none.
func (s *Store) Get(name string) (Info, error) {
	if info, err := s.kept(name); err != nil || info.KeptBy != "" {
		return info, err
	}
	path := filepath.Join(s.place(name), imageFile)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		e := machine.Errorf("volume.not_found", "`mvmctl volume ls` lists the volumes", "there is no volume %q", name)
		names, _ := s.Names() // only a hint
		if near := machine.Nearest(name, names); near != "" {
			e.Remedy = fmt.Sprintf("did you mean %q? `mvmctl volume ls` lists the volumes", near)
		}
		return Info{}, e
	}
	if err != nil {
		return Info{}, machine.Errorf("state.unreadable", "make it readable, or choose another with MVM_DATA_DIR", "looking at volume %s: %w", name, err)
	}
	used, err := disk.UsedBytes(path)
	if err != nil {
		return Info{}, err
	}
	return Info{Name: name, Path: path, Size: info.Size(), Used: used, Created: created(s.place(name), info), Unused: s.isUnused(name)}, nil
}

// created is the time at which a volume's folder was made, as far as the file system tells.
func created(dir string, fallback fs.FileInfo) time.Time {
	if info, err := os.Lstat(dir); err == nil {
		return info.ModTime().UTC()
	}
	return fallback.ModTime().UTC()
}

// Names returns the names of all volumes, sorted.
func (s *Store) Names() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, machine.Errorf("state.unreadable", "make it readable, or choose another with MVM_DATA_DIR", "listing the volumes: %w", err)
	}
	var out []string
	for _, e := range entries {
		if name := e.Name(); e.IsDir() && len(name) > 4 && machine.CheckName(name[4:]) == nil && name[:4] == "vol-" {
			out = append(out, name[4:])
		}
	}
	return out, nil
}

// List describes all volumes, sorted by name.
func (s *Store) List() ([]Info, error) {
	names, err := s.Names()
	if err != nil {
		return nil, err
	}
	var out []Info
	for _, name := range names {
		info, err := s.Get(name)
		switch {
		case err == nil:
			out = append(out, info)
		case machine.CodeOf(err) != "volume.not_found": // removed meanwhile, or never made
			return nil, err
		}
	}
	return out, nil
}

// Remove deletes a volume and its data, unless drop says that it must stay. drop is asked in the
// store's lock, so that nobody can attach the volume between its answer and the removal; of a volume
// that a backend keeps, it deletes what is kept.
func (s *Store) Remove(ctx context.Context, name string, drop func(Info) error) error {
	if err := machine.CheckVolumeName(name); err != nil {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	info, err := s.Get(name)
	if err != nil {
		return err
	}
	if err := drop(info); err != nil {
		return err
	}
	if err := os.RemoveAll(s.place(name)); err != nil {
		return paths.WriteError("removing volume "+name, err)
	}
	return nil
}

func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	if err := paths.MakePrivate(s.dir); err != nil {
		return nil, err
	}
	unlock, err = flock.Lock(ctx, filepath.Join(s.dir, lockFile))
	if err != nil {
		return nil, fmt.Errorf("locking the volumes: %w", err)
	}
	return unlock, nil
}
