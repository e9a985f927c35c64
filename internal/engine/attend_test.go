package engine

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// guestRT is a guest that answers as a test says.
type guestRT func(*http.Request) (*http.Response, error)

func (g guestRT) RoundTrip(r *http.Request) (*http.Response, error) { return g(r) }

func reply(body io.ReadCloser) *http.Response {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: body}
}

// hang answers nothing until the request is given up.
func hang(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// lives answers what asks whether it lives, and leaves the rest to other.
func lives(asked *atomic.Int64, other guestRT) guestRT {
	return func(r *http.Request) (*http.Response, error) {
		if r.URL.Path == agentproto.PathStatus {
			asked.Add(1)
			return reply(io.NopCloser(strings.NewReader("{}"))), nil
		}
		return other(r)
	}
}

// A guest that stands still ends every call with agent.timeout, also where the answer had begun.
func TestAGuestThatStandsStillEndsACall(t *testing.T) {
	cases := map[string]func(context.Context, *agentclient.Client) error{
		"exec": func(ctx context.Context, c *agentclient.Client) error {
			_, err := c.Exec(ctx, agentproto.ExecStart{}, agentclient.Streams{})
			return err
		},
		"console": func(ctx context.Context, c *agentclient.Client) error {
			_, err := c.Console(ctx, agentproto.ExecStart{}, agentclient.Streams{Stdin: never{ctx}})
			return err
		},
		"copy out": func(ctx context.Context, c *agentclient.Client) error { return c.CopyOut(ctx, "/x", io.Discard) },
		"copy in": func(ctx context.Context, c *agentclient.Client) error {
			_, err := c.CopyIn(ctx, "/x", strings.NewReader("tar"))
			return err
		},
		"diff": func(ctx context.Context, c *agentclient.Client) error {
			return c.Diff(ctx, func(agentproto.Change) error { return nil })
		},
	}
	for name, do := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				err := do(t.Context(), attended(guestRT(hang), "web"))
				if agentproto.CodeOf(err) != agentproto.CodeTimeout || !strings.Contains(err.Error(), "stands still") {
					t.Errorf("%v", err)
				}
				if took := time.Since(began); took > quietTime+pulseTime {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
	t.Run("in the middle of an answer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := guestRT(func(r *http.Request) (*http.Response, error) {
				if r.URL.Path == agentproto.PathStatus {
					return hang(r)
				}
				return reply(io.NopCloser(io.MultiReader(strings.NewReader("half"), never{r.Context()}))), nil
			})
			var got bytes.Buffer
			err := attended(g, "web").CopyOut(t.Context(), "/x", &got)
			if agentproto.CodeOf(err) != agentproto.CodeTimeout || got.String() != "half" {
				t.Errorf("%v, %q", err, &got)
			}
		})
	})
}

// never is a reader that has nothing until ctx ends.
type never struct{ ctx context.Context }

func (n never) Read([]byte) (int, error) {
	<-n.ctx.Done()
	return 0, n.ctx.Err()
}

// What is merely slow is not cut: neither a transfer of a guest that answers, nor one whose reader
// on this host takes its time, nor a program that has started.
func TestASlowGuestIsWaitedFor(t *testing.T) {
	slow := func(d time.Duration) guestRT {
		return func(r *http.Request) (*http.Response, error) {
			select {
			case <-time.After(d):
				return reply(io.NopCloser(strings.NewReader("x"))), nil
			case <-r.Context().Done():
				return nil, context.Cause(r.Context())
			}
		}
	}
	t.Run("answers late", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var asked atomic.Int64
			a := &attendant{rt: lives(&asked, slow(time.Hour)), quiet: quietTime, pulse: pulseTime}
			r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://agent"+agentproto.PathFiles, nil)
			resp, err := a.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if asked.Load() == 0 {
				t.Error("it was not asked whether it lives")
			}
		})
	})
	t.Run("its reader is slow", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := guestRT(func(r *http.Request) (*http.Response, error) {
				if r.URL.Path == agentproto.PathStatus {
					return hang(r)
				}
				return reply(io.NopCloser(strings.NewReader("all"))), nil
			})
			a := &attendant{rt: g, quiet: quietTime, pulse: pulseTime}
			r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://agent"+agentproto.PathFiles, nil)
			resp, err := a.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			one := make([]byte, 1)
			for range 3 {
				time.Sleep(time.Hour) // of the bubble's clock
				if _, err := resp.Body.Read(one); err != nil {
					t.Fatal(err)
				}
			}
		})
	})
	t.Run("a program that has started", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := guestRT(func(r *http.Request) (*http.Response, error) {
				if r.URL.Path == agentproto.PathStatus {
					return hang(r)
				}
				pr, pw := io.Pipe()
				go func() {
					_, _ = pw.Write([]byte("x"))
					select {
					case <-time.After(time.Hour):
						_, _ = pw.Write([]byte("y"))
						_ = pw.Close()
					case <-r.Context().Done():
						_ = pw.CloseWithError(r.Context().Err())
					}
				}()
				return reply(pr), nil
			})
			a := &attendant{rt: g, quiet: quietTime, pulse: pulseTime}
			r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://agent"+agentproto.PathExec, nil)
			resp, err := a.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if data, err := io.ReadAll(resp.Body); err != nil || string(data) != "xy" {
				t.Errorf("%q, %v", data, err)
			}
		})
	})
}
