package vsock

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ListenPort serves a virtio-serial port device, such as /dev/virtio-ports/mvm.agent, as a
// Listener. The device is one byte pipe, so connections come one after another: Accept waits
// until the earlier connection is closed and the host has sent something (the host speaks
// first on every channel of ours, so a host that is merely attached holds no deadline up).
//
// A connection ends with io.EOF when the host detaches. What the guest has not read by the
// time it closes a connection is thrown away by the kernel, and so cannot leak into the next
// one; after an EOF there is nothing to throw away, and the device stays open, so that the
// first bytes of a host that attaches again at once are not lost.
//
// See drivers/char/virtio_console.c: reads return 0 and poll says POLLHUP while the host is
// detached, writes return EAGAIN then. Waiting is edge-triggered, so a detached host costs
// nothing.
func ListenPort(path string) (net.Listener, error) {
	return listenPort(path, os.O_RDWR)
}

func listenPort(path string, mode int) (net.Listener, error) {
	l := &portListener{path: path, mode: mode, free: make(chan struct{}, 1), done: make(chan struct{})}
	f, err := l.open()
	if err != nil {
		return nil, err
	}
	l.file = f
	l.free <- struct{}{}
	return l, nil
}

type portListener struct {
	path string
	mode int           // of open(2): O_RDWR; tests have FIFOs, which are read-only
	free chan struct{} // holds a token while no connection is open and nobody is in Accept
	done chan struct{} // closed by Close

	mu     sync.Mutex
	file   *os.File // the open device; nil after a connection that ended without EOF
	inUse  bool     // a connection owns file
	closed bool
}

func (l *portListener) open() (*os.File, error) {
	f, err := os.OpenFile(l.path, l.mode|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("opening port: %w", err)
	}
	// Without the runtime's poller a blocked Read could not be woken.
	if err := f.SetDeadline(time.Time{}); err != nil {
		f.Close()
		return nil, fmt.Errorf("opening port %s: it cannot be polled: %w", l.path, err)
	}
	return f, nil
}

// Accept implements net.Listener.
func (l *portListener) Accept() (net.Conn, error) {
	select {
	case <-l.free:
	case <-l.done:
		return nil, net.ErrClosed
	}
	f, err := l.device()
	if err == nil {
		err = waitReadable(f)
	}
	if err == nil {
		err = l.take()
	}
	if err != nil {
		l.free <- struct{}{}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.closed {
			err = net.ErrClosed
		}
		return nil, err
	}
	return &portConn{l: l, f: f}, nil
}

// take marks the device as owned by a connection.
func (l *portListener) take() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	l.inUse = true
	return nil
}

// device returns the open device, opening it when the last connection threw it away.
func (l *portListener) device() (*os.File, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, net.ErrClosed
	}
	if l.file == nil {
		f, err := l.open()
		if err != nil {
			return nil, err
		}
		l.file = f
	}
	return l.file, nil
}

// waitReadable returns once f has bytes to read, without reading any.
func waitReadable(f *os.File) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var polled error
	err = rc.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			_, polled = unix.Poll(p, 0)
			if polled != unix.EINTR {
				break
			}
		}
		return polled != nil || p[0].Revents&unix.POLLIN != 0
	})
	if err == nil {
		err = polled
	}
	return err
}

// release ends a connection. keep says that the device saw the host's end and can go on.
func (l *portListener) release(f *os.File, keep bool) error {
	l.mu.Lock()
	l.inUse = false
	var err error
	if keep && !l.closed {
		err = f.SetDeadline(time.Time{})
	} else {
		// For a polled file Close returns after the descriptor is gone, which matters: the
		// kernel allows one opener at a time.
		err = f.Close()
		l.file = nil
	}
	l.mu.Unlock()
	l.free <- struct{}{}
	return err
}

// Close implements net.Listener. It wakes a waiting Accept; an open connection stays.
func (l *portListener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	l.closed = true
	close(l.done)
	if l.file == nil || l.inUse {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// Addr implements net.Listener.
func (l *portListener) Addr() net.Addr { return portAddr(l.path) }

type portAddr string

func (portAddr) Network() string  { return "virtio-port" }
func (a portAddr) String() string { return string(a) }

// portConn is one connection through a port.
type portConn struct {
	l *portListener
	f *os.File

	rmu, wmu sync.Mutex // held during Read and Write; Close takes both to be the last

	mu     sync.Mutex
	eof    bool // the host detached
	closed bool
}

// state returns whether the connection can still be read and written.
func (c *portConn) state() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return net.ErrClosed
	case c.eof:
		return io.EOF
	}
	return nil
}

// Read implements net.Conn.
func (c *portConn) Read(p []byte) (int, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if err := c.state(); err != nil {
		return 0, err
	}
	n, err := c.f.Read(p)
	if err == nil {
		return n, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return n, net.ErrClosed
	}
	if err == io.EOF {
		c.eof = true
		c.f.SetWriteDeadline(time.Unix(1, 0)) // a writer would wait for a host that is gone
	}
	return n, err
}

// Write implements net.Conn.
func (c *portConn) Write(p []byte) (int, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if err := c.state(); err != nil {
		if errors.Is(err, io.EOF) {
			err = unix.EPIPE
		}
		return 0, err
	}
	n, err := c.f.Write(p)
	if err != nil {
		switch serr := c.state(); {
		case serr == nil:
		case errors.Is(serr, io.EOF):
			err = unix.EPIPE
		default:
			err = serr
		}
	}
	return n, err
}

// Close implements net.Conn. It wakes a blocked Read and a blocked Write.
func (c *portConn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return net.ErrClosed
	}
	c.closed = true
	keep := c.eof
	c.f.SetDeadline(time.Unix(1, 0))
	c.mu.Unlock()
	c.rmu.Lock()
	defer c.rmu.Unlock()
	c.wmu.Lock()
	defer c.wmu.Unlock()
	return c.l.release(c.f, keep)
}

// LocalAddr implements net.Conn.
func (c *portConn) LocalAddr() net.Addr { return c.l.Addr() }

// RemoteAddr implements net.Conn.
func (c *portConn) RemoteAddr() net.Addr { return c.l.Addr() }

// SetDeadline implements net.Conn.
func (c *portConn) SetDeadline(t time.Time) error {
	return c.deadline(func() error { return c.f.SetDeadline(t) })
}

// SetReadDeadline implements net.Conn.
func (c *portConn) SetReadDeadline(t time.Time) error {
	return c.deadline(func() error { return c.f.SetReadDeadline(t) })
}

// SetWriteDeadline implements net.Conn.
func (c *portConn) SetWriteDeadline(t time.Time) error {
	return c.deadline(func() error { return c.f.SetWriteDeadline(t) })
}

// deadline runs set unless the connection has ended: its last deadline, the one that wakes
// everybody, must stay.
func (c *portConn) deadline(set func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	if c.eof {
		return nil
	}
	return set()
}
