package control

import (
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// agentProxy passes requests on to the guest agent, unread. Both directions flow at once and
// bytes are flushed as they come; when the answer has ended, so has the stream. (httputil's
// ReverseProxy waits for the request's end too, which a terminal's input never reaches.)
type agentProxy struct {
	agent   func() (http.RoundTripper, error)
	buffers *buffers
	log     *slog.Logger
}

// ServeHTTP implements http.Handler.
func (p *agentProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rt, err := p.agent()
	if err != nil {
		refuse(w, http.StatusBadGateway, err)
		return
	}
	out := (&http.Request{
		Method: r.Method, Host: "agent", Header: r.Header, Body: r.Body, ContentLength: r.ContentLength,
		URL: &url.URL{Scheme: "https", Host: "agent", Path: r.URL.Path, RawQuery: r.URL.RawQuery},
	}).WithContext(r.Context())
	resp, err := rt.RoundTrip(out)
	if err != nil {
		if _, ok := errors.AsType[*machine.Error](err); !ok {
			err = machine.Errorf("agent.lost", "look at `mvmctl logs --source console`", "the guest agent does not answer: %w", err)
		}
		refuse(w, http.StatusBadGateway, err)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	maps.Copy(w.Header(), resp.Header)
	w.WriteHeader(resp.StatusCode)
	if err := p.copy(w, resp.Body); err != nil {
		p.log.Debug("agent stream cut", "path", r.URL.Path, "error", err)
		// The reader must not take this for the end.
		panic(http.ErrAbortHandler)
	}
	for k, v := range resp.Trailer {
		w.Header()[http.TrailerPrefix+k] = v
	}
}

// copy passes bytes on as they come.
func (p *agentProxy) copy(w http.ResponseWriter, body io.Reader) error {
	rc := http.NewResponseController(w)
	if err := rc.Flush(); err != nil {
		return err
	}
	buf := p.buffers.Get()
	defer p.buffers.Put(buf)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return werr
			}
			if werr := rc.Flush(); werr != nil {
				return werr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
