package krun

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// SuitsKernel implements driver.KernelChecker.
func (d *Driver) SuitsKernel(k machine.Kernel) error {
	f, err := openKernel(k, d.opts.arch)
	if err != nil {
		return err
	}
	return f.Close()
}

// What tells kernels: docs.kernel.org, arch/arm64/booting.html; the name of the parameter by which
// drivers/virtio/virtio_mmio.c, when it is built into the kernel, is told of devices.
const (
	imageMagicAt  = 56
	imageMagic    = "ARM\x64"
	elfMagic      = "\x7fELF"
	mmioParameter = "\x00virtio_mmio.device\x00"
)

// openKernel opens the form of the kernel that libkrun takes: an ELF file on amd64, an Image on arm64.
func openKernel(k machine.Kernel, arch string) (*os.File, error) {
	path := k.VMLinux
	if path == "" {
		path = k.BzImage
	}
	f, err := vmm.OpenBootFile(path)
	if err != nil {
		return nil, err
	}
	if err := checkKernel(f, arch); err != nil {
		_ = f.Close()
		if machine.CodeOf(err) != "" {
			return nil, err
		}
		return nil, vmm.KernelError(path, err)
	}
	return f, nil
}

func checkKernel(f *os.File, arch string) error {
	head := make([]byte, 64)
	if _, err := f.ReadAt(head, 0); err != nil {
		return err
	}
	if arch == "arm64" {
		if !bytes.Equal(head[imageMagicAt:imageMagicAt+len(imageMagic)], []byte(imageMagic)) {
			return errors.New("libkrun needs an uncompressed arm64 Image")
		}
		return nil // a device tree describes the devices
	}
	if !bytes.HasPrefix(head, []byte(elfMagic)) {
		return errors.New("libkrun needs an uncompressed kernel (vmlinux)")
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	found, err := contains(io.NewSectionReader(f, 0, info.Size()), []byte(mmioParameter))
	if err == nil && !found {
		err = machine.Errorf("boot.kernel_invalid", "run `mvmctl kernel build`: what it makes is used where no --kernel is given; or use another --hypervisor",
			"%s cannot be booted: libkrun tells the kernel of its devices on the command line, which this one does not read (CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES)", f.Name())
	}
	return err
}

// contains reports whether what is read has the bytes.
func contains(r io.Reader, what []byte) (bool, error) {
	buf, kept := make([]byte, 1<<20), 0
	for {
		n, err := io.ReadFull(r, buf[kept:])
		n += kept
		if bytes.Contains(buf[:n], what) {
			return true, nil
		}
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return false, nil
		case err != nil:
			return false, err
		}
		kept = copy(buf, buf[n-len(what)+1:n]) // it may have begun there
	}
}

// files are a machine's, open, in the order of the runner's descriptors from kernelFD on.
type files struct {
	open    []*os.File
	serials []string // of Boot.Disks
}

func openFiles(b machine.Boot, arch string) (f files, err error) {
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	kernel, err := openKernel(b.Kernel, arch)
	if err != nil {
		return f, err
	}
	f.open = append(f.open, kernel)
	initrd, err := vmm.OpenBootFile(b.Initrd)
	if err != nil {
		return f, err
	}
	f.open = append(f.open, initrd)
	for _, d := range b.Disks {
		disk, err := vmm.OpenDisk(d)
		if err != nil {
			return f, err
		}
		f.open = append(f.open, disk)
		serial, err := vmm.FileSerial(disk)
		if err != nil {
			return f, err
		}
		f.serials = append(f.serials, serial)
	}
	return f, vmm.CheckSerials("libkrun", b, f.serials)
}

func (f files) close() {
	for _, file := range f.open {
		_ = file.Close()
	}
}

// description puts what the runner is told into a pipe, and returns the end that it reads.
func description(data []byte) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	// It has room for a description, unless its user has very many pipes (pipe(7)).
	_ = w.SetWriteDeadline(time.Now().Add(time.Second))
	_, err = w.Write(data)
	if err = errors.Join(err, w.Close()); err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("writing the machine's description: %w", err)
	}
	return r, nil
}
