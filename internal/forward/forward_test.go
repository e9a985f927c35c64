package forward

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// guestEcho answers what it reads, after the reader has said that it is done: it needs the
// half-close to come through.
func guestEcho(t *testing.T) Dial {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				data, _ := io.ReadAll(c)
				_, _ = c.Write(data)
				_ = c.Close()
			}()
		}
	}()
	return func(ctx context.Context, port int) (net.Conn, error) {
		if port != 80 {
			return nil, syscall.ECONNREFUSED
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", l.Addr().String())
	}
}

func connect(t *testing.T, r Rule) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", net.JoinHostPort(r.Host, strconv.Itoa(r.HostPort)), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn)
}

func TestBytesAndHalfCloseGoThrough(t *testing.T) {
	s := NewSet(guestEcho(t), nil)
	defer s.Close()
	bound, err := s.Add(t.Context(), []Rule{{Host: "127.0.0.1", GuestPort: 80}})
	if err != nil || bound[0].HostPort == 0 {
		t.Fatalf("Add: %v, %v", bound, err)
	}
	c := connect(t, bound[0])
	sent := bytes.Repeat([]byte("mvm"), 1<<20)
	go func() {
		_, _ = c.Write(sent)
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got %d of %d bytes back, %v", len(got), len(sent), err)
	}
}

func TestAGuestThatRefusesIsARefusedConnection(t *testing.T) {
	told := make(chan error, 1)
	s := NewSet(guestEcho(t), func(_ Rule, err error) { told <- err })
	defer s.Close()
	bound, err := s.Add(t.Context(), []Rule{{Host: "127.0.0.1", GuestPort: 81}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(bound[0].HostPort)), 10*time.Second)
	if err == nil { // or the reset came before connect(2) returned
		_, err = io.ReadAll(c)
		_ = c.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
	if err := <-told; !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("reported: %v", err)
	}
}

func TestAllPortsOrNone(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	s := NewSet(guestEcho(t), nil)
	defer s.Close()
	_, err = s.Add(t.Context(), []Rule{{Host: "127.0.0.1", GuestPort: 80}, {Host: "127.0.0.1", HostPort: taken.Addr().(*net.TCPAddr).Port, GuestPort: 80}})
	var b *BindError
	if !errors.As(err, &b) || !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("Add: %v, want address in use", err)
	}
	if got := s.List(); len(got) != 0 {
		t.Errorf("published all the same: %v", got)
	}
}

func TestAddingAgainChangesNothing(t *testing.T) {
	s := NewSet(guestEcho(t), nil)
	defer s.Close()
	first, err := s.Add(t.Context(), []Rule{{Host: "127.0.0.1", GuestPort: 80}})
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Add(t.Context(), first)
	if err != nil || again[0] != first[0] || len(s.List()) != 1 {
		t.Errorf("%v, %v, list %v", again, err, s.List())
	}
}

func TestRemoveEndsItsConnectionsAndFreesThePort(t *testing.T) {
	s := NewSet(guestEcho(t), nil)
	defer s.Close()
	bound, err := s.Add(t.Context(), []Rule{{Host: "127.0.0.1", GuestPort: 80}})
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, bound[0])
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(bound[0]); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the connection goes on: %v", err)
	}
	if err := s.Remove(bound[0]); !errors.Is(err, ErrUnknown) {
		t.Errorf("removing again: %v", err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(bound[0].HostPort)))
	if err != nil {
		t.Fatalf("the port is still taken: %v", err)
	}
	_ = l.Close()
}

func TestCloseLeavesNoGoroutine(t *testing.T) {
	dial := guestEcho(t)
	before := runtime.NumGoroutine()
	s := NewSet(dial, nil)
	bound, err := s.Add(t.Context(), []Rule{{Host: "127.0.0.1", GuestPort: 80}})
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		_, _ = connect(t, bound[0]).Write([]byte("x"))
	}
	s.Close()
	if _, err := s.Add(t.Context(), bound); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Add after Close: %v", err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	if now := runtime.NumGoroutine(); now > before {
		t.Errorf("%d goroutines, %d before", now, before)
	}
}
