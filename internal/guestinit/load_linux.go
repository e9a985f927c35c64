package guestinit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// module is a file that has not been loaded. It stays open, because the folder that it lies
// in is out of sight once the root has changed.
type module struct {
	name string
	file *os.File
}

// loadModules loads what the drives need, in order, and beside that, on a thread of its own,
// what only the channel and the overlay need; loaded is closed when that is done. It returns
// the modules that can wait. One that cannot be loaded is reported; whoever needs it will
// say so in turn.
func loadModules(log io.Writer) (rest []module, loaded <-chan struct{}) {
	var aside, drives []module
	sys := os.DirFS("/sys")
	beside := make(chan struct{})
	first := openModules(log)
	// The bus drivers come first: only then is it known which devices there are.
	for len(first) > 0 && isBus(first[0].name) {
		first[0].loadOrLog(log)
		first = first[1:]
	}
	for _, m := range first {
		switch n := needOf(m.name); {
		case !n.wanted(sys, false):
			rest = append(rest, m)
		case n.aside:
			aside = append(aside, m)
		default:
			drives = append(drives, m)
		}
	}
	go func() {
		defer close(beside)
		for _, m := range aside {
			m.loadOrLog(log)
		}
	}()
	for _, m := range drives {
		m.loadOrLog(log)
	}
	return rest, beside
}

// openModules opens all modules of the initramfs, in load order. A kernel may need none.
func openModules(log io.Writer) []module {
	entries, err := os.ReadDir(initramfsModules)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	var modules []module
	for _, f := range moduleFiles(names) {
		m := module{name: moduleName(f)}
		if m.file, err = os.Open(filepath.Join(initramfsModules, f)); err != nil {
			logf(log, "module %s: %v", m.name, err)
			continue
		}
		modules = append(modules, m)
	}
	return modules
}

func (m module) loadOrLog(log io.Writer) {
	if err := m.load(); err != nil {
		logf(log, "%v", err)
	}
}

// load loads the module and lets go of its file. One that is there already is fine.
func (m module) load() error {
	defer m.file.Close()
	if err := unix.FinitModule(int(m.file.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("loading module %s: %w", m.name, err)
	}
	return nil
}

// LoadRest loads the modules that nobody waited for, for the devices that are there.
func (s *System) LoadRest() {
	sys := os.DirFS("/sys")
	for _, m := range s.rest {
		n := needOf(m.name)
		if n.wanted(sys, true) || n.wanted(sys, false) { // a device may have come late
			m.loadOrLog(s.log)
			continue
		}
		_ = m.file.Close()
	}
	s.rest = nil
}
