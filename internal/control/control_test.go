package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// double is a supervisor that remembers what it was asked.
type double struct {
	status  machine.Status
	stopped chan StopRequest
	ports   []machine.Port
	agent   http.RoundTripper
}

func (d *double) Status() machine.Status { return d.status }
func (d *double) Stop(r StopRequest)     { d.stopped <- r }
func (d *double) Pause(context.Context) error {
	d.status.State = machine.StatePaused
	return nil
}

func (d *double) Resume(context.Context) error {
	return machine.Errorf("backend.pause", "none", "not here")
}
func (d *double) Forwards() []machine.Port { return d.ports }

func (d *double) AddForwards(_ context.Context, p []machine.Port) ([]machine.Port, error) {
	if p[0].HostPort == 1 {
		return nil, machine.Errorf("port.in_use", "choose another", "host port 1 is in use")
	}
	d.ports = append(d.ports, p...)
	return p, nil
}

func (d *double) RemoveForward(machine.Port) error {
	return machine.Errorf("port.not_published", "look", "not published")
}

func (d *double) Agent() (http.RoundTripper, error) {
	if d.agent == nil {
		return nil, machine.Errorf("agent.unready", "wait", "not yet")
	}
	return d.agent, nil
}

func serve(t *testing.T, d *double) (*Client, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ctl")
	s, err := Listen(path, d, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, path
}

func TestTheSocketIsItsOwnersAlone(t *testing.T) {
	_, path := serve(t, &double{})
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
}

func TestCallsArriveAndErrorsKeepTheirCode(t *testing.T) {
	d := &double{status: machine.Status{State: machine.StateRunning, Generation: 7}, stopped: make(chan StopRequest, 1)}
	c, _ := serve(t, d)
	st, err := c.Status(t.Context())
	if err != nil || st.Generation != 7 || st.State != machine.StateRunning {
		t.Errorf("Status: %+v, %v", st, err)
	}
	if err := c.Stop(t.Context(), StopRequest{GraceMS: 5, Force: true}); err != nil {
		t.Fatal(err)
	}
	if r := <-d.stopped; r.GraceMS != 5 || !r.Force {
		t.Errorf("Stop arrived as %+v", r)
	}
	ports := []machine.Port{{Host: "127.0.0.1", HostPort: 8080, GuestPort: 80, Proto: "tcp"}}
	if got, err := c.AddForwards(t.Context(), ports); err != nil || !cmp.Equal(got, ports) {
		t.Errorf("AddForwards: %v, %v", got, err)
	}
	if got, err := c.Forwards(t.Context()); err != nil || !cmp.Equal(got, ports) {
		t.Errorf("Forwards: %v, %v", got, err)
	}
	_, err = c.AddForwards(t.Context(), []machine.Port{{HostPort: 1}})
	var e *machine.Error
	if !errors.As(err, &e) || e.Code != "port.in_use" || e.Remedy != "choose another" {
		t.Errorf("AddForwards of a taken port: %+v", err)
	}
	if err := c.RemoveForward(t.Context(), ports[0]); machine.CodeOf(err) != "port.not_published" {
		t.Errorf("RemoveForward: %v", err)
	}
}

func TestNobodyThereIsSaidSo(t *testing.T) {
	if _, err := Dial(t.Context(), filepath.Join(t.TempDir(), "none")); machine.CodeOf(err) != "supervisor.lost" {
		t.Errorf("Dial: %v, want supervisor.lost", err)
	}
}

// The stream to the agent is open in both directions at once: the answer begins, and goes on,
// while the request is still being written.
func TestAgentStreamsAreFullDuplex(t *testing.T) {
	d := &double{agent: roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.URL.Path != "/v1/exec" || r.URL.RawQuery != "a=b" || r.URL.Host != "agent" {
			return nil, fmt.Errorf("asked for %s", r.URL)
		}
		pr, pw := io.Pipe()
		go func() {
			buf := make([]byte, 16)
			for {
				n, err := r.Body.Read(buf)
				if n > 0 {
					_, _ = fmt.Fprintf(pw, "<%s>", buf[:n])
				}
				if err != nil {
					_ = pw.Close()
					return
				}
			}
		}()
		return &http.Response{StatusCode: 200, ProtoMajor: 2, Header: http.Header{}, Trailer: http.Header{"Mvm-Error": {"none"}}, Body: pr}, nil
	})}
	c, _ := serve(t, d)
	pr, pw := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://agent/v1/exec?a=b", pr)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Agent().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	for _, word := range []string{"one", "two"} {
		if _, err := pw.Write([]byte(word)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(word)+2)
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != "<"+word+">" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	_ = pw.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != 0 {
		t.Errorf("rest %q, %v", rest, err)
	}
	if resp.Trailer.Get("Mvm-Error") != "none" {
		t.Errorf("trailer: %v", resp.Trailer)
	}
}

// An answer that has ended ends the stream, although the request goes on: nobody closes a
// terminal's input.
func TestTheEndOfTheAnswerEndsTheStream(t *testing.T) {
	closed := make(chan struct{})
	d := &double{agent: roundTripper(func(r *http.Request) (*http.Response, error) {
		go func() {
			_, _ = io.Copy(io.Discard, r.Body) // as a transport does
			close(closed)
		}()
		return &http.Response{StatusCode: 200, ProtoMajor: 2, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("done"))}, nil
	})}
	c, _ := serve(t, d)
	pr, pw := io.Pipe()
	defer func() { _ = pw.Close() }()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://agent/v1/exec", pr)
	resp, err := c.Agent().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(resp.Body); err != nil || string(data) != "done" {
		t.Errorf("%q, %v", data, err)
	}
	_ = resp.Body.Close()
	<-closed
}

// A stream that the agent's side cuts must not look like one that ended.
func TestACutAgentStreamIsAnError(t *testing.T) {
	d := &double{agent: roundTripper(func(*http.Request) (*http.Response, error) {
		pr, pw := io.Pipe()
		go func() {
			_, _ = pw.Write([]byte("half"))
			pw.CloseWithError(io.ErrUnexpectedEOF)
		}()
		return &http.Response{StatusCode: 200, ProtoMajor: 2, Header: http.Header{}, Body: pr}, nil
	})}
	c, _ := serve(t, d)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://agent/v1/logs", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Agent().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if data, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("read %q to a clean end", data)
	}
}

func TestNoAgentYet(t *testing.T) {
	c, _ := serve(t, &double{})
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://agent/v1/status", nil)
	resp, err := c.Agent().RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(string(body), "agent.unready") {
		t.Errorf("%s: %s", resp.Status, body)
	}
}
