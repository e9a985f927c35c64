//go:build unix

package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lock takes an exclusive lock on a file of the store and returns what releases it. The kernel
// drops the lock of a process that dies. When ctx ends first, the waiting call is left to finish
// in the background, where it gives the lock back at once.
func (s *Store) lock(ctx context.Context, name string) (unlock func(), err error) {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, fmt.Errorf("making kernel cache: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking kernel cache: %w", err)
	}
	got := make(chan error, 1)
	go func() {
		for {
			err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			got <- err
			return
		}
	}()
	select {
	case err := <-got:
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("locking kernel cache: %w", err)
		}
		return func() { f.Close() }, nil
	case <-ctx.Done():
		go func() {
			err := <-got
			_ = errors.Join(err, f.Close()) // gives up the lock that came too late
		}()
		return nil, ctx.Err()
	}
}

func isReadOnly(err error) bool { return errors.Is(err, unix.EROFS) }
