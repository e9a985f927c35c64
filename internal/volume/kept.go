package volume

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// keptFile, in a volume's folder, says which backend keeps its data.
const keptFile = "kept.json"

// maxKept bounds what is read of it.
const maxKept = 16 << 10

// note is the content of keptFile. It is written before the backend is asked, without Made, and
// again afterwards: a volume that is noted as made and that the backend has not is lost, and never
// made again in silence.
type note struct {
	Backend string `json:"backend"`
	ID      string `json:"id"`
	At      string `json:"at,omitempty"`
	Size    int64  `json:"size_bytes,omitempty"`
	Held    bool   `json:"held,omitempty"` // the backend holds it to Size
	Made    bool   `json:"made,omitempty"`
}

// Keep returns a volume that a backend keeps, having keep make it if needed; keep hears how it is
// to be called and which size was asked for, 0 for none. It is idempotent, and says where it has it
// and the size that it holds it to, 0 for none. A volume whose image a machine has had is
// refused, as is one that another backend keeps.
func (s *Store) Keep(ctx context.Context, name string, size int64, backend string, keep func(ctx context.Context, id string, size int64) (at string, has int64, err error)) (Info, error) {
	unlock, info, err := s.open(ctx, name, size)
	if err != nil {
		return Info{}, err
	}
	defer unlock()
	switch {
	case info.KeptBy == backend && info.made:
		return info, nil
	case info.KeptBy != "" && info.KeptBy != backend, info.KeptBy == "" && info.Path != "" && !info.Unused:
		return Info{}, elsewhere(info)
	}
	n := note{Backend: backend, ID: info.Kept, Size: info.Size}
	if info.KeptBy == "" {
		n.ID, n.Size = machine.NewID(), size&^(blockSize-1)
		if err := s.write(name, n); err != nil {
			return Info{}, err
		}
	}
	has := int64(0)
	if n.At, has, err = keep(ctx, n.ID, cmp.Or(n.Size, info.Size)); err != nil {
		switch { // what there was before is what there is now
		case info.Path == "":
			err = errors.Join(err, os.RemoveAll(s.place(name)))
		case info.KeptBy == "":
			err = errors.Join(err, os.Remove(filepath.Join(s.place(name), keptFile)))
		}
		return Info{}, err
	}
	n.Made, n.Held, n.Size = true, has != 0, cmp.Or(has, n.Size)
	if err := s.write(name, n); err != nil {
		return Info{}, err
	}
	for _, file := range []string{imageFile, unusedFile} { // of the image that nobody has had
		if err := os.Remove(filepath.Join(s.place(name), file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Info{}, paths.WriteError("making volume "+name, err)
		}
	}
	return s.Get(name)
}

func (s *Store) isUnused(name string) bool {
	_, err := os.Lstat(s.unused(name))
	return err == nil
}

// elsewhere refuses to take a volume's data to another backend.
func elsewhere(info Info) error {
	has := "is a disk image, which the backend of this machine cannot attach"
	if info.KeptBy != "" {
		has = "is kept by the backend " + info.KeptBy
	}
	return machine.Errorf("volume.elsewhere", "use another volume, or the backend that has this one; `mvmctl cp` takes its files from a machine of that backend to one of this",
		"volume %q %s, and data does not move between backends", info.Name, has)
}

// kept describes a volume that a backend keeps; the zero Info when none does.
func (s *Store) kept(name string) (Info, error) {
	path := filepath.Join(s.place(name), keptFile)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Info{}, nil
	}
	var n note
	if err == nil {
		defer func() { _ = f.Close() }()
		err = json.NewDecoder(io.LimitReader(f, maxKept)).Decode(&n)
		if err == nil && (n.Backend == "" || !machine.ValidID(n.ID)) {
			err = errors.New("it names no volume")
		}
		if err != nil {
			return Info{}, machine.Errorf("state.corrupt", "look at the file; delete the volume's folder to give its data up", "reading %s: %w", path, err)
		}
	}
	if err != nil {
		return Info{}, machine.Errorf("state.unreadable", "make it readable, or choose another with MVM_DATA_DIR", "looking at volume %s: %w", name, err)
	}
	info, err := f.Stat()
	if err != nil {
		return Info{}, fmt.Errorf("looking at volume %s: %w", name, err)
	}
	return Info{
		Name: name, Path: path, Size: n.Size, Created: created(s.place(name), info),
		KeptBy: n.Backend, Kept: n.ID, KeptAt: n.At, Held: n.Held, made: n.Made,
	}, nil
}

// write replaces the note, so that a crash leaves the old one or the new one.
func (s *Store) write(name string, n note) (err error) {
	defer func() { err = paths.WriteError("making volume "+name, err) }()
	dir := s.place(name)
	if err := paths.MakePrivate(dir); err != nil {
		return err
	}
	data, err := json.Marshal(n)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, keptFile+".new")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(tmp, filepath.Join(dir, keptFile))
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
