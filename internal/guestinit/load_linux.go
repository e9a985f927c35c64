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

// loadModules loads what the channel and the root need, in order, and returns the others.
// A module that cannot be loaded is reported; whoever needs it will say so in turn.
func loadModules(log io.Writer) []module {
	entries, err := os.ReadDir(initramfsModules)
	if err != nil {
		return nil // a kernel without modules
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	var rest []module
	sys := os.DirFS("/sys")
	for _, f := range moduleFiles(names) {
		m := module{name: moduleName(f)}
		if m.file, err = os.Open(filepath.Join(initramfsModules, f)); err != nil {
			logf(log, "module %s: %v", m.name, err)
			continue
		}
		if !needOf(m.name).wanted(sys, false) {
			rest = append(rest, m)
			continue
		}
		if err := m.load(); err != nil {
			logf(log, "%v", err)
		}
	}
	return rest
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
			if err := m.load(); err != nil {
				s.logf("%v", err)
			}
			continue
		}
		_ = m.file.Close()
	}
	s.rest = nil
}
