package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/mvmctl/mvmctl/internal/vmm"
)

// port is the agent's virtio-serial port: one byte pipe without connections, on which
// connections are made by attaching and detaching the host's end.
//
// QEMU tells the guest when its chardev opens and closes. Each dial attaches a fresh socket
// (QMP getfd and chardev-change) after the earlier one was detached, so a guest reads the end
// of one connection before the first byte of the next.
type port struct {
	turn chan struct{} // held by the dial under way

	mu       sync.Mutex
	open     bool          // the guest has the device open
	opened   chan struct{} // closed while open
	over     chan struct{} // closed when the machine has ended
	current  *portConn
	detached time.Time // when the last connection ended
	dials    int
}

// settle is how long a port stays detached between two connections. The guest has no way to
// acknowledge the end of one: if the next came within its scheduling latency, the agent would
// see only bytes that make no sense, and have to close its side first. A pause that came
// about by itself counts.
const settle = 50 * time.Millisecond

func newPort() *port {
	return &port{turn: make(chan struct{}, 1), opened: make(chan struct{}), over: make(chan struct{})}
}

// changed is told what the guest does with its device. Whatever it is, a connection that was
// under way is over: a guest that closes and opens the device again may be reported with the
// second event only (QEMU limits them to one a second).
func (p *port) changed(open bool) {
	p.mu.Lock()
	was := p.open
	p.open = open
	switch {
	case open && !was:
		close(p.opened)
	case !open && was:
		p.opened = make(chan struct{})
	}
	current := p.current
	p.mu.Unlock()
	if current != nil {
		_ = current.Close()
	}
}

// end wakes everybody for good.
func (p *port) end() {
	p.mu.Lock()
	close(p.over)
	current := p.current
	p.mu.Unlock()
	if current != nil {
		_ = current.Close()
	}
}

// dial waits for the guest to open its end and attaches a new connection in place of the
// current one.
func (p *port) dial(ctx context.Context, q *qmp) (net.Conn, error) {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the guest: %w", ctx.Err())
	case <-p.over:
		return nil, vmm.ErrEnded
	}
	for {
		p.mu.Lock()
		opened := p.opened
		p.mu.Unlock()
		if err := p.wait(ctx, opened); err != nil {
			return nil, err
		}
		if err := p.detach(ctx, q); err != nil {
			return nil, p.dialError(err)
		}
		conn, err := p.attach(ctx, q)
		if err != nil {
			return nil, p.dialError(err)
		}
		if conn != nil {
			return conn, nil
		}
	}
}

func (p *port) wait(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the guest to open its port: %w", ctx.Err())
	case <-p.over:
		return vmm.ErrEnded
	}
}

func (p *port) dialError(err error) error {
	if errors.Is(err, errQMPClosed) {
		return vmm.ErrEnded
	}
	return fmt.Errorf("connecting to the guest's port: %w", err)
}

// detach ends the current connection and lets the guest notice.
func (p *port) detach(ctx context.Context, q *qmp) error {
	p.mu.Lock()
	current, first := p.current, p.dials == 0
	p.mu.Unlock()
	if first {
		return nil
	}
	if current != nil {
		_ = current.Close()
	}
	// Closing our end makes QEMU tell the guest, but only when it comes to read it; this is in
	// order with what follows.
	if err := p.change(ctx, q, map[string]any{"type": "null", "data": map[string]any{}}); err != nil {
		return err
	}
	p.mu.Lock()
	rest := settle - time.Since(p.detached)
	p.mu.Unlock()
	if rest <= 0 {
		return nil
	}
	timer := time.NewTimer(rest)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.over:
		return vmm.ErrEnded
	}
}

// attach connects a new socket. It returns nil when the guest closed its end meanwhile.
func (p *port) attach(ctx context.Context, q *qmp) (net.Conn, error) {
	ours, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = theirs.Close() }() // QEMU gets a duplicate
	conn := &portConn{UnixConn: ours, port: p}
	p.mu.Lock()
	if !p.open {
		p.mu.Unlock()
		_ = ours.Close()
		return nil, nil
	}
	p.dials++
	name := agentChardev + strconv.Itoa(p.dials)
	p.current = conn // before the guest can see it, so that its next move counts for this one
	p.mu.Unlock()
	err = q.giveFD(ctx, name, theirs)
	if err == nil {
		err = p.change(ctx, q, map[string]any{"type": "socket", "data": map[string]any{
			"addr":   map[string]any{"type": "fd", "data": map[string]string{"str": name}},
			"server": false,
		}})
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

func (p *port) change(ctx context.Context, q *qmp, backend map[string]any) error {
	_, err := q.execute(ctx, "chardev-change", map[string]any{"id": agentChardev, "backend": backend})
	return err
}

// portConn is one connection through the port.
type portConn struct {
	*net.UnixConn
	port *port
	once sync.Once
}

// Close implements net.Conn.
func (c *portConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = c.UnixConn.Close()
		c.port.mu.Lock()
		if c.port.current == c {
			c.port.current = nil
			c.port.detached = time.Now()
		}
		c.port.mu.Unlock()
	})
	return err
}
