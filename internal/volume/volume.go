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
// Layout of dataDir/volumes: vol-<name>/ holds volume.img, a sparse ext4 image; lock is held while a
// volume is made or removed.
type Store struct{ dir string }

const (
	imageFile = "volume.img"
	lockFile  = "lock"
	blockSize = 4096
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
}

// Ensure returns the image of a volume, making it if needed, of whole blocks; size 0 is the
// default. A volume that exists keeps its size, and another size is refused.
func (s *Store) Ensure(ctx context.Context, name string, size int64) (path string, err error) {
	if err := machine.CheckVolumeName(name); err != nil {
		return "", err
	}
	size &^= blockSize - 1
	unlock, err := s.lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	info, err := s.Get(name)
	switch {
	case err == nil && size != 0 && size != info.Size:
		return "", machine.Errorf("volume.exists", "leave out its size, or use another name", "volume %q exists already, with a size of %s", name, machine.FormatSize(info.Size))
	case err == nil:
		return info.Path, nil
	case machine.CodeOf(err) != "volume.not_found":
		return "", err
	}
	dir := s.place(name)
	if err := paths.MakePrivate(dir); err != nil {
		return "", err
	}
	path = filepath.Join(dir, imageFile)
	err = disk.CreateEmpty(path, disk.Options{Size: cmp.Or(size, machine.DefaultVolumeSize), Label: "mvm-volume", Journal: true})
	if err != nil {
		return "", errors.Join(paths.WriteError("making volume "+name, err), os.Remove(dir))
	}
	return path, nil
}

// place is a volume's folder. The prefix keeps names apart from files of the store.
func (s *Store) place(name string) string { return filepath.Join(s.dir, "vol-"+name) }

// Get describes a volume: volume.not_found when there is none.
func (s *Store) Get(name string) (Info, error) {
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
	return Info{Name: name, Path: path, Size: info.Size(), Used: used, Created: created(s.place(name), info)}, nil
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

// Remove deletes a volume and its data, unless used says that it must stay. used is asked in the
// store's lock, so that nobody can attach the volume between its answer and the removal.
func (s *Store) Remove(ctx context.Context, name string, used func() error) error {
	if err := machine.CheckVolumeName(name); err != nil {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := s.Get(name); err != nil {
		return err
	}
	if err := used(); err != nil {
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
