package agentclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// Forward connects to a TCP port of the guest. host is "" or an address of the guest's
// loopback. ctx bounds the whole life of the connection, not only the dialling. The
// connection is closed by Close; a cut is an error from Read, never io.EOF.
func (c *Client) Forward(ctx context.Context, host string, port uint16) (*ForwardConn, error) {
	q := url.Values{"port": {strconv.Itoa(int(port))}}
	if host != "" {
		q.Set("host", host)
	}
	ctx, cancel := context.WithCancel(ctx)
	pr, pw := io.Pipe()
	// As in Client.run: HTTP/2 does not look at ctx while it waits for more of the body.
	context.AfterFunc(ctx, func() { pr.CloseWithError(io.ErrClosedPipe) })
	resp, err := c.send(ctx, http.MethodPost, agentproto.PathForward+"?"+q.Encode(), pr) //nolint:bodyclose // ForwardConn.Close closes it
	if err != nil {
		cancel() // closes the pipe too
		return nil, err
	}
	return &ForwardConn{
		client: c, ctx: ctx, cancel: cancel, resp: resp, pw: pw,
		rec:  agentproto.NewRecordReader(resp.Body),
		addr: forwardAddr(net.JoinHostPort(host, strconv.Itoa(int(port)))),
	}, nil
}

// ForwardConn is a TCP connection to a port of the guest. It is a net.Conn without deadlines.
type ForwardConn struct {
	client *Client
	ctx    context.Context
	cancel context.CancelFunc
	resp   *http.Response
	pw     *io.PipeWriter
	addr   forwardAddr

	mu   sync.Mutex // guards what follows: one Read at a time
	rec  *agentproto.RecordReader
	rest []byte
	err  error
}

var _ net.Conn = (*ForwardConn)(nil)

// Read implements net.Conn.
func (f *ForwardConn) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.rest) == 0 {
		if f.err != nil {
			return 0, f.err
		}
		t, body, err := f.rec.Next()
		switch {
		case err != nil && f.ctx.Err() != nil:
			f.err = net.ErrClosed
		case err != nil:
			f.err = streamError(f.ctx, f.client, f.resp, err)
		case t != agentproto.RecStdout:
			f.err = outOfOrder(t)
		case len(body) == 0:
			f.err = io.EOF
		default:
			f.rest = body
		}
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// Write implements net.Conn.
func (f *ForwardConn) Write(p []byte) (int, error) {
	n, err := f.pw.Write(p)
	if errors.Is(err, io.ErrClosedPipe) {
		err = net.ErrClosed
	}
	if err != nil {
		err = fmt.Errorf("writing to the guest's port: %w", err)
	}
	return n, err
}

// CloseWrite ends this direction; the guest's program sees an end of file.
func (f *ForwardConn) CloseWrite() error { return f.pw.Close() }

// Close implements net.Conn. It wakes a blocked Read and a blocked Write.
func (f *ForwardConn) Close() error {
	f.cancel() // closes the reading end
	f.pw.CloseWithError(io.ErrClosedPipe)
	return f.resp.Body.Close()
}

// LocalAddr implements net.Conn.
func (f *ForwardConn) LocalAddr() net.Addr { return forwardAddr("host") }

// RemoteAddr implements net.Conn.
func (f *ForwardConn) RemoteAddr() net.Addr { return f.addr }

// SetDeadline implements net.Conn; there are no deadlines, end the context instead.
func (f *ForwardConn) SetDeadline(time.Time) error { return os.ErrNoDeadline }

// SetReadDeadline implements net.Conn, as SetDeadline.
func (f *ForwardConn) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }

// SetWriteDeadline implements net.Conn, as SetDeadline.
func (f *ForwardConn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

type forwardAddr string

func (forwardAddr) Network() string  { return "mvm-forward" }
func (a forwardAddr) String() string { return string(a) }

// syncError is the first error that anybody set.
type syncError struct {
	mu  sync.Mutex
	err error
}

func (s *syncError) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

func (s *syncError) get() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
