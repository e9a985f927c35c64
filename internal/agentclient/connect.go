package agentclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

const (
	streamWindow = 512 << 10 // bytes that a guest may send ahead on one stream
	// connWindow holds the full windows of all streams, so that streams whose readers have
	// stopped cannot take the room of one whose reader has not.
	connWindow = 2 * agentproto.MaxStreams * streamWindow
	// readFrame takes a whole record of a program's output: each frame that a guest sends costs
	// it several switches between goroutines.
	readFrame = 128 << 10
	// alertWait is how long a failed connection is read for the alert that says why: the
	// guest checks the host's key after the host believes the handshake done.
	alertWait = time.Second
)

// Identity says who the host is and which guest it expects.
type Identity struct {
	HostSeed   []byte // private Ed25519 seed of the host for this machine and generation
	GuestKey   []byte // public Ed25519 key of the guest
	MachineID  string
	Generation uint64
	Build      string        // version of this program
	Handshake  time.Duration // for TLS and hello together; 0: agentproto.HandshakeTimeout
}

// Connect authenticates conn and returns a client over it. It owns conn from now on and
// closes it on failure, which is an *agentproto.Error with one of the codes agent.auth,
// agent.version, agent.wrong_machine, agent.timeout, agent.protocol and agent.lost; only the
// last two and a timeout are worth another try (a byte pipe may still hold bytes of an
// earlier session). When ctx was cancelled the error wraps context.Canceled.
func Connect(ctx context.Context, conn net.Conn, id Identity) (*Client, error) {
	cfg, err := agentproto.HostTLS(id.HostSeed, id.GuestKey)
	if err != nil {
		conn.Close()
		return nil, err
	}
	limit := id.Handshake
	if limit <= 0 {
		limit = agentproto.HandshakeTimeout
	}
	parent := ctx
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	limited, lift := agentproto.LimitHandshake(conn)
	tc := tls.Client(limited, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, handshakeError(parent, err, ctx.Err() != nil, limit)
	}
	lift()
	c, err := greet(ctx, tc, id)
	if err != nil {
		// The one who greets holds the connection open, so that an alert can still be read.
		late := ctx.Err() != nil
		err = whyLost(tc, err)
		conn.Close()
		return nil, handshakeError(parent, err, late, limit)
	}
	return c, nil
}

// greet starts HTTP/2 on tc and exchanges hellos.
func greet(ctx context.Context, tc *tls.Conn, id Identity) (*Client, error) {
	l := &link{Conn: tc, held: true, closed: make(chan struct{})}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true) // as net/http sees it: the encryption is l's business
	t := &http.Transport{
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		Protocols:              &protocols,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerConnection: connWindow,
			MaxReceiveBufferPerStream:     streamWindow,
			MaxReadFrameSize:              readFrame,
		},
		DialContext: func(context.Context, string, string) (net.Conn, error) { return l, nil },
	}
	cc, err := t.NewClientConn(ctx, "http", "agent:http")
	if err != nil {
		return nil, err
	}
	c := &Client{rt: cc, link: l, conn: cc}
	mine := agentproto.Hello{
		Protocol: agentproto.Version, MachineID: id.MachineID, Generation: id.Generation,
		Build: id.Build, Time: time.Now().UTC(),
	}
	if err := c.call(ctx, http.MethodPost, agentproto.PathHello, mine, &c.hello); err != nil {
		return nil, err
	}
	if err := checkHello(c.hello, id); err != nil {
		return nil, err
	}
	l.release()
	return c, nil
}

