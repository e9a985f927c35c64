package qemu

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// firstFD is the number of the first inherited descriptor, after the standard three.
const firstFD = 3

// files are the descriptors that a QEMU inherits, in order: exactly these and the standard
// three. Once QEMU runs the driver closes them.
type files struct{ list []*os.File }

// add appends a file and returns its number in the child.
func (f *files) add(file *os.File) int {
	f.list = append(f.list, file)
	return firstFD + len(f.list) - 1
}

func (f *files) close() {
	for _, file := range f.list {
		_ = file.Close()
	}
}

// openDisk opens a disk image with the rights that the disk has and nothing more, and refuses
// everything but a plain file that has one name: whoever can swap the path between a check
// and the start must gain nothing by it.
func openDisk(d machine.Disk) (*os.File, error) {
	flags := os.O_RDWR
	if d.ReadOnly {
		flags = os.O_RDONLY
	}
	f, err := openPlain(d.Path, flags)
	if err != nil {
		return nil, fmt.Errorf("opening disk %s: %w", d.Role, err)
	}
	if !d.ReadOnly {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("examining disk %s: %w", d.Role, err)
		}
		if st.Nlink != 1 {
			_ = f.Close()
			return nil, changed(d.Path, fmt.Sprintf("it has %d names", st.Nlink))
		}
	}
	return f, nil
}

// openPlain opens a regular file without following a link in its last component and without
// hanging on a FIFO.
func openPlain(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, syscall.ELOOP):
		return nil, changed(path, "it is a symbolic link")
	case err != nil:
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = changed(path, "it is not a regular file")
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func changed(path, why string) error {
	return machine.Errorf("disk.changed", "put the file itself there", "%s is not the file that was prepared: %s", path, why)
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
