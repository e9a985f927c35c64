package lima

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"

	"github.com/mvmctl/mvmctl/internal/linuxenv"
)

// memory remembers what the virtual machine can do, so that a Probe need not start it. Losing it
// costs time only, so nothing here is an error.
type memory struct{ dir string }

const maxMemory = 64 << 10 // bytes of the file that are believed

// remembered is the file's content, and what it is true for.
type remembered struct {
	Tool     linuxenv.Tool `json:"tool"`
	Instance string        `json:"instance"`
	Made     string        `json:"made"`    // identity of the virtual machine
	Program  string        `json:"program"` // identity of the program in it
	Probed   probed        `json:"probed"`
}

func (m memory) path() string { return filepath.Join(m.dir, "lima.json") }

func (m memory) load() (remembered, bool) {
	var r remembered
	if m.dir == "" {
		return r, false
	}
	f, err := os.Open(m.path())
	if err != nil {
		return r, false
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxMemory))
	return r, err == nil && json.Unmarshal(data, &r) == nil
}

func (m memory) save(r remembered) {
	if m.dir == "" {
		return
	}
	data, err := json.Marshal(r)
	if err != nil || os.MkdirAll(m.dir, 0o700) != nil {
		return
	}
	tmp, err := os.CreateTemp(m.dir, ".lima-*")
	if err != nil {
		return
	}
	_, werr := tmp.Write(data)
	// Other users' children of a test read it too; it holds no secret.
	if cerr := tmp.Chmod(0o644); werr != nil || cerr != nil || tmp.Close() != nil || os.Rename(tmp.Name(), m.path()) != nil { //nolint:gosec // as said
		_ = os.Remove(tmp.Name())
	}
}
