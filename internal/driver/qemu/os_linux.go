package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/vmm"
	"github.com/mvmctl/mvmctl/internal/vsock"
)

// kernelByFD: QEMU opens the kernel through /proc/self/fd, so it boots the file that was
// checked.
const kernelByFD = true

func socketPair() ([2]int, error) {
	return unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
}

const (
	kvmDevice   = "/dev/kvm"
	vsockDevice = "/dev/vhost-vsock"
)

// accelDevice returns the host's accelerator and why it cannot even be opened, if so.
func accelDevice() (accel, problem string) {
	f, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	switch {
	case err == nil:
		_ = f.Close()
		return accelKVM, ""
	case errors.Is(err, fs.ErrNotExist):
		return accelKVM, "there is no /dev/kvm; switch on virtualisation in the firmware (or nested virtualisation in the cloud), then `sudo modprobe kvm_intel` or kvm_amd"
	case errors.Is(err, fs.ErrPermission):
		return accelKVM, "/dev/kvm may not be opened by you; run `sudo usermod -aG kvm $USER` and log in again"
	}
	return accelKVM, fmt.Sprintf("/dev/kvm cannot be opened (%v)", err)
}

func vsockAvailable() bool {
	f, err := os.OpenFile(vsockDevice, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	_ = f.Close()
	return true
}

// vhostVsockSetGuestCID is VHOST_VSOCK_SET_GUEST_CID, _IOW(0xAF, 0x60, __u64) in linux/vhost.h.
const vhostVsockSetGuestCID = 0x4008af60

// openVsock opens a vhost-vsock device and reserves a free context id on it. The kernel keeps
// ids unique, so trying is the only sure way; QEMU sets the same id again on the same device.
func openVsock() (*os.File, uint32, error) {
	f, err := os.OpenFile(vsockDevice, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("opening vsock device: %w", err)
	}
	// Below 2^31, because some guests read it as signed; from a place that depends on the
	// process, so that starts at the same time do not all try the same ones.
	const lowest, span = 1024, 1<<31 - 1024
	start := uint64(os.Getpid())*7919 + uint64(time.Now().UnixNano())
	for i := range uint64(1000) {
		cid := lowest + (start+i)%span
		err := setGuestCID(f, cid)
		if err == nil {
			return f, uint32(cid), nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			_ = f.Close()
			return nil, 0, fmt.Errorf("choosing a vsock address: %w", err)
		}
	}
	_ = f.Close()
	return nil, 0, errors.New("choosing a vsock address: 1000 tried, all in use")
}

// dialVsock connects to a guest port, waiting for the agent's to be listened on.
func dialVsock(ctx context.Context, cid, port uint32, ended <-chan struct{}) (net.Conn, error) {
	var retry vmm.Retry // the kernel has no event for a vsock port that begins to listen
	for {
		conn, err := vsock.Dial(ctx, cid, port)
		switch {
		case err == nil:
			return conn, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("waiting for the guest: %w", ctx.Err())
		case port != driver.AgentPort || !retryVsock(err):
			return nil, err
		}
		switch err := retry.Pause(ctx, ended); {
		case errors.Is(err, vmm.ErrEnded):
			return nil, err
		case err != nil:
			return nil, fmt.Errorf("waiting for the guest: %w", err)
		}
	}
}

// retryVsock: besides "nobody listens" a guest whose driver is not up makes the kernel's own
// connect timeout (2 s) run out.
func retryVsock(err error) bool {
	return errors.Is(err, vsock.ErrNotListening) || errors.Is(err, unix.ETIMEDOUT)
}
