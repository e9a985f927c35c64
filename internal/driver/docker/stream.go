package docker

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// The streams of a frame (https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerAttach).
const (
	frameHeader = 8
	frameStdout = 1
	frameStderr = 2
	frameSystem = 3
)

// stream is a connection that an engine has given to the processes of a container: what is
// written is their input, what is read comes in frames.
type stream struct {
	net.Conn
	r *bufio.Reader
}

// hijack asks for a stream.
func (c *client) hijack(ctx context.Context, path string, query url.Values, body string) (*stream, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	s, err := upgrade(ctx, conn, c.prefix+path, query, body)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	return s, nil
}

func upgrade(ctx context.Context, conn net.Conn, path string, query url.Values, body string) (*stream, error) {
	if err := conn.SetDeadline(time.Now().Add(callTimeout)); err != nil {
		return nil, err
	}
	u := url.URL{Scheme: "http", Host: "docker", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "tcp")
	req.Header.Set("Content-Type", "application/json")
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	limited := &io.LimitedReader{R: conn, N: maxSaid}
	r := bufio.NewReader(limited)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols && resp.StatusCode != http.StatusOK {
		defer func() { _ = resp.Body.Close() }()
		return nil, refusal(resp)
	}
	limited.N = 1<<63 - 1 // only the header was bounded
	return &stream{Conn: conn, r: r}, conn.SetDeadline(time.Time{})
}

// frames takes the frames of a stream apart. It is for one reader.
type frames struct {
	r      io.Reader
	header [frameHeader]byte
	have   int // of the header
	kind   byte
	left   uint32 // of the frame's content
}

// next reads some bytes of a frame, and says which stream they are of. It can be called again
// after a deadline has passed.
func (f *frames) next(p []byte) (int, byte, error) {
	for f.left == 0 {
		n, err := f.r.Read(f.header[f.have:])
		f.have += n
		if f.have == frameHeader {
			f.have, f.kind = 0, f.header[0]
			f.left = binary.BigEndian.Uint32(f.header[4:])
			if f.kind > frameSystem {
				return 0, 0, fmt.Errorf("the engine sends a frame of stream %d", f.kind)
			}
			continue
		}
		if err != nil {
			if errors.Is(err, io.EOF) && f.have > 0 {
				err = io.ErrUnexpectedEOF
			}
			return 0, 0, err
		}
	}
	n, err := f.r.Read(p[:min(len(p), int(min(f.left, 1<<20)))])
	f.left -= uint32(n) //nolint:gosec // at most left
	return n, f.kind, err
}

// execConn is the channel: a net.Conn over the input and output of a process in the container.
type execConn struct {
	*stream
	mu     sync.Mutex // of reading
	frames frames
	failed func(words []byte) // hears what the process says on its error output
	once   sync.Once
	closed func()
}

// Read implements net.Conn.
func (c *execConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		n, kind, err := c.frames.next(p)
		if n > 0 && kind == frameStdout {
			return n, err
		}
		if n > 0 {
			c.failed(p[:n])
		}
		if err != nil {
			return 0, err
		}
	}
}

// greeted reads the greeting of the process in the container.
func (c *execConn) greeted(ctx context.Context) error {
	if err := c.SetReadDeadline(time.Now().Add(callTimeout)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	said := make([]byte, len(agentproto.BridgeGreeting))
	n, err := io.ReadFull(c, said)
	if !stop() {
		return context.Cause(ctx)
	}
	if string(said[:n]) != agentproto.BridgeGreeting {
		more := make([]byte, longMessage)
		if err == nil {
			m, _ := c.Read(more) // the rest of what the engine says about it
			said = append(said, more[:m]...)
		} else {
			said = said[:n]
		}
		return machine.Errorf("backend.engine", "look at the engine's log: `journalctl -u docker`", "the Docker engine cannot start a process in the container: %s", quote(string(said)))
	}
	return c.SetReadDeadline(time.Time{})
}

// Close implements net.Conn. The process in the container reads the end of its input and ends.
func (c *execConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = c.stream.Close()
		c.closed()
	})
	return err
}
