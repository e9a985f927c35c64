package guestinit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// uevents listens to the kernel's device events (kobject_uevent, netlink(7)
// NETLINK_KOBJECT_UEVENT). What they say is not read: each is a reason to look at sysfs again.
type uevents struct{ fd int }

func listenUevents() (*uevents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("listening to device events: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("listening to device events: %w", err)
	}
	return &uevents{fd}, nil
}

func (u *uevents) close() { _ = unix.Close(u.fd) }

// wait returns true as soon as ready does, false once hopeless does or the time is up. Both
// are asked now and after every burst of events. The socket was bound before, so nothing that
// happens between a look and the wait is missed.
func (u *uevents) wait(ctx context.Context, timeout time.Duration, ready, hopeless func() bool) (bool, error) {
	deadline := time.Now().Add(timeout)
	for {
		u.drain()
		if ready() {
			return true, nil
		}
		if hopeless() {
			return false, nil
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
		left := time.Until(deadline)
		if left <= 0 {
			return false, nil
		}
		fds := []unix.PollFd{{Fd: int32(u.fd), Events: unix.POLLIN}}
		// Bounded, so that the end of ctx is seen; sysfs is read anew then, which costs little.
		_, err := unix.Poll(fds, int(min(left, time.Second)/time.Millisecond)+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, fmt.Errorf("waiting for devices: %w", err)
		}
	}
}

// drain empties the socket. An overflow (ENOBUFS) is only another reason to look.
func (u *uevents) drain() {
	buf := make([]byte, 8192)
	for {
		if _, _, err := unix.Recvfrom(u.fd, buf, 0); err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
