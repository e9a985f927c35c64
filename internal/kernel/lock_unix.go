//go:build unix

package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/flock"
)

// lock takes an exclusive lock on a file of the store and returns what releases it.
func (s *Store) lock(ctx context.Context, name string) (unlock func(), err error) {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, fmt.Errorf("making kernel cache: %w", err)
	}
	unlock, err = flock.Lock(ctx, filepath.Join(s.dir, name))
	if err != nil {
		return nil, fmt.Errorf("locking kernel cache: %w", err)
	}
	return unlock, nil
}

func isReadOnly(err error) bool { return errors.Is(err, unix.EROFS) }

func isNotFolder(err error) bool {
	return errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENAMETOOLONG)
}
