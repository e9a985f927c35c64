package vsock

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const patience = 20 * time.Second

// A FIFO that is opened for reading behaves like a virtio-serial port in what matters here: no
// writer is a detached host (reads return 0, poll says POLLHUP), and a new writer attaches
// again. Writing needs a real port, which the QEMU driver's tests have.
type fifo struct {
	t    *testing.T
	path string
	l    *portListener
}

func newFIFO(t *testing.T) *fifo {
	t.Helper()
	path := filepath.Join(t.TempDir(), "port")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := listenPort(path, os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &fifo{t, path, l.(*portListener)}
}

// attach is a host that connects.
func (f *fifo) attach() *os.File {
	f.t.Helper()
	w, err := os.OpenFile(f.path, os.O_WRONLY, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { w.Close() })
	return w
}

type accepted struct {
	conn net.Conn
	err  error
}

func (f *fifo) accept() <-chan accepted {
	ch := make(chan accepted, 1)
	go func() {
		c, err := f.l.Accept()
		ch <- accepted{c, err}
	}()
	return ch
}

func (f *fifo) conn(ch <-chan accepted) net.Conn {
	f.t.Helper()
	select {
	case a := <-ch:
		if a.err != nil {
			f.t.Fatal(a.err)
		}
		f.t.Cleanup(func() { a.conn.Close() })
		return a.conn
	case <-time.After(patience):
		f.t.Fatal("Accept does not return")
		return nil
	}
}

// notYet fails when Accept has returned; the pause gives a wrong one the time to do so.
func (f *fifo) notYet(ch <-chan accepted) {
	f.t.Helper()
	select {
	case a := <-ch:
		f.t.Fatalf("Accept returned early: %v", a.err)
	case <-time.After(50 * time.Millisecond):
	}
}

func read(t *testing.T, c net.Conn, want string) {
	t.Helper()
	buf := make([]byte, len(want))
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != want {
		t.Fatalf("read %q, %v; want %q", buf, err, want)
	}
}

func TestPortSessionsFollowOneAnother(t *testing.T) {
	f := newFIFO(t)
	ch := f.accept()
	f.notYet(ch)
	host := f.attach()
	f.notYet(ch) // attached and silent: nobody has begun anything
	io.WriteString(host, "first")
	c := f.conn(ch)
	read(t, c, "first")

	second := f.accept()
	f.notYet(second)
	host.Close()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read of a detached host: %d, %v", n, err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("write to a detached host: %v", err)
	}
	// A host that attaches before the old session is closed loses nothing.
	host = f.attach()
	io.WriteString(host, "second")
	f.notYet(second)
	c.Close()
	c = f.conn(second)
	read(t, c, "second")
}

// What a session left unread when the guest closed it does not reach the next one.
func TestPortForgetsTheRestOfAnAbandonedSession(t *testing.T) {
	f := newFIFO(t)
	host := f.attach()
	io.WriteString(host, "read this, not that")
	c := f.conn(f.accept())
	read(t, c, "read this")
	c.Close()
	f.l.mu.Lock()
	if f.l.file != nil {
		t.Error("the device was kept open: its bytes would be the next session's first")
	}
	f.l.mu.Unlock()
	host.Close()
	host = f.attach2(t)
	io.WriteString(host, "fresh")
	read(t, f.conn(f.accept()), "fresh")
}

// attach2 attaches to a FIFO that nobody may have open for reading yet.
func (f *fifo) attach2(t *testing.T) *os.File {
	t.Helper()
	w, err := os.OpenFile(f.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func TestPortCloseWakes(t *testing.T) {
	t.Run("Accept", func(t *testing.T) {
		f := newFIFO(t)
		ch := f.accept()
		f.notYet(ch)
		f.l.Close()
		if a := <-ch; !errors.Is(a.err, net.ErrClosed) {
			t.Errorf("%v", a.err)
		}
		if _, err := f.l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("later: %v", err)
		}
	})
	t.Run("Accept behind a session", func(t *testing.T) {
		f := newFIFO(t)
		io.WriteString(f.attach(), "x")
		c := f.conn(f.accept())
		ch := f.accept()
		f.notYet(ch)
		f.l.Close()
		if a := <-ch; !errors.Is(a.err, net.ErrClosed) {
			t.Errorf("%v", a.err)
		}
		read(t, c, "x") // the session goes on
		c.Close()
	})
	t.Run("Read", func(t *testing.T) {
		f := newFIFO(t)
		io.WriteString(f.attach(), "x")
		c := f.conn(f.accept())
		read(t, c, "x")
		c.SetReadDeadline(time.Time{})
		done := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			done <- err
		}()
		time.AfterFunc(20*time.Millisecond, func() { c.Close() })
		select {
		case err := <-done:
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("%v", err)
			}
		case <-time.After(patience):
			t.Error("a blocked Read stays blocked")
		}
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second Close: %v", err)
		}
	})
	t.Run("deadline", func(t *testing.T) {
		f := newFIFO(t)
		io.WriteString(f.attach(), "x")
		c := f.conn(f.accept())
		read(t, c, "x")
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}

// Waiting for a detached host must not cost anything: a port in POLLHUP is always "ready".
func TestPortWaitsWithoutSpinning(t *testing.T) {
	f := newFIFO(t)
	// One host was there and has gone, so the device hangs up.
	host := f.attach()
	io.WriteString(host, "x")
	c := f.conn(f.accept())
	host.Close()
	io.ReadAll(c)
	c.Close()
	ch := f.accept()
	before := cpu(t)
	f.notYet(ch)
	<-time.After(300 * time.Millisecond)
	if used := cpu(t) - before; used > 100*time.Millisecond {
		t.Errorf("waiting used %v of processor time", used)
	}
}

func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestListenPortErrors(t *testing.T) {
	if _, err := ListenPort(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no device: %v", err)
	}
	// A regular file cannot be waited for.
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenPort(path); err == nil {
		t.Error("a regular file is no port")
	}
}
