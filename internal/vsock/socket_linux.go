package vsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/mdlayher/vsock"
)

// Listen listens on an AF_VSOCK port in the guest and yields only connections that the host
// made. AF_VSOCK is open to every process of the guest; closing their connections here keeps
// them from using up the places for handshakes.
func Listen(port uint32) (net.Listener, error) {
	l, err := vsock.Listen(port, nil)
	if err != nil {
		return nil, fmt.Errorf("listening on vsock port %d: %w", port, err)
	}
	return hostOnly{l}, nil
}

type hostOnly struct{ *vsock.Listener }

func (l hostOnly) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if a, ok := c.RemoteAddr().(*vsock.Addr); ok && a.ContextID == HostCID {
			return c, nil
		}
		c.Close()
	}
}

// Dial connects to a port of the guest with context id cid through AF_VSOCK.
func Dial(ctx context.Context, cid, port uint32) (net.Conn, error) {
	c, err := vsock.DialContext(ctx, cid, port, nil)
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENODEV):
		// vhost-vsock answers RST for a port without listener and ENODEV for a CID whose guest
		// has not started its driver.
		return nil, fmt.Errorf("dialling vsock %d:%d: %w: %w", cid, port, ErrNotListening, err)
	default:
		return nil, fmt.Errorf("dialling vsock %d:%d: %w", cid, port, err)
	}
}
