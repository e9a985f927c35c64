// Package store keeps what mvmctl remembers of its machines: one folder per machine with a
// checked, versioned record and the supervisor's last status, the lock a command holds while
// it changes a machine, and the lock that proves a supervisor alive.
//
// It decides nothing about machines and starts nothing. Only the composition root imports it;
// the engine sees it through an interface of its own.
package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mvmctl/mvmctl/internal/fault"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// Store is the machines' memory below one state directory. It is safe for concurrent use by
// any number of processes.
type Store struct {
	paths paths.Paths
	buffers
}

// New returns the store below p. It touches no file.
func New(p paths.Paths) *Store { return &Store{paths: p} }

// Prepare makes the folders below which records live, private to their owner.
func (s *Store) Prepare() error {
	for _, dir := range []string{s.paths.State, s.paths.Machines(), s.paths.Locks()} {
		if err := paths.MakePrivate(dir); err != nil {
			return err
		}
	}
	return nil
}

// Load returns the named machine's record: machine.not_found when there is none,
// state.corrupt or state.newer when it cannot be used. Neither touches the files.
func (s *Store) Load(name string) (machine.Record, error) {
	if err := machine.CheckName(name); err != nil {
		return machine.Record{}, err
	}
	if err := s.ours(name); err != nil {
		return machine.Record{}, err
	}
	m := s.paths.Machine(name, "")
	var rec machine.Record
	err := s.readState(m.Record(), "record", machine.RecordSchema, &rec)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, statErr := os.Lstat(m.Dir); statErr == nil {
			// The folder was made, the record was not yet, or it has been removed already: a
			// command was killed in between. There is nothing in it to lose.
			return machine.Record{}, machine.Errorf("state.incomplete", "mvmctl rm "+name, "machine %q is half made or half removed", name)
		}
		return machine.Record{}, s.notFound(name)
	case errors.As(err, new(*newerError)):
		return machine.Record{}, &machine.Error{
			Code: "state.newer", Err: err,
			Message: fmt.Sprintf("machine %q was written by a newer mvmctl (%v)", name, err),
			Remedy:  "use that version, or update this one; nothing was changed",
		}
	case err != nil && errors.Is(err, errBadState):
		return machine.Record{}, corrupt(name, m.Dir, err)
	case err != nil:
		return machine.Record{}, fmt.Errorf("reading the record of %q: %w", name, err)
	case rec.Name != name:
		return machine.Record{}, corrupt(name, m.Dir, fmt.Errorf("the record is of %q", rec.Name))
	}
	return rec, nil
}

func corrupt(name, dir string, err error) error {
	return &machine.Error{
		Code: "state.corrupt", Err: err,
		Message: fmt.Sprintf("the record of machine %q cannot be read: %v", name, err),
		Remedy:  fmt.Sprintf("`mvmctl rm --force %s` deletes the machine; its files are in %s", name, dir),
	}
}

func (s *Store) notFound(name string) error {
	e := machine.Errorf("machine.not_found", "`mvmctl ls` lists the machines", "there is no machine %q", name)
	known, _ := s.Names() // only for a suggestion
	if near := machine.Nearest(name, known); near != "" {
		e.Remedy = fmt.Sprintf("did you mean %q? `mvmctl ls` lists the machines", near)
	}
	return e
}

// Save writes the record, durably and all or nothing, making the machine's folder if needed.
func (s *Store) Save(rec machine.Record) error {
	if err := machine.CheckName(rec.Name); err != nil {
		return err
	}
	if err := s.ours(rec.Name); err != nil {
		return err
	}
	m := s.paths.Machine(rec.Name, rec.ID)
	if err := os.Mkdir(m.Dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return paths.WriteError("making "+m.Dir, err)
	}
	if err := os.Mkdir(m.Logs(), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return paths.WriteError("making "+m.Logs(), err)
	}
	rec.Schema = machine.RecordSchema
	return writeState(m.Record(), "record", machine.RecordSchema, rec, true)
}

// Names returns all machines' names, sorted, without reading any record. A state directory that
// was never made has none; one that cannot be read is an error, since it may have any number.
func (s *Store) Names() ([]string, error) {
	dirents, err := os.ReadDir(s.paths.Machines())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, machine.Errorf("state.unreadable", "make it readable, or choose another with MVM_STATE_DIR", "listing the machines: %w", err)
	}
	names := make([]string, 0, len(dirents))
	for _, d := range dirents {
		if machine.CheckName(d.Name()) == nil { // also what is no folder: Load says what stands there
			names = append(names, d.Name())
		}
	}
	return names, nil // os.ReadDir has sorted them
}

// Status returns the supervisor's last word about the machine, or nil when there is none that
// can be read.
func (s *Store) Status(name string) *machine.Status {
	var st machine.Status
	if err := s.readState(s.paths.Machine(name, "").Status(), "status", machine.RecordSchema, &st); err != nil {
		return nil
	}
	return &st
}

// SaveStatus writes the machine's status, all or nothing. It is not synced: after a power cut
// no supervisor is alive and the status is not believed.
//
// On a full disk, which is when it matters what `ls` says, the bytes of the old status are used
// again. Whoever reads meanwhile finds a damaged one and asks the supervisor.
func (s *Store) SaveStatus(name string, st machine.Status) error {
	path := s.paths.Machine(name, "").Status()
	err := writeState(path, "status", machine.RecordSchema, st, false)
	if machine.CodeOf(err) != "limit.disk" {
		return err
	}
	data, encodeErr := encodeState("status", machine.RecordSchema, st)
	if encodeErr != nil || overwrite(path, data) != nil {
		return err
	}
	return nil
}

// Delete removes the machine's folder and everything in it, the record last but one, the
// folder itself last, so that a crash in between leaves something List still shows. Nothing is
// reached through a link: one in place of the folder is refused, one in it is removed itself.
// The caller holds the machine's lock and has made sure that no supervisor is alive.
func (s *Store) Delete(name string) error {
	if err := machine.CheckName(name); err != nil {
		return err
	}
	if err := s.ours(name); err != nil {
		return err
	}
	all, err := os.OpenRoot(s.paths.Machines())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing machine %q: %w", name, err)
	}
	defer all.Close()
	dir, err := all.OpenRoot(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing machine %q: %w", name, err)
	}
	defer dir.Close()
	if err := empty(dir, filepath.Base(s.paths.Machine(name, "").Record())); err != nil {
		return paths.WriteError("removing machine "+name, err)
	}
	if err := all.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return paths.WriteError("removing machine "+name, err)
	}
	return nil
}

// empty removes all that is in dir, the file last at the end.
func empty(dir *os.Root, last string) error {
	dirents, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return err
	}
	for _, d := range dirents {
		if d.Name() == last {
			continue
		}
		if err := dir.RemoveAll(d.Name()); err != nil {
			return err
		}
	}
	fault.Point(fault.RemoveDisks)
	if err := dir.Remove(last); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fault.Point(fault.RemoveRecord)
	return nil
}

// ours refuses what stands where a machine's folder should and is none: a link leads to files
// that are somebody else's. It is no error that there is nothing.
func (s *Store) ours(name string) error {
	dir := s.paths.Machine(name, "").Dir
	st, err := os.Lstat(dir)
	if err != nil || st.IsDir() {
		return nil //nolint:nilerr // whoever reads there says it better
	}
	what := "a file"
	if st.Mode()&fs.ModeSymlink != 0 {
		what = "a symbolic link"
	}
	return machine.Errorf("env.ownership", "look at what it is, and move it away; mvmctl changes nothing there", "%s is %s and no machine's folder", dir, what)
}
