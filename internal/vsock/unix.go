package vsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	maxLine       = 32               // bytes of a handshake line, newline included
	connectLimit  = 5 * time.Second  // for a client's CONNECT line, once it is connected
	maxUnixConns  = 64               // connections that ServeUnix serves at once
	answerTimeout = 10 * time.Second // for writing the answer line
)

// DialUnix connects to a guest port through a unix socket that speaks the Firecracker form.
// ctx bounds all of it, the guest's answer included.
//
// See https://github.com/firecracker-microvm/firecracker/blob/main/docs/vsock.md
func DialUnix(ctx context.Context, path string, port uint32) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("dialling guest port %d: %w", port, err)
	}
	// A deadline in the past wakes a blocked read when ctx ends.
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	err = connect(c, port)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("dialling guest port %d through %s: %w", port, path, err)
	}
	return c, nil
}

func connect(c net.Conn, port uint32) error {
	if _, err := fmt.Fprintf(c, "CONNECT %d\n", port); err != nil {
		return err
	}
	line, err := readLine(c)
	if errors.Is(err, io.EOF) && line == "" {
		return ErrNotListening // Firecracker closes the connection when the guest refuses
	}
	if err != nil {
		return err
	}
	num, ok := strings.CutPrefix(line, "OK ")
	if !ok {
		return fmt.Errorf("%w: answer %q", ErrHandshake, line)
	}
	if _, err := strconv.ParseUint(num, 10, 32); err != nil {
		return fmt.Errorf("%w: answer %q", ErrHandshake, line)
	}
	return nil
}

// readLine reads up to a newline, byte by byte so that nothing behind it is taken.
func readLine(r io.Reader) (string, error) {
	var line [maxLine]byte
	for n := range line {
		if _, err := io.ReadFull(r, line[n:n+1]); err != nil {
			return string(line[:n]), err
		}
		if line[n] == '\n' {
			return string(line[:n]), nil
		}
	}
	return "", fmt.Errorf("%w: a line of more than %d bytes", ErrHandshake, maxLine)
}

// DialFunc connects to a guest port.
type DialFunc func(ctx context.Context, port uint32) (net.Conn, error)

// ServeUnix serves the Firecracker form on ln until ctx ends: each client names a port, dial
// connects to it, and bytes flow until both directions have ended. A client that does not
// name one in time, or names nonsense, is closed; so is one whose port dial cannot reach. It
// closes ln and every connection before it returns, nil when ctx ended.
func ServeUnix(ctx context.Context, ln net.Listener, dial DialFunc) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	defer ln.Close()
	slots := make(chan struct{}, maxUnixConns)
	for {
		c, err := ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accepting on %s: %w", ln.Addr(), err)
		}
		select {
		case slots <- struct{}{}:
		default:
			c.Close() // over the limit: refuse the newest
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			serveOne(ctx, c, dial)
		})
	}
}

func serveOne(ctx context.Context, c net.Conn, dial DialFunc) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	c.SetDeadline(time.Now().Add(connectLimit))
	port, err := readConnect(c)
	if err != nil {
		return
	}
	c.SetDeadline(time.Time{})
	g, err := dial(ctx, port)
	if err != nil {
		return
	}
	defer g.Close()
	stopGuest := context.AfterFunc(ctx, func() { g.Close() })
	defer stopGuest()
	c.SetWriteDeadline(time.Now().Add(answerTimeout))
	if _, err := fmt.Fprintf(c, "OK %d\n", port); err != nil {
		return
	}
	c.SetWriteDeadline(time.Time{})
	Splice(c, g)
}

func readConnect(r io.Reader) (uint32, error) {
	line, err := readLine(r)
	if err != nil {
		return 0, err
	}
	num, ok := strings.CutPrefix(line, "CONNECT ")
	if !ok {
		return 0, fmt.Errorf("%w: request %q", ErrHandshake, line)
	}
	port, err := strconv.ParseUint(num, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%w: request %q", ErrHandshake, line)
	}
	return uint32(port), nil
}

// Splice copies bytes both ways between a and b until both directions have ended, passing
// each end on as a half-close. A side that cannot half-close is closed instead, which ends
// the other direction too. It closes both before it returns.
func Splice(a, b net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() { copyHalf(a, b) })
	copyHalf(b, a)
	wg.Wait()
	a.Close()
	b.Close()
}

// copyHalf copies from src to dst and then half-closes dst. After an error both are closed:
// what one side can no longer say, the other shall not take for an orderly end.
func copyHalf(dst, src net.Conn) {
	_, err := io.Copy(dst, src)
	if err != nil {
		dst.Close()
		src.Close()
		return
	}
	if h, ok := dst.(interface{ CloseWrite() error }); ok && h.CloseWrite() == nil {
		return
	}
	dst.Close()
}
