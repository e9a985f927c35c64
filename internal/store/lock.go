//go:build unix

package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// lockWait is how long Lock waits for another command before it says "busy".
const lockWait = 10 * time.Second

// lockPoll is the pause between two tries of a lock that somebody else holds. flock(2) has no
// timed wait.
const lockPoll = 5 * time.Millisecond

// Lock is the right to change one machine. It is a flock on an open file and so ends with its
// process, however that ends.
type Lock struct {
	f    *os.File
	path string
}

// Lock takes the machine's command lock, waiting up to ten seconds for another command to
// finish. what says what it is for, for the other command's message.
func (s *Store) Lock(ctx context.Context, name, what string) (*Lock, error) {
	if err := machine.CheckName(name); err != nil {
		return nil, err
	}
	if err := s.Prepare(); err != nil {
		return nil, err
	}
	return lockFor(ctx, s.paths.Lock(name), name, what, lockWait)
}

func lockFor(ctx context.Context, path, name, what string, wait time.Duration) (*Lock, error) {
	deadline := time.Now().Add(wait)
	for {
		l, err := tryLock(path)
		if err == nil {
			l.describe(what)
			return l, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, paths.WriteError("locking machine "+name, err)
		}
		if time.Now().After(deadline) {
			return nil, busy(path, name)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}

// TryLock takes the machine's lock if nobody holds it; nil otherwise.
func (s *Store) TryLock(name, what string) *Lock {
	if machine.CheckName(name) != nil {
		return nil
	}
	l, err := tryLock(s.paths.Lock(name))
	if err != nil {
		return nil
	}
	l.describe(what)
	return l
}

// tryLock opens and locks path. A lock file is deleted by its holder when the machine goes, so
// after locking it makes sure that the name still means the locked file.
func tryLock(path string) (*Lock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		if err := flock(f); err != nil {
			_ = f.Close()
			return nil, err
		}
		same, err := isStill(f, path)
		if err != nil {
			_ = f.Close()
			return nil, err
		}
		if same {
			return &Lock{f: f, path: path}, nil
		}
		_ = f.Close()
	}
}

func flock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func isStill(f *os.File, path string) (bool, error) {
	have, err := f.Stat()
	if err != nil {
		return false, err
	}
	now, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return os.SameFile(have, now), nil
}

// describe leaves a line in the lock file for whoever finds it taken. It is for the message
// only: nothing is decided by it.
func (l *Lock) describe(what string) {
	_ = l.f.Truncate(0)
	_, _ = l.f.WriteAt(fmt.Appendf(nil, "%d %s\n", os.Getpid(), what), 0)
}

func busy(path, name string) error {
	holder := "another mvmctl"
	if data, err := os.ReadFile(path); err == nil && len(data) < 200 {
		if pid, what, ok := strings.Cut(strings.TrimSpace(string(data)), " "); ok {
			holder = fmt.Sprintf("`mvmctl %s` (process %s)", what, pid)
		}
	}
	return machine.Errorf("machine.busy", "wait for it to finish, then try again", "machine %q is in use by %s", name, holder)
}

// Release gives the lock up.
func (l *Lock) Release() {
	if l != nil && l.f != nil {
		_ = l.f.Close()
		l.f = nil
	}
}

// Remove deletes the lock file, when the machine itself is gone, and gives the lock up.
func (l *Lock) Remove() {
	if l != nil && l.f != nil {
		_ = os.Remove(l.path)
		l.Release()
	}
}

// Alive reports whether a supervisor of the named machine is alive: whether somebody holds the
// lock that only a supervisor holds.
func (s *Store) Alive(name string) bool {
	path := s.paths.Machine(name, "").Alive()
	for {
		f, err := os.Open(path)
		if err != nil {
			return !errors.Is(err, fs.ErrNotExist) // not known: the dead are cleaned up after, so say alive
		}
		// A shared lock, so that two who only look do not see each other.
		free := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil
		same := true
		if free {
			same, err = isStill(f, path)
		}
		_ = f.Close()
		if err != nil || !free {
			return true
		}
		if same {
			return false
		} // otherwise a start has replaced it while we looked
	}
}

// TakeAlive takes the lock that proves a supervisor alive, to be inherited by the supervisor
// process: the lock belongs to the open file, so there is no moment between the two in which
// nobody holds it. machine.running when it is taken already.
//
// Each start has a lock file of its own: who waits for the end of an earlier supervisor waits
// on that one's file, and is not kept waiting by the next. The caller holds the machine's lock.
func (s *Store) TakeAlive(name string) (*os.File, error) {
	path := s.paths.Machine(name, "").Alive()
	old, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, paths.WriteError("locking machine "+name, err)
	}
	defer func() { _ = old.Close() }()
	// Somebody who only looks holds a shared lock for some microseconds.
	for range 200 {
		err = flock(old)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			break
		}
		<-time.After(lockPoll)
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, machine.Errorf("machine.running", "`mvmctl down "+name+"` stops it", "machine %q is running already", name)
	}
	if err != nil {
		return nil, fmt.Errorf("locking machine %s: %w", name, err)
	}
	f, err := replaceLocked(path)
	if err != nil {
		return nil, paths.WriteError("locking machine "+name, err)
	}
	return f, nil
}

// WaitDead returns once the supervisor of the named machine that is alive now is no more, or
// when ctx ends; at once when none is. It needs no poll: it waits for the lock itself.
func (s *Store) WaitDead(ctx context.Context, name string) error {
	f, err := os.Open(s.paths.Machine(name, "").Alive())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("waiting for machine %s: %w", name, err)
	}
	done := make(chan error, 1)
	go func() {
		// Blocks in its own thread; ends with the process if ctx ends first.
		defer func() { _ = f.Close() }()
		for {
			err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH)
			if !errors.Is(err, syscall.EINTR) {
				done <- err
				return
			}
		}
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
