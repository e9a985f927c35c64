//go:build unix

package flock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
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

// TestLockOfADeletedFile: who waits for a file that its holder deletes gets the lock of the one that
// has its name then, as everybody else does.
func TestLockOfADeletedFile(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("missing: /proc, which says that the file is open")
	}
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	opened := func() (n int) {
		fds, _ := filepath.Glob("/proc/self/fd/*")
		for _, fd := range fds {
			if to, err := os.Readlink(fd); err == nil && to == path {
				n++
			}
		}
		return n
	}
	second := make(chan error, 1)
	go func() {
		unlock, err := Lock(t.Context(), path)
		if err == nil {
			t.Cleanup(unlock)
		}
		second <- err
	}()
	for opened() < 2 && t.Context().Err() == nil {
		runtime.Gosched()
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	first()
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	if third, err := TryLock(path); third != nil || err != nil {
		t.Errorf("two hold the lock: %v", err)
	}
}
