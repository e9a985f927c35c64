// Package forward carries connections that arrive on a port of the host to a port of the
// guest. It knows nothing of machines or of how a guest is reached: it is given a function
// that dials. The supervisor holds one Set per machine.
package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

// MaxConns bounds the connections that one Set carries at once; more wait in the kernel's
// listen queue.
const MaxConns = 512

// acceptPause is how long a listener rests after an accept that failed.
const acceptPause = 100 * time.Millisecond

// Rule is one published port.
type Rule struct {
	Host      string // address to bind
	HostPort  int    // 0 picks a free one
	GuestPort int
}

// Dial connects to a port of the guest. The connection may have CloseWrite, which carries a
// half-close.
type Dial func(ctx context.Context, guestPort int) (net.Conn, error)

// BindError says which rule could not be published.
type BindError struct {
	Rule Rule
	Err  error
}

// Error implements error.
func (e *BindError) Error() string {
	return fmt.Sprintf("binding %s: %v", net.JoinHostPort(e.Rule.Host, strconv.Itoa(e.Rule.HostPort)), e.Err)
}

// Unwrap returns the system's error.
func (e *BindError) Unwrap() error { return e.Err }

// ErrUnknown is returned by Remove for a rule that is not published.
var ErrUnknown = errors.New("no such published port")

// Set is the published ports of one guest. It is safe for concurrent use.
type Set struct {
	dial   Dial
	report func(Rule, error)
	ctx    context.Context
	cancel context.CancelFunc
	slots  chan struct{}
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	active map[Rule]*listener
}

type listener struct {
	net.Listener
	cancel context.CancelFunc // ends the connections that came through it
}

// NewSet returns an empty set. report is told of connections that could not be carried; it may
// be nil.
func NewSet(dial Dial, report func(Rule, error)) *Set {
	ctx, cancel := context.WithCancel(context.Background())
	if report == nil {
		report = func(Rule, error) {}
	}
	return &Set{dial: dial, report: report, ctx: ctx, cancel: cancel, slots: make(chan struct{}, MaxConns), active: map[Rule]*listener{}}
}

// Add publishes all rules or none, and returns them with every port 0 resolved. A rule that is
// published already is left as it is.
func (s *Set) Add(ctx context.Context, rules []Rule) ([]Rule, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, net.ErrClosed
	}
	bound := make([]Rule, 0, len(rules))
	fresh := map[Rule]net.Listener{}
	for _, r := range rules {
		if _, ok := s.active[r]; ok {
			bound = append(bound, r)
			continue
		}
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(r.Host, strconv.Itoa(r.HostPort)))
		if err != nil {
			for _, l := range fresh {
				_ = l.Close()
			}
			return nil, &BindError{Rule: r, Err: err}
		}
		if tcp, ok := l.Addr().(*net.TCPAddr); ok {
			r.HostPort = tcp.Port
		}
		fresh[r] = l
		bound = append(bound, r)
	}
	for r, l := range fresh {
		lctx, cancel := context.WithCancel(s.ctx)
		s.active[r] = &listener{Listener: l, cancel: cancel}
		s.wg.Add(1)
		go s.accept(lctx, r, l)
	}
	return bound, nil
}

// Remove takes a published port back and ends the connections that came through it.
func (s *Set) Remove(r Rule) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.active[r]
	if !ok {
		return ErrUnknown
	}
	delete(s.active, r)
	l.cancel()
	return l.Close()
}

// List returns the published rules, in no order.
func (s *Set) List() []Rule {
	s.mu.Lock()
	defer s.mu.Unlock()
	rules := make([]Rule, 0, len(s.active))
	for r := range s.active {
		rules = append(rules, r)
	}
	return rules
}

// Close takes every port back, ends every connection and waits until all of it is gone.
func (s *Set) Close() {
	s.mu.Lock()
	s.closed = true
	s.cancel()
	for r, l := range s.active {
		_ = l.Close()
		delete(s.active, r)
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *Set) accept(ctx context.Context, r Rule, l net.Listener) {
	defer s.wg.Done()
	for {
		conn, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors and its kin: the connection stays queued; say so and try again
			// when something may have been freed.
			s.report(r, err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
				return
			}
			continue
		}
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			_ = conn.Close()
			return
		}
		s.wg.Go(func() {
			defer func() { <-s.slots }()
			if err := s.carry(ctx, r, conn); err != nil && ctx.Err() == nil {
				s.report(r, err)
			}
		})
	}
}

func (s *Set) carry(ctx context.Context, r Rule, host net.Conn) error {
	defer func() { _ = host.Close() }()
	guest, err := s.dial(ctx, r.GuestPort)
	if err != nil {
		reset(host) // the client sees a refused connection, not an empty answer
		return fmt.Errorf("connecting to guest port %d: %w", r.GuestPort, err)
	}
	defer func() { _ = guest.Close() }()
	stop := context.AfterFunc(ctx, func() {
		_ = host.Close()
		_ = guest.Close()
	})
	defer stop()
	return Splice(host, guest)
}

// reset makes the close of c a TCP reset.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

type halfCloser interface{ CloseWrite() error }

// Splice copies both ways until both directions have ended, passing a half-close on. When one
// direction fails, the other is ended too.
func Splice(a, b net.Conn) error {
	errs := make(chan error, 2)
	copyTo := func(dst, src net.Conn) {
		buf := make([]byte, 64<<10)
		_, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, buf)
		if err == nil {
			if h, ok := dst.(halfCloser); ok {
				err = h.CloseWrite()
			} else {
				err = dst.Close()
			}
		}
		if err != nil {
			_ = a.Close()
			_ = b.Close()
		}
		errs <- err
	}
	go copyTo(a, b)
	go copyTo(b, a)
	first := <-errs
	second := <-errs
	if first != nil {
		return first
	}
	return second
}
