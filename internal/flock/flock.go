//go:build unix

// Package flock takes advisory locks on files (flock(2)), which the kernel drops when their
// holder dies: the proof of life behind every cache that several commands share.
//
// It knows no file of ours and gives no lock a meaning: kernel and image call it with files in
// their own folders. Machines' locks, which say who holds them, are store's.
package flock

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Lock takes the exclusive lock of a file, which is made when it is missing, and returns what
// releases it. A file that its holder deleted meanwhile is the lock no more: the new one of that name
// is. When ctx ends first, the waiting call is left to finish in the background, where it gives the
// lock back at once.
func Lock(ctx context.Context, path string) (unlock func(), err error) {
	for range maxRounds {
		f, err := open(path)
		if err != nil {
			return nil, err
		}
		if err := Hold(ctx, f); err != nil {
			return nil, err
		}
		if isStill(f, path) {
			return func() { _ = f.Close() }, nil
		}
		_ = f.Close()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return nil, errUnstable(path)
}

// maxRounds bounds how often a lock's file may be found replaced: some file systems never say the
// same of an open file and of its name.
const maxRounds = 100

func errUnstable(path string) error {
	return fmt.Errorf("locking %s: the file of that name is another each time", path)
}

// isStill reports whether a name means the file that is open.
func isStill(f *os.File, path string) bool {
	have, err := f.Stat()
	if err != nil {
		return false
	}
	now, err := os.Stat(path)
	return err == nil && os.SameFile(have, now)
}

// Hold takes the exclusive lock of an open file, which lasts until the file is closed. An error
// has closed the file, or will when a waiting call that ctx has ended comes to its end.
func Hold(ctx context.Context, f *os.File) error {
	got := make(chan error, 1)
	go func() { got <- flock(f, unix.LOCK_EX) }()
	select {
	case err := <-got:
		if err != nil {
			_ = f.Close()
			return fmt.Errorf("locking %s: %w", f.Name(), err)
		}
		return nil
	case <-ctx.Done():
		go func() {
			err := <-got
			_ = errors.Join(err, f.Close()) // gives up the lock that came too late
		}()
		return ctx.Err()
	}
}

// TryLock is Lock without waiting: unlock is nil when somebody else holds the lock.
func TryLock(path string) (unlock func(), err error) {
	for range maxRounds {
		f, err := open(path)
		if err != nil {
			return nil, err
		}
		err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && isStill(f, path) {
			return func() { _ = f.Close() }, nil
		}
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
	}
	return nil, errUnstable(path)
}

func open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking: %w", err)
	}
	return f, nil
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
