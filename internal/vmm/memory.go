package vmm

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
)

// Memory remembers a driver's answers across processes, in one small file. Losing it costs time
// only, so nothing here is an error. T is the file's content; each part of it names what it is
// true for.
type Memory[T any] struct {
	Dir  string // "": nothing is remembered
	Name string // of the driver
}

const maxMemory = 64 << 10 // bytes of the file that are believed

func (m Memory[T]) path() string { return filepath.Join(m.Dir, m.Name+".json") }

// Load returns what is remembered, the zero T if nothing is.
func (m Memory[T]) Load() T {
	var none, r T
	if m.Dir == "" {
		return none
	}
	f, err := os.Open(m.path())
	if err != nil {
		return none
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxMemory))
	if err != nil || json.Unmarshal(data, &r) != nil {
		return none
	}
	return r
}

// Change rewrites the file. Processes that do so at once may lose each other's part.
func (m Memory[T]) Change(f func(*T)) {
	if m.Dir == "" {
		return
	}
	r := m.Load()
	f(&r)
	data, err := json.Marshal(r)
	if err != nil || os.MkdirAll(m.Dir, 0o700) != nil {
		return
	}
	tmp, err := os.CreateTemp(m.Dir, "."+m.Name+"-*")
	if err != nil {
		return
	}
	_, werr := tmp.Write(data)
	if cerr := tmp.Close(); werr != nil || cerr != nil || os.Rename(tmp.Name(), m.path()) != nil {
		_ = os.Remove(tmp.Name())
	}
}
