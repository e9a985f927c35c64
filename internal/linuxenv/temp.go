package linuxenv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"sync"

	"github.com/mvmctl/mvmctl/internal/flock"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// TempPath is where a session makes temporary folders.
const TempPath = "/temp"

// temp has the temporary folders of one session, in the virtual machine. They are deleted at its end;
// those of one that was killed, when the next one needs some.
type temp struct {
	top string // of all sessions; "": there are none

	mu     sync.Mutex
	dir    string // of this session; "" as long as none was asked for
	unlock func() // of dir, whose lock says that the session lives
}

// made is the answer to a request for a folder.
type made struct {
	Dir string `json:"dir"`
}

// ServeHTTP makes a folder.
func (t *temp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	dir, err := t.make(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(made{dir})
}

func (t *temp) make(ctx context.Context) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.top == "" {
		return "", errors.New("no place for temporary folders")
	}
	if t.dir == "" {
		if err := t.begin(ctx); err != nil {
			return "", err
		}
	}
	return os.MkdirTemp(t.dir, "d-*")
}

// begin makes the session's own folder, and deletes those whose sessions are dead.
func (t *temp) begin(ctx context.Context) error {
	if err := os.MkdirAll(t.top, 0o700); err != nil {
		return err
	}
	// So that nobody takes one for dead that is only just being made.
	all, err := flock.Lock(ctx, filepath.Join(t.top, "lock"))
	if err != nil {
		return err
	}
	defer all()
	old, _ := filepath.Glob(filepath.Join(t.top, "s-*"))
	for _, dir := range old {
		if dead, err := flock.TryLock(filepath.Join(dir, "lock")); err == nil && dead != nil {
			_ = os.RemoveAll(dir)
			dead()
		}
	}
	dir, err := os.MkdirTemp(t.top, "s-*")
	if err != nil {
		return err
	}
	unlock, err := flock.TryLock(filepath.Join(dir, "lock"))
	if err != nil || unlock == nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	t.dir, t.unlock = dir, unlock
	return nil
}

// close deletes the session's folders.
func (t *temp) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.top = ""
	if t.dir != "" {
		_ = os.RemoveAll(t.dir)
		t.unlock()
	}
}

// TempDir makes an empty folder in the virtual machine, which is deleted when the session ends, also
// when this process is killed.
func (s *Session) TempDir(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, TempPath, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := s.Do(req)
	if err != nil {
		return "", s.lost(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return "", s.lost(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		var dir string
		if dir, err = parseTemp(body); err == nil {
			return dir, nil
		}
	} else {
		err = errors.New(clip(machine.Printable(string(body)), 400))
	}
	return "", machine.Errorf("lima.session", "look at the free space of the virtual machine: `limactl shell`", "making a folder in the virtual machine: %w", err)
}

// parseTemp decodes the answer to a request for a folder. Its name becomes part of arguments.
func parseTemp(body []byte) (string, error) {
	var m made
	if err := json.Unmarshal(body, &m); err != nil {
		return "", fmt.Errorf("no answer: %w", err)
	}
	if len(m.Dir) > 200 || !regexp.MustCompile(`^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$`).MatchString(m.Dir) {
		return "", errors.New("no name of a folder")
	}
	return m.Dir, nil
}

// TempDir makes an empty folder where programs run. done deletes it; that of a virtual machine goes
// with the session in any case.
func (e Env) TempDir(ctx context.Context) (dir string, done func(), err error) {
	if e.Session == nil {
		dir, err = os.MkdirTemp("", "mvm-*")
		return dir, func() { _ = os.RemoveAll(dir) }, err
	}
	dir, err = e.Session.TempDir(ctx)
	return dir, func() {
		_, _ = e.Run(context.WithoutCancel(ctx), Program{Args: []string{"rm", "-rf", "--", dir}})
	}, err
}