func checkHello(h agentproto.Hello, id Identity) error {
	switch {
	case h.Protocol != agentproto.Version:
		return agentproto.Errorf(agentproto.CodeVersion, "restart the machine: it then boots with this version's agent",
			"the guest speaks protocol %d, this mvmctl speaks %d", h.Protocol, agentproto.Version)
	case h.MachineID != id.MachineID:
		return agentproto.Errorf(agentproto.CodeWrongMachine, "restart the machine",
			"the guest is machine %q, not %q", clean(h.MachineID, 64), id.MachineID)
	case h.Generation != id.Generation:
		return agentproto.Errorf(agentproto.CodeWrongMachine, "restart the machine",
			"the guest is generation %d, not %d", h.Generation, id.Generation)
	}
	return nil
}

// whyLost reads what is left of a connection that ended during the hello, because the alert
// that says why may be behind other bytes, or the failed write came first.
func whyLost(tc *tls.Conn, err error) error {
	if c := agentproto.CodeOf(err); c != "" && c != agentproto.CodeLost {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	tc.SetReadDeadline(time.Now().Add(alertWait))
	buf := make([]byte, 4<<10)
	for range 64 {
		if _, rerr := tc.Read(buf); rerr != nil {
			if errors.Is(rerr, os.ErrDeadlineExceeded) {
				return err
			}
			return rerr
		}
	}
	return err
}

// handshakeError gives an error of the handshake its code. late says that the time was up.
func handshakeError(parent context.Context, err error, late bool, limit time.Duration) error {
	if parent.Err() != nil && errors.Is(parent.Err(), context.Canceled) {
		return fmt.Errorf("connecting to the guest agent: %w", parent.Err())
	}
	var ours *agentproto.Error
	if errors.As(err, &ours) && ours.Code != agentproto.CodeLost && ours.Code != agentproto.CodeTimeout {
		return ours
	}
	fail := func(code, remedy, format string, args ...any) error {
		e := agentproto.Errorf(code, remedy, format, args...)
		e.Err = err
		return e
	}
	var record tls.RecordHeaderError
	text := err.Error()
	switch {
	case late || errors.Is(err, os.ErrDeadlineExceeded):
		return fail(agentproto.CodeTimeout, "look at the guest's console: mvmctl logs --source console",
			"the guest agent did not answer within %v", limit)
	case strings.Contains(text, "remote error: tls: bad certificate"),
		strings.Contains(text, "remote error: tls: certificate required"),
		strings.Contains(text, "remote error: tls: unknown certificate"):
		return fail(agentproto.CodeAuth, "restart the machine", "the guest does not accept this host's key")
	case strings.Contains(text, "no application protocol"),
		strings.Contains(text, "protocol version not supported"):
		return fail(agentproto.CodeVersion, "restart the machine: it then boots with this version's agent",
			"the guest does not speak %s", agentproto.ALPN)
	case errors.As(err, &record):
		return fail(agentproto.CodeProtocol, "try again; if it stays, restart the machine",
			"what answers on the guest's agent port does not speak TLS")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, io.ErrClosedPipe), isReset(err), ours != nil:
		return fail(agentproto.CodeLost, "", "the guest closed the connection during the handshake")
	default:
		return fail(agentproto.CodeProtocol, "try again; if it stays, restart the machine",
			"the handshake with the guest agent went wrong: %s", clean(text, 200))
	}
}

// link is the connection below HTTP/2. It notices the end, and while it is held a Close is
// only noted: HTTP/2 closes on its first failed write, before the reason has been read.
type link struct {
	net.Conn

	mu     sync.Mutex
	held   bool
	wanted bool
	once   sync.Once
	closed chan struct{}
}

// Read implements net.Conn.
func (l *link) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if err != nil {
		l.once.Do(func() { close(l.closed) })
	}
	return n, err
}

// Close implements net.Conn.
func (l *link) Close() error {
	l.mu.Lock()
	held := l.held
	l.wanted = true
	l.mu.Unlock()
	if held {
		return nil
	}
	l.once.Do(func() { close(l.closed) })
	return l.Conn.Close()
}

func (l *link) release() {
	l.mu.Lock()
	l.held = false
	wanted := l.wanted
	l.mu.Unlock()
	if wanted {
		l.Close()
	}
}
