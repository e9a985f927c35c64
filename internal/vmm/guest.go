package vmm

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
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
