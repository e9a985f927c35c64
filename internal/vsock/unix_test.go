package vsock_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/mvmctl/mvmctl/internal/vsock"
)

const longEnough = 20 * time.Second

// socket returns a listener on a new unix socket and its path.
func socket(t *testing.T) (net.Listener, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "vs") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ln.Close()
		os.RemoveAll(dir)
	})
	return ln, path
}

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), longEnough)
	t.Cleanup(cancel)
	return ctx
}

// answering accepts one client, reads its request and answers with f.
func answering(t *testing.T, f func(c net.Conn, request string)) string {
	t.Helper()
	ln, path := socket(t)
	var done sync.WaitGroup
	done.Go(func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 64)
		n, _ := c.Read(buf)
		f(c, string(buf[:n]))
	})
	t.Cleanup(func() {
		ln.Close()
		done.Wait()
	})
	return path
}

func TestDialUnixLeavesWhatFollowsTheAnswer(t *testing.T) {
	path := answering(t, func(c net.Conn, request string) {
		io.WriteString(c, "OK 1073741824\n"+request+"first bytes")
	})
	c, err := vsock.DialUnix(timeout(t), path, 52)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := io.ReadAll(c); err != nil || string(got) != "CONNECT 52\nfirst bytes" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestDialUnixAnswers(t *testing.T) {
	for _, tt := range []struct {
		name, answer string
		want         error
	}{
		{"closed: nobody listens in the guest", "", vsock.ErrNotListening},
		{"no OK", "NO 1\n", vsock.ErrHandshake},
		{"an empty line", "\n", vsock.ErrHandshake},
		{"OK without a number", "OK\n", vsock.ErrHandshake},
		{"OK with noise", "OK 1 2\n", vsock.ErrHandshake},
		{"a negative port", "OK -1\n", vsock.ErrHandshake},
		{"a port over 2^32-1", "OK 4294967296\n", vsock.ErrHandshake},
		{"NUL", "OK 1\x00\n", vsock.ErrHandshake},
		{"CR", "OK 1\r\n", vsock.ErrHandshake},
		{"a line of 1 MiB", "OK " + strings.Repeat("1", 1<<20), vsock.ErrHandshake},
		{"cut", "OK 1", io.EOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := answering(t, func(c net.Conn, _ string) { io.WriteString(c, tt.answer) })
			c, err := vsock.DialUnix(timeout(t), path, 52)
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if err == nil {
				c.Close()
			}
		})
	}
	t.Run("silence", func(t *testing.T) {
		path := answering(t, func(c net.Conn, _ string) { io.Copy(io.Discard, c) })
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		if _, err := vsock.DialUnix(ctx, path, 52); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
	t.Run("no socket", func(t *testing.T) {
		if _, err := vsock.DialUnix(timeout(t), filepath.Join(t.TempDir(), "none"), 52); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v", err)
		}
	})
}

// guestEcho stands for a guest: it sends back what it gets in upper case, once the request
// has ended.
func guestEcho(t *testing.T) vsock.DialFunc {
	ln, path := socket(t)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				data, _ := io.ReadAll(c)
				c.Write(bytes.ToUpper(data))
			}()
		}
	}()
	return func(ctx context.Context, port uint32) (net.Conn, error) {
		if port != 52 {
			return nil, vsock.ErrNotListening
		}
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
}

func serve(t *testing.T, dial vsock.DialFunc) string {
	t.Helper()
	ln, path := socket(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- vsock.ServeUnix(ctx, ln, dial) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("ServeUnix: %v", err)
			}
		case <-time.After(longEnough):
			t.Error("ServeUnix does not return")
		}
	})
	return path
}

func TestServeUnixConnects(t *testing.T) {
	path := serve(t, guestEcho(t))
	for range 3 {
		c, err := vsock.DialUnix(timeout(t), path, 52)
		if err != nil {
			t.Fatal(err)
		}
		// The half-close reaches the guest, and its answer the host.
		big := strings.Repeat("abc", 500_000)
		go func() {
			io.WriteString(c, big)
			c.(*net.UnixConn).CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil || string(got) != strings.ToUpper(big) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		c.Close()
	}
	if _, err := vsock.DialUnix(timeout(t), path, 53); !errors.Is(err, vsock.ErrNotListening) {
		t.Errorf("another port: %v", err)
	}
}

func TestServeUnixRefusesNonsense(t *testing.T) {
	path := serve(t, guestEcho(t))
	for _, text := range []string{
		"CONNECT\n", "CONNECT x\n", "connect 52\n", "CONNECT 52 \n", "CONNECT 4294967296\n", "CONNECT -1\n", "\n",
		strings.Repeat("C", 1<<16), "GET / HTTP/1.1\n", "CONNECT 52\r\n", "CONNECT 52\x00\n",
	} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(longEnough))
		io.WriteString(c, text)
		if got, err := io.ReadAll(c); len(got) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%.20q: answer %q, %v", text, got, err)
		}
		c.Close()
	}
}

// Clients that connect and say nothing are bounded, and the end of the server ends them.
func TestServeUnixIsBounded(t *testing.T) {
	path := serve(t, guestEcho(t))
	var open []net.Conn
	refused := 0
	for range 70 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	for _, c := range slices.Backward(open) {
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			refused++
		}
		if refused == 6 {
			break
		}
	}
	if refused != 6 {
		t.Errorf("%d of 70 were refused, want 6", refused)
	}
}

// Whatever a peer answers, dialling ends in a connection or an error.
func FuzzDialUnix(f *testing.F) {
	f.Add([]byte("OK 1\n"))
	f.Add([]byte("OK 1\nrest"))
	f.Add([]byte("OK 99999999999999999999\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		host, guest := net.Pipe()
		go func() {
			defer guest.Close()
			io.CopyN(io.Discard, guest, int64(len("CONNECT 52\n")))
			io.Copy(guest, iotest.OneByteReader(bytes.NewReader(answer)))
		}()
		err := vsock.Handshake(host, 52)
		rest, _ := io.ReadAll(host)
		host.Close()
		if err != nil {
			return
		}
		line, want, ok := bytes.Cut(answer, []byte("\n"))
		if !ok || !bytes.HasPrefix(line, []byte("OK ")) || !bytes.Equal(rest, want) {
			t.Fatalf("%q is taken for an answer, with %q left", answer, rest)
		}
	})
}
