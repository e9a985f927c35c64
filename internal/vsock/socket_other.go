//go:build !linux

package vsock

import (
	"context"
	"fmt"
	"net"
)

// Listen needs Linux: AF_VSOCK for user programs is a Linux socket family.
func Listen(port uint32) (net.Listener, error) {
	return nil, fmt.Errorf("listening on vsock port %d: %w", port, ErrUnsupported)
}

// ListenPort needs Linux: virtio-serial ports are device files of Linux guests.
func ListenPort(path string) (net.Listener, error) {
	return nil, fmt.Errorf("opening port %s: %w", path, ErrUnsupported)
}

// Dial needs Linux: AF_VSOCK for user programs is a Linux socket family.
func Dial(_ context.Context, cid, port uint32) (net.Conn, error) {
	return nil, fmt.Errorf("dialling vsock %d:%d: %w", cid, port, ErrUnsupported)
}
