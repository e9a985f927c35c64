package qemu

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/mvmctl/mvmctl/internal/vmm"
)

// files are the descriptors that a QEMU inherits, in order: exactly these and the standard
// three. Once QEMU runs the driver closes them.
type files struct{ list []*os.File }

// add appends a file and returns its number in the child.
func (f *files) add(file *os.File) int {
	f.list = append(f.list, file)
	return vmm.FirstFD + len(f.list) - 1
}

func (f *files) close() {
	for _, file := range f.list {
		_ = file.Close()
	}
}

// pair makes a connected pair of stream sockets: ours, and one for QEMU.
func pair() (*net.UnixConn, *os.File, error) {
	p, err := socketPair()
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(p[0]), "vmm"), os.NewFile(uintptr(p[1]), "vmm")
	defer func() { _ = ours.Close() }() // FileConn duplicates it
	conn, err := net.FileConn(ours)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		_ = theirs.Close()
		return nil, nil, errors.New("making a socket pair: not a unix socket")
	}
	return unixConn, theirs, nil
}
