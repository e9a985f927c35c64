package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// Client talks to one supervisor.
type Client struct {
	rt *http.Transport
}

// Dial returns a client of the supervisor that listens on the socket. It connects at once, so
// that an absent supervisor is known here.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	first, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, machine.Errorf("supervisor.lost", "`mvmctl ls` shows what is left of it", "the machine's supervisor does not answer: %w", err)
	}
	if uid, err := peerUID(first); err != nil || (uid != os.Geteuid() && uid != 0) {
		_ = first.Close()
		return nil, machine.Errorf("env.ownership", "set MVM_RUNTIME_DIR to a directory of your own", "the socket %s is served by another user", path)
	}
	spare := make(chan net.Conn, 1)
	spare <- first
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &Client{rt: &http.Transport{
		Protocols: &protocols,
		HTTP2:     &http.HTTP2Config{MaxReceiveBufferPerConnection: 64 << 20, MaxReceiveBufferPerStream: 4 << 20},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			select {
			case c := <-spare:
				return c, nil
			default:
				return d.DialContext(ctx, "unix", path)
			}
		},
		DisableCompression: true,
	}}, nil
}

// Close ends the client's connections.
func (c *Client) Close() { c.rt.CloseIdleConnections() }

// Status asks what the machine is doing.
func (c *Client) Status(ctx context.Context) (machine.Status, error) {
	var st machine.Status
	return st, c.call(ctx, http.MethodGet, pathStatus, nil, &st)
}

// Stop asks the supervisor to end its machine. It does not wait for the end.
func (c *Client) Stop(ctx context.Context, r StopRequest) error {
	return c.call(ctx, http.MethodPost, pathStop, r, nil)
}

// Pause makes the guest stand still.
func (c *Client) Pause(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, pathPause, nil, nil)
}

// Resume lets it go on.
func (c *Client) Resume(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, pathResume, nil, nil)
}

// Forwards lists the published ports.
func (c *Client) Forwards(ctx context.Context) ([]machine.Port, error) {
	var ports []machine.Port
	return ports, c.call(ctx, http.MethodGet, pathForwards, nil, &ports)
}

// AddForwards publishes all ports or none.
func (c *Client) AddForwards(ctx context.Context, ports []machine.Port) ([]machine.Port, error) {
	var bound []machine.Port
	return bound, c.call(ctx, http.MethodPost, pathForwards, ports, &bound)
}

// RemoveForward takes a published port back.
func (c *Client) RemoveForward(ctx context.Context, p machine.Port) error {
	return c.call(ctx, http.MethodDelete, pathForwards, p, nil)
}

// Agent returns the way to the guest agent: the requests of agentproto, whose URL paths it
// leads through the supervisor.
func (c *Client) Agent() http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		out := r.Clone(r.Context())
		out.URL.Scheme, out.URL.Host = "http", "supervisor"
		out.URL.Path = agentPrefix + out.URL.Path
		out.Host = out.URL.Host
		return c.rt.RoundTrip(out)
	})
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encoding request: %w", err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://supervisor"+path, body)
	if err != nil {
		return fmt.Errorf("making request: %w", err)
	}
	resp, err := c.rt.RoundTrip(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return machine.Errorf("supervisor.lost", "`mvmctl ls` shows what is left of it", "the machine's supervisor does not answer: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
	if err != nil {
		return machine.Errorf("supervisor.lost", "`mvmctl ls` shows what is left of it", "the supervisor's answer was cut: %w", err)
	}
	if resp.StatusCode >= 300 {
		return answerError(data, resp.Status)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("decoding the supervisor's answer: %w", err)
	}
	return nil
}

func answerError(data []byte, status string) error {
	var f machine.Failure
	if err := json.Unmarshal(data, &f); err != nil || f.Code == "" {
		return errors.New("supervisor: " + strings.TrimSpace(status))
	}
	return f.Err()
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
