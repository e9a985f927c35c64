package agentclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"unicode"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// Client calls one agent. It is safe for concurrent use.
type Client struct {
	rt    http.RoundTripper
	hello agentproto.Hello
	link  *link            // nil over somebody else's RoundTripper
	conn  *http.ClientConn // likewise
}

// NewClient returns a client that sends its requests through rt, for example to a supervisor
// that passes them on to its warm connection. rt must be full-duplex: answers begin while
// requests are still being sent.
func NewClient(rt http.RoundTripper) *Client { return &Client{rt: rt} }

// RoundTripper is the way to the agent, for a proxy that passes on requests of other
// processes.
func (c *Client) RoundTripper() http.RoundTripper { return c.rt }

// Hello is what the guest said of itself when the connection was made; zero for NewClient.
func (c *Client) Hello() agentproto.Hello { return c.hello }

// Closed is closed when the connection has ended, by either side. It is nil, which blocks for
// ever, for NewClient.
func (c *Client) Closed() <-chan struct{} {
	if c.link == nil {
		return nil
	}
	return c.link.closed
}

// Close ends the connection and with it every call under way. It does nothing for NewClient.
func (c *Client) Close() error {
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}

// Status asks what the agent knows about the guest.
func (c *Client) Status(ctx context.Context) (agentproto.Status, error) {
	var s agentproto.Status
	err := c.call(ctx, http.MethodGet, agentproto.PathStatus, nil, &s)
	return s, err
}

// Shutdown asks the guest to stop its programs and power off. It returns when the guest has
// agreed, not when it is off.
func (c *Client) Shutdown(ctx context.Context, req agentproto.ShutdownRequest) error {
	data, err := json.Marshal(req)
	if err != nil {
		return err
	}
	resp, err := c.send(ctx, http.MethodPost, agentproto.PathShutdown, bytes.NewReader(data))
	if err != nil {
		return err
	}
	_ = resp.Body.Close() // its head is the answer; its end may be lost with the guest
	return nil
}

// Heard tells a guest that is ending that its last event and the last line of its log have come. It
// is what the guest waits for, for a moment: what a host has not read may be lost with the guest.
func (c *Client) Heard(ctx context.Context) error {
	resp, err := c.send(ctx, http.MethodPost, agentproto.PathHeard, nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// call sends in as JSON, unless it is nil, and decodes the answer into out, unless it is nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	resp, err := c.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, agentproto.MaxRequest+1))
	if err != nil {
		return c.lost(ctx, err)
	}
	if len(data) > agentproto.MaxRequest {
		return agentproto.Errorf(agentproto.CodeProtocol, "", "the guest's answer is over %d bytes", agentproto.MaxRequest)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return agentproto.Errorf(agentproto.CodeProtocol, "", "the guest's answer is malformed: %s", clean(err.Error(), 200))
	}
	return nil
}

// send makes a request and returns its answer when that is a success.
func (c *Client) send(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	resp, err := c.rt.RoundTrip(req)
	if err != nil {
		return nil, c.lost(ctx, err)
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, refusal(resp)
	}
	return resp, nil
}

// refusal decodes the error in an answer.
func refusal(resp *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var e agentproto.Error
	if err == nil {
		err = json.Unmarshal(data, &e)
	}
	if err != nil || e.Code == "" {
		return agentproto.Errorf(agentproto.CodeProtocol, "", "the guest answered with status %d", resp.StatusCode)
	}
	return cleaned(&e)
}

// lost is the error for a call whose connection or stream failed with err.
func (c *Client) lost(ctx context.Context, err error) error {
	var ours *agentproto.Error
	switch {
	case errors.As(err, &ours):
		return err
	case ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &agentproto.Error{Code: agentproto.CodeTimeout, Message: "the guest agent did not answer in time", Err: ctx.Err()}
	case ctx.Err() != nil:
		return fmt.Errorf("calling the guest agent: %w", context.Cause(ctx))
	default:
		return &agentproto.Error{
			Code: agentproto.CodeLost, Message: "the connection to the guest agent ended",
			Remedy: "see whether the machine still runs: mvmctl ls", Err: err,
		}
	}
}

// ended is the error for a stream that stopped with err before its end mark.
func (c *Client) ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return c.lost(ctx, err)
	}
	gone := false
	select {
	case <-c.Closed():
		gone = true
	default:
	}
	if !gone && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
		return &agentproto.Error{
			Code: agentproto.CodeTruncated, Message: "the guest's answer was cut before its end",
			Remedy: "its outcome is not known; look before trying again", Err: err,
		}
	}
	return c.lost(ctx, err)
}

// isReset reports whether err says that the other side dropped the connection.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed)
}

// cleaned makes a guest's error safe to print: one line, no control characters, not endless.
func cleaned(e *agentproto.Error) *agentproto.Error {
	if e == nil {
		return nil
	}
	return &agentproto.Error{Code: clean(e.Code, 64), Message: clean(e.Message, 2000), Remedy: clean(e.Remedy, 500)}
}

// clean escapes what a terminal could act on and cuts s after limit bytes.
func clean(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) && r != unicode.ReplacementChar {
			b.WriteRune(r)
		} else {
			q := fmt.Sprintf("%+q", r)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}
