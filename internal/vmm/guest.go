package vmm

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
)

// ErrDeaf says that the guest does not listen yet.
var ErrDeaf = errors.New("the guest does not listen yet")

// deafTime bounds one question to a guest, which may be lost while it boots.
const deafTime = 5 * time.Second

// AwaitGuest finds out whether the guest listens behind a connection to the agent's port, and closes
// the connection.
//
// It is for VMMs that take every connection to their socket at once and only then try the guest; when
// that does not listen they close the connection, and when it does, they say nothing: vfkit
// (pkg/vf/vsock.go, connectVsock, and tcpproxy's DialProxy) and libkrun
// (src/devices/src/virtio/vsock/unix.rs). The agent does not speak first either: its protocol is
// TLS, and we are the client. So it is asked what every TLS server answers, a hello, and its first
// byte is proof enough. The agent takes it for a caller who hung up.
func AwaitGuest(ctx context.Context, conn net.Conn) error {
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, deafTime)
	defer cancel()
	w := &firstByte{Conn: conn}
	c := tls.Client(w, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}) //nolint:gosec // nothing is sent or believed: any answer will do
	err := c.HandshakeContext(ctx)
	if w.seen {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrDeaf, err)
}

// GuestSocket is the socket of a VMM like those by which the guest's agent is reached.
type GuestSocket struct {
	Path string
	// Hopeless says why it is no use to wait for a socket that is not there yet, which missing is the
	// error of; nil while it is. No function: nobody knows.
	Hopeless func(missing error) error

	heard atomic.Bool // the guest listens
}

// Dial connects to the agent's port of a guest whose VMM is c. It waits until the guest listens, ctx
// ends or the VMM does (ErrEnded). Such a VMM connects only the ports that it was started with.
func (g *GuestSocket) Dial(ctx context.Context, port uint32, c *Child) (net.Conn, error) {
	if port != driver.AgentPort {
		return nil, driver.ErrNoSuchPort
	}
	var retry Retry
	for {
		conn, err := g.dialOnce(ctx)
		switch {
		case err == nil:
			return conn, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("waiting for the guest: %w", ctx.Err())
		case c.Ended():
			return nil, ErrEnded
		case !errors.Is(err, ErrDeaf) && !NoSocket(err):
			return nil, err
		}
		if g.Hopeless != nil && NoSocket(err) {
			if why := g.Hopeless(err); why != nil {
				return nil, why
			}
		}
		switch err := retry.Pause(ctx, c.Exited); {
		case errors.Is(err, ErrEnded):
			return nil, err
		case err != nil:
			return nil, fmt.Errorf("waiting for the guest: %w", err)
		}
	}
}

func (g *GuestSocket) dialOnce(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	if !g.heard.Load() {
		conn, err := d.DialContext(ctx, "unix", g.Path)
		if err != nil {
			return nil, err
		}
		if err := AwaitGuest(ctx, conn); err != nil {
			return nil, err
		}
		g.heard.Store(true)
	}
	return d.DialContext(ctx, "unix", g.Path)
}

// errSeen ends the handshake.
var errSeen = errors.New("the guest has answered")

// firstByte notes that something was read and reads no more.
type firstByte struct {
	net.Conn
	seen bool
}

// Read implements io.Reader.
func (f *firstByte) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p[:min(1, len(p))])
	if n > 0 {
		f.seen = true
		return 0, errSeen
	}
	return n, err
}
