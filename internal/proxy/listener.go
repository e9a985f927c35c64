package proxy

import (
	"context"
	"io"
	"net"
	"sync"
)

// oneListener has one connection to accept.
type oneListener struct {
	conn chan net.Conn
	over chan struct{}
	once sync.Once
}

func newOneListener(c net.Conn) *oneListener {
	l := &oneListener{conn: make(chan net.Conn, 1), over: make(chan struct{})}
	l.conn <- c
	close(l.conn)
	return l
}

// Accept implements net.Listener.
func (l *oneListener) Accept() (net.Conn, error) {
	if c, ok := <-l.conn; ok {
		return c, nil
	}
	<-l.over
	return nil, io.EOF
}

// Close implements net.Listener.
func (l *oneListener) Close() error { l.release(); return nil }

// Addr implements net.Listener.
func (l *oneListener) Addr() net.Addr { return &net.TCPAddr{} }

// release says that the connection is not the server's any more.
func (l *oneListener) release() { l.once.Do(func() { close(l.over) }) }

// wait waits until then.
func (l *oneListener) wait(ctx context.Context) {
	select {
	case <-l.over:
	case <-ctx.Done():
	}
}
