package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/vsock"
)

// kernelByFD: QEMU opens the kernel through /proc/self/fd, so it boots the file that was
// checked.
const kernelByFD = true

func socketPair() ([2]int, error) {
	return unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
}

// childAttr makes QEMU a session of its own, out of reach of a terminal's signals, that the
// kernel kills when the thread that started it ends; see startChild.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}

// fence keeps QEMU from inheriting descriptors that this process was itself started with, such
// as a lock of the caller's shell: Go opens nothing that children inherit, but it cannot know
// of those. What a child is meant to have, os/exec passes on all the same.
func fence() {
	err := unix.CloseRange(firstFD, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if err == nil {
		return
	}
	// Linux before 5.11.
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= firstFD {
			unix.CloseOnExec(fd)
		}
	}
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

// Pauses between two attempts to reach a guest that does not listen yet. The kernel has no
// event for a vsock port that begins to listen.
const (
	vsockFirstPause = 5 * time.Millisecond
	vsockLastPause  = 50 * time.Millisecond
)

// dialVsock connects to a guest port, waiting for the agent's to be listened on.
func dialVsock(ctx context.Context, cid, port uint32, ended <-chan struct{}) (net.Conn, error) {
	pause := vsockFirstPause
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
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("waiting for the guest: %w", ctx.Err())
		case <-ended:
			timer.Stop()
			return nil, errEnded
		}
		pause = min(2*pause, vsockLastPause)
	}
}

// retryVsock: besides "nobody listens" a guest whose driver is not up makes the kernel's own
// connect timeout (2 s) run out.
func retryVsock(err error) bool {
	return errors.Is(err, vsock.ErrNotListening) || errors.Is(err, unix.ETIMEDOUT)
}
