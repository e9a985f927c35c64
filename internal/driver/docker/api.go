package docker

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// The versions of the engine's interface that this client speaks: 1.41 came with Docker 20.10, and
// nothing that is used here has changed up to 1.48.
const (
	minVersion = 41
	maxVersion = 48
)

// Bounds of what an engine may send and how long it may take.
const (
	maxAnswer     = 8 << 20
	maxSaid       = 64 << 10         // of an error's answer
	pingTimeout   = 10 * time.Second // whether it is there at all
	callTimeout   = 30 * time.Second // a question
	stallTimeout  = 5 * time.Minute  // between two bytes of a stream: some storage drivers copy all of an image at its end
	workTimeout   = 5 * time.Minute  // making a container: some storage drivers copy all of the image
	unmakeTimeout = 30 * time.Second // removing what a failed start made
	dialTimeout   = 10 * time.Second // the socket is of this host
	longMessage   = 400              // of the engine's words in an error
)

// statusError is an answer of the engine that is no success.
type statusError struct {
	status  int
	message string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the engine answers %d: %s", e.status, e.message)
}

func isStatus(err error, status int) bool {
	e, ok := errors.AsType[*statusError](err)
	return ok && e.status == status
}

// client speaks with one engine.
type client struct {
	socket string
	prefix string // "/v1.41"
	info   engineInfo
	stall  time.Duration // how long nothing may come or go in an exchange; 0: for ever
}

// engineInfo is what GET /info says of interest.
type engineInfo struct {
	ServerVersion   string
	OSType          string
	Architecture    string
	Driver          string // of the storage
	NCPU            int
	MemoryLimit     bool
	CPUCfsQuota     bool `json:"CpuCfsQuota"`
	PidsLimit       bool
	OperatingSystem string
	SecurityOptions []string
}

func (c *client) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
}

// connect agrees on a version and learns what the engine is.
func connect(ctx context.Context, socket string) (*client, error) {
	c := &client{socket: socket, stall: stallTimeout}
	pinging, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	resp, err := c.do(pinging, http.MethodGet, "/_ping", nil, nil, "")
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	_ = resp.Body.Close()
	said := resp.Header.Get("Api-Version")
	minor, ok := minorOf(said)
	if !ok {
		return nil, driver.Unavailable("backend.broken", "see what it says: `docker version`", "what answers at %s is no Docker engine", socket)
	}
	if minor < minVersion {
		return nil, driver.Unavailable("backend.version", "install Docker 20.10 or later", "the Docker engine is too old: it speaks version %s of its interface, and 1.%d is needed", quote(said), minVersion)
	}
	c.prefix = "/v1." + strconv.Itoa(min(minor, maxVersion))
	if err := c.get(ctx, "/info", nil, &c.info); err != nil {
		return nil, driver.Unavailable("backend.broken", "look at its log: `journalctl -u docker`", "the Docker engine does not say what it is: %w", err)
	}
	return c, c.suits()
}

func minorOf(version string) (int, bool) {
	major, minor, ok := strings.Cut(version, ".")
	n, err := strconv.Atoi(minor)
	return n, ok && major == "1" && err == nil
}

// suits refuses an engine that does not run what our images hold.
func (c *client) suits() error {
	if c.info.OSType != "linux" {
		return driver.Unavailable("backend.platform", "switch it to Linux containers", "the Docker engine runs containers for %s", quote(c.info.OSType))
	}
	names := map[string]string{"x86_64": "amd64", "aarch64": "arm64"}
	if arch := names[c.info.Architecture]; arch != runtime.GOARCH && c.info.Architecture != runtime.GOARCH {
		return driver.Unavailable("backend.platform", "use an engine of this host", "the Docker engine runs on %s, this host is %s", quote(c.info.Architecture), runtime.GOARCH)
	}
	return nil
}

// unreachable says why there was no answer at all.
func (c *client) unreachable(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, fs.ErrPermission):
		return driver.Unavailable("backend.denied", remedyGroup, "you may not use the Docker engine at %s: %w", c.socket, fs.ErrPermission)
	case errors.Is(err, context.DeadlineExceeded):
		return driver.Unavailable("backend.broken", "restart it: `sudo systemctl restart docker`", "the Docker engine at %s does not answer: %w", c.socket, err)
	}
	return driver.Unavailable("backend.missing", remedyStart, "no Docker engine answers at %s: %w", c.socket, err)
}

