package docker

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/iotest"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/machine"
)

func frame(kind byte, text string) []byte {
	n := len(text)
	return append([]byte{kind, 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, text...)
}

func TestFrames(t *testing.T) {
	in := bytes.Join([][]byte{frame(1, "one"), frame(2, "err"), frame(1, ""), frame(1, "two")}, nil)
	f := frames{r: iotest.OneByteReader(bytes.NewReader(in))}
	var out, errs bytes.Buffer
	for {
		var p [2]byte
		n, kind, err := f.next(p[:])
		if kind == frameStdout {
			out.Write(p[:n])
		} else {
			errs.Write(p[:n])
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if out.String() != "onetwo" || errs.String() != "err" {
		t.Errorf("%q, %q", out.String(), errs.String())
	}
	f = frames{r: bytes.NewReader(in[:5])}
	if _, _, err := f.next(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a header: %v", err)
	}
	f = frames{r: bytes.NewReader([]byte("HTTP/1.1 500 Internal"))}
	if _, _, err := f.next(make([]byte, 1)); err == nil {
		t.Error("what is no frame is taken for one")
	}
}

// FuzzFrames: whatever an engine sends, reading ends and gives no more than was sent.
func FuzzFrames(f *testing.F) {
	f.Add(frame(1, "hello"))
	f.Add([]byte{1, 0, 0, 0, 255, 255, 255, 255, 'x'})
	f.Add(bytes.Repeat(frame(2, ""), 9))
	f.Fuzz(func(t *testing.T, in []byte) {
		f := frames{r: bytes.NewReader(in)}
		total := 0
		p := make([]byte, 16)
		for {
			n, _, err := f.next(p)
			total += n
			if err != nil {
				break
			}
		}
		if total > len(in) {
			t.Errorf("%d bytes of %d", total, len(in))
		}
	})
}

// TestExecConnDeadline: a deadline that passes in the middle of a header loses nothing of it.
func TestExecConnDeadline(t *testing.T) {
	ours, theirs := net.Pipe()
	defer func() { _ = theirs.Close() }()
	s := &stream{Conn: ours, r: bufio.NewReader(ours)}
	closed := 0
	c := &execConn{stream: s, frames: frames{r: s.r}, failed: func([]byte) {}, closed: func() { closed++ }}
	all := frame(1, "hello")
	go func() { _, _ = theirs.Write(all[:3]) }()
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 16)
	if n, err := c.Read(p); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d, %v", n, err)
	}
	go func() { _, _ = theirs.Write(all[3:]) }()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(p); err != nil || string(p[:n]) != "hello" {
		t.Fatalf("%q, %v", p[:n], err)
	}
	if c.Close() != nil || !errors.Is(c.Close(), net.ErrClosed) || closed != 1 {
		t.Error("closing is not done once")
	}
}

// TestGreeting: words of the engine are not taken for the channel.
func TestGreeting(t *testing.T) {
	for text, ok := range map[string]bool{
		agentproto.BridgeGreeting + "\x16\x03":                                         true,
		"OCI runtime exec failed: exec failed: cannot exec in a stopped container\r\n": false,
		"short": false,
		"":      false,
	} {
		ours, theirs := net.Pipe()
		s := &stream{Conn: ours, r: bufio.NewReader(ours)}
		c := &execConn{stream: s, frames: frames{r: s.r}, failed: func([]byte) {}, closed: func() {}}
		go func() {
			_, _ = theirs.Write(frame(1, text))
			_ = theirs.Close()
		}()
		if err := c.greeted(t.Context()); (err == nil) != ok || err != nil && machine.CodeOf(err) != "backend.engine" {
			t.Errorf("%q: %v", text, err)
		}
		_ = c.Close()
	}
	ours, theirs := net.Pipe()
	defer func() { _ = theirs.Close() }()
	s := &stream{Conn: ours, r: bufio.NewReader(ours)}
	c := &execConn{stream: s, frames: frames{r: s.r}, failed: func([]byte) {}, closed: func() {}}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.greeted(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silence: %v", err)
	}
}

// TestHijackEndsWithItsContext: an engine that takes the connection and says nothing.
func TestHijackEndsWithItsContext(t *testing.T) {
	socket := shortSocket(t)
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := (&client{socket: socket}).hijack(ctx, "/x", nil, ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}
