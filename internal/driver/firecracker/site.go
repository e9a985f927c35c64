package firecracker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// site is where one machine's files are while it runs, and how its process is started.
type site struct {
	argv   []string
	dir    string   // of the sockets and the pipe
	uid    int      // whose process it will be
	layout layout   // the same as Firecracker sees it
	serial []string // of Boot.Disks
	jail   *jail    // nil: none
}

// newSite prepares the folder of a machine. On error nothing of it is left; else remove removes
// it. kernel is the path of what is to be booted.
func newSite(h host, b machine.Boot, kernel string) (*site, error) {
	s := &site{dir: b.RuntimeDir, uid: os.Geteuid()}
	if err := vmm.CheckSocketPath(s.where(vsockSocket)); err != nil {
		return nil, err
	}
	if err := clearLeftovers(s.dir); err != nil {
		return nil, err
	}
	if h.jailer != "" {
		if err := clearJail(b); err != nil {
			return nil, err
		}
	}
	disks, err := openDisks(b)
	defer closeAll(disks)
	if err != nil {
		return nil, err
	}
	initrd, err := vmm.OpenBootFile(b.Initrd)
	if err != nil {
		return nil, err
	}
	defer func() { _ = initrd.Close() }()
	if h.jailer != "" {
		err = s.enterJail(h, b, kernel, disks)
	} else {
		err = s.stayOutside(h, b, kernel, disks)
	}
	if err != nil {
		return nil, errors.Join(err, s.remove())
	}
	return s, nil
}

func openDisks(b machine.Boot) ([]*os.File, error) {
	var out []*os.File
	for _, d := range b.Disks {
		f, err := vmm.OpenDisk(d)
		if err != nil {
			return out, err
		}
		out = append(out, f)
	}
	return out, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// stayOutside gives Firecracker the paths as they are.
func (s *site) stayOutside(h host, b machine.Boot, kernel string, disks []*os.File) error {
	s.argv = []string{h.bin.Path, "--id", b.ID, "--api-sock", filepath.Join(s.dir, apiSocket)}
	s.layout = layout{
		kernel: kernel, initrd: b.Initrd,
		log: filepath.Join(s.dir, logPipe), vsock: filepath.Join(s.dir, vsockSocket),
	}
	for i, f := range disks {
		serial, err := vmm.FileSerial(f)
		if err != nil {
			return err
		}
		s.serial = append(s.serial, serial)
		s.layout.disks = append(s.layout.disks, b.Disks[i].Path)
	}
	return vmm.CheckSerials("Firecracker", b, s.serial)
}

// where returns the path by which this process reaches one of the sockets.
func (s *site) where(name string) string {
	return filepath.Join(s.dir, name)
}

// pipe is where the log's pipe is made, and for whom.
func (s *site) pipe() (path string, uid int) {
	if s.jail != nil {
		return filepath.Join(s.jail.root, logPipe), s.uid
	}
	return s.where(logPipe), -1
}

// opened is called when Firecracker has opened everything that it needs.
func (s *site) opened() error {
	if s.jail == nil {
		return nil
	}
	return s.jail.unlink()
}

// remove removes what belongs to the running machine only.
func (s *site) remove() error {
	var errs []error
	for _, name := range []string{apiSocket, vsockSocket, logPipe} {
		if err := os.Remove(s.where(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("clearing up: %w", err))
		}
	}
	if s.jail != nil {
		errs = append(errs, s.jail.remove())
	}
	return errors.Join(errs...)
}
