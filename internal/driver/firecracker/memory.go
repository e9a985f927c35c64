package firecracker

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
)

// memory remembers answers across processes, in one small file. Losing it costs time only,
// so nothing here is an error.
type memory struct{ dir string }

const maxMemory = 64 << 10 // bytes of the file that are believed

// remembered is the file's content. Each part names what it is true for.
type remembered struct {
	Binary *binary      `json:"binary,omitempty"`
	Probe  *probeResult `json:"probe,omitempty"`
}

// probeResult is the outcome of a boot probe.
type probeResult struct {
	BootID string      `json:"boot_id"`
	Binary binaryStamp `json:"binary"`
	User   int         `json:"user"`   // a jail or not, and another way to the device
	Reason string      `json:"reason"` // "": a guest booted
}

func (m memory) path() string { return filepath.Join(m.dir, "firecracker.json") }

func (m memory) load() remembered {
	var r remembered
	if m.dir == "" {
		return r
	}
	f, err := os.Open(m.path())
	if err != nil {
		return r
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxMemory))
	if err != nil || json.Unmarshal(data, &r) != nil {
		return remembered{}
	}
	return r
}

// change rewrites the file. Processes that do so at once may lose each other's part.
func (m memory) change(f func(*remembered)) {
	if m.dir == "" {
		return
	}
	r := m.load()
	f(&r)
	data, err := json.Marshal(r)
	if err != nil || os.MkdirAll(m.dir, 0o700) != nil {
		return
	}
	tmp, err := os.CreateTemp(m.dir, ".firecracker-*")
	if err != nil {
		return
	}
	_, werr := tmp.Write(data)
	if cerr := tmp.Close(); werr != nil || cerr != nil || os.Rename(tmp.Name(), m.path()) != nil {
		_ = os.Remove(tmp.Name())
	}
}