// do makes a request. The answer's body is the caller's to close, and ends with ctx.
func (c *client) do(ctx context.Context, method, path string, query url.Values, body io.Reader, contentType string) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "docker", Path: c.prefix + path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.exchange(req)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	if resp.StatusCode >= http.StatusBadRequest {
		defer func() { _ = resp.Body.Close() }()
		return nil, refusal(resp)
	}
	return resp, nil
}

// exchange sends a request over a connection of its own, which is closed with the answer's body: at
// once, and not some time later as net/http's transport does it.
func (c *client) exchange(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	dialled, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = dialled.SetDeadline(time.Unix(1, 0)) })
	conn := &watched{Conn: dialled, ctx: ctx, stall: c.stall}
	release := func() error {
		stop()
		return conn.Close()
	}
	req.Close = true
	sent := req.Write(conn)
	if sent != nil && ctx.Err() == nil { // an engine that refuses need not read all; what it says is there already
		conn.stall = time.Second
	}
	resp, err := readResponse(conn, req)
	if err != nil {
		_ = release()
		return nil, cmp.Or(sent, err)
	}
	resp.Body = &body{Reader: resp.Body, release: release}
	return resp, nil
}

// watched is a connection on which something has to move.
type watched struct {
	net.Conn
	ctx   context.Context
	stall time.Duration // 0: it need not
}

// Read implements net.Conn.
func (w *watched) Read(p []byte) (int, error) {
	w.extend()
	return w.Conn.Read(p)
}

// Write implements net.Conn.
func (w *watched) Write(p []byte) (int, error) {
	w.extend()
	return w.Conn.Write(p)
}

func (w *watched) extend() {
	if w.stall == 0 {
		return
	}
	_ = w.SetDeadline(time.Now().Add(w.stall))
	if w.ctx.Err() != nil { // it has just ended, and its own deadline may be the one that was overwritten
		_ = w.SetDeadline(time.Unix(1, 0))
	}
}

// readResponse reads an answer up to its body. Only its header is bounded.
func readResponse(conn net.Conn, req *http.Request) (*http.Response, error) {
	limited := &io.LimitedReader{R: conn, N: maxSaid}
	resp, err := http.ReadResponse(bufio.NewReader(limited), req)
	limited.N = math.MaxInt64
	return resp, err
}

// body is an answer's body with the connection that it comes from.
type body struct {
	io.Reader
	release func() error
}

// Close implements io.Closer.
func (b *body) Close() error { return b.release() }

// refusal reads what the engine says about a request that it does not fulfil.
func refusal(resp *http.Response) error {
	var said struct{ Message string }
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxSaid))
	if err == nil && json.Unmarshal(data, &said) != nil {
		said.Message = string(data)
	}
	return &statusError{status: resp.StatusCode, message: quote(said.Message)}
}

// call asks with a JSON body, or none, and reads a JSON answer, or none.
func (c *client) call(ctx context.Context, limit time.Duration, method, path string, query url.Values, in, out any) error {
	var body io.Reader
	contentType := ""
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body, contentType = bytes.NewReader(data), "application/json"
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	resp, err := c.do(ctx, method, path, query, body, contentType)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if out == nil {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("reading the engine's answer: %w", err)
	}
	if len(data) > maxAnswer {
		return fmt.Errorf("the engine's answer is over %d bytes long", maxAnswer)
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("reading the engine's answer: %w", err)
	}
	return nil
}

func (c *client) get(ctx context.Context, path string, query url.Values, out any) error {
	return c.call(ctx, callTimeout, http.MethodGet, path, query, nil, out)
}

func (c *client) post(ctx context.Context, path string, query url.Values, in, out any) error {
	return c.call(ctx, callTimeout, http.MethodPost, path, query, in, out)
}

// engineError makes a failed request an error for people.
func engineError(ctx context.Context, doing string, err error) error {
	if machine.CodeOf(err) != "" {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", doing, context.Cause(ctx))
	}
	if _, ok := errors.AsType[*statusError](err); ok {
		return machine.Errorf("backend.engine", "look at the engine's log: `journalctl -u docker`", "%s: %w", doing, err)
	}
	return machine.Errorf("backend.engine_lost", remedyStart, "%s: the Docker engine does not answer: %w", doing, err)
}

// quote makes the engine's words safe to print, and short.
func quote(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > longMessage {
		s = strings.ToValidUTF8(s[:longMessage], "") + "…"
	}
	q := strconv.Quote(s)
	return strings.ReplaceAll(q, `\"`, `"`)
}
