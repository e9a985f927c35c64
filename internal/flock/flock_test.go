//go:build unix

package flock

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
)

func TestLock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := TryLock(path); again != nil || err != nil {
		t.Fatalf("a held lock was given again: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Lock(ctx, path); !errors.Is(err, context.Canceled) {
		t.Fatalf("waiting with an ended context: %v", err)
	}
	waiting := make(chan error, 1)
	go func() {
		second, err := Lock(context.Background(), path)
		if err == nil {
			second()
		}
		waiting <- err
	}()
	unlock()
	if err := <-waiting; err != nil {
		t.Fatal(err)
	}
}

func TestLockNowhere(t *testing.T) {
	t.Parallel()
	if _, err := Lock(t.Context(), filepath.Join(t.TempDir(), "no", "lock")); err == nil {
		t.Error("a lock in a folder that does not exist")
	}
}
