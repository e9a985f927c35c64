package supervisor

import (
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/paths"
)

// rotatingFile is a log file that stays bounded: when it is full it becomes PATH.1, whose
// content is dropped, and a new one begins. At most 2×limit bytes are on disk. Writing never
// fails for the caller: a log that cannot be written must not stop a machine.
type rotatingFile struct {
	mu    sync.Mutex
	path  string
	limit int64
	size  int64
	f     *os.File
	lost  int64 // bytes that could not be written since the last success

	follow []int // descriptors that are to name the current file too
}

// OpenLog opens the supervisor's own log for its process, whose descriptors fds name the file
// already (Spawn made them so) and go on to, so that the last words of a Go program that panics
// are in the log as well.
func OpenLog(path string, fds ...int) (io.WriteCloser, error) {
	r, err := openRotating(path, supervisorLimit)
	if err != nil {
		return nil, paths.WriteError("opening the supervisor's log", err)
	}
	r.follow = fds
	return r, nil
}

func openRotating(path string, limit int64) (*rotatingFile, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("opening log: %w", err)
	}
	return &rotatingFile{path: path, limit: limit, size: info.Size(), f: f}, nil
}

// Write implements io.Writer; it always takes all of p.
func (r *rotatingFile) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.f == nil {
		return len(p), nil
	}
	if r.size > 0 && r.size+int64(len(p)) > r.limit {
		r.rotate()
	}
	if r.lost > 0 {
		note := fmt.Appendf(nil, "\n[mvmctl: %d bytes of log were lost]\n", r.lost)
		if n, err := r.f.Write(note); err == nil {
			r.lost = 0
			r.size += int64(n)
		}
	}
	n, err := r.f.Write(p)
	r.size += int64(n)
	if err != nil {
		r.lost += int64(len(p) - n)
	}
	return len(p), nil
}

// rotate starts a new file. When it cannot, the old one is cut instead: bounded comes first.
func (r *rotatingFile) rotate() {
	if err := os.Rename(r.path, r.path+".1"); err == nil {
		if f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err == nil {
			_ = r.f.Close()
			r.f, r.size = f, 0
			for _, fd := range r.follow {
				_ = unix.Dup2(int(f.Fd()), fd) // when it fails, the old file gets what is written there
			}
			return
		}
		_ = os.Rename(r.path+".1", r.path)
	}
	if r.f.Truncate(0) == nil {
		r.size = 0
	}
}

// Close closes the file; later writes are dropped.
func (r *rotatingFile) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.f == nil {
		return nil
	}
	err := r.f.Close()
	r.f = nil
	return err
}

// tail is a writer that remembers the last bytes written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
	max int
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(p) >= t.max {
		t.buf = append(t.buf[:0], p[len(p)-t.max:]...)
		return len(p), nil
	}
	if over := len(t.buf) + len(p) - t.max; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	t.buf = append(t.buf, p...)
	return len(p), nil
}

func (t *tail) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]byte(nil), t.buf...)
}
