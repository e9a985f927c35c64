package oci

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

const maxRedirects = 5

// registry is one repository in a registry.
type registry struct {
	c      *Client
	ref    reference
	scheme string
	host   string // where it is asked, which for docker.io is not its name
}

func (c *Client) registry(ref reference) *registry {
	r := &registry{c: c, ref: ref, scheme: "https", host: ref.host}
	if r.host == hub {
		r.host = "registry-1." + hub
	}
	u := url.URL{Host: r.host}
	if isOwnHost(u.Hostname()) || slices.Contains(c.o.Insecure, ref.host) || slices.Contains(c.o.Insecure, u.Hostname()) {
		r.scheme = "http"
	}
	return r
}

// url makes the address of a document or blob; kind and name are of our own words and of
// checked syntax.
func (r *registry) url(kind, name string) *url.URL {
	return &url.URL{Scheme: r.scheme, Host: r.host, Path: "/v2/" + r.ref.repo + "/" + kind + "/" + name}
}

// response is an answer whose body is watched for standing still.
type response struct {
	*http.Response
	watch *watch
}

// get asks the registry, follows its redirects and proves who we are when it asks. Any
// answer that is neither 401 nor a redirect is returned.
func (r *registry) get(ctx context.Context, at *url.URL, header http.Header) (*response, error) {
	refreshed := false
	for {
		auth := r.c.authorization(r)
		resp, err := r.follow(ctx, at, header, auth)
		if err != nil || resp.StatusCode != http.StatusUnauthorized || !sameHost(at, resp.Request.URL) {
			return resp, err
		}
		challenges := resp.Header.Values("WWW-Authenticate")
		resp.close()
		if refreshed { // with a proof that is not a minute old
			return nil, r.deniedError()
		}
		refreshed = true
		if err := r.authorize(ctx, challenges); err != nil {
			return nil, err
		}
	}
}

// follow sends a request and follows redirects. Only the registry itself is told who we are.
func (r *registry) follow(ctx context.Context, at *url.URL, header http.Header, auth string) (*response, error) {
	home := at
	for hops := 0; ; hops++ {
		h := header.Clone()
		if auth != "" && sameHost(home, at) {
			h.Set("Authorization", auth)
		}
		resp, err := r.c.send(ctx, home, at, http.MethodGet, h, nil)
		if err != nil {
			return nil, err
		}
		switch resp.StatusCode {
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		default:
			return resp, nil
		}
		location := resp.Header.Get("Location")
		resp.close()
		to, err := at.Parse(location)
		if err != nil || location == "" {
			return nil, redirectError("to %s, which is no address", quote(location))
		}
		if hops >= maxRedirects {
			return nil, redirectError("on more than %d times", maxRedirects)
		}
		if err := r.c.checkHop(home, at, to); err != nil {
			return nil, err
		}
		at = to
	}
}

// send makes one request. home is the registry for which it is made.
func (c *Client) send(ctx context.Context, home, at *url.URL, method string, header http.Header, body io.Reader) (*response, error) {
	w := newWatch(ctx, c.tune, c.tune.idle)
	most := reachPublic
	transport := c.named
	if !sameHost(home, at) {
		most = c.reachOfURL(home)
	}
	req, err := http.NewRequestWithContext(context.WithValue(w.ctx, allowed{}, most), method, at.String(), body)
	if err != nil {
		w.stop()
		return nil, redirectError("to %s, which is no address", quote(at.String()))
	}
	req.Header = header
	req.Header.Set("User-Agent", c.o.UserAgent)
	req.Header.Set("Accept-Encoding", "identity")
	if !sameHost(home, at) {
		// A proxy makes the connection itself, and checkHop has looked at the name.
		if via, err := c.proxy(req); err == nil && via == nil {
			transport = c.foreign
		}
	}
	resp, err := transport.RoundTrip(req) //nolint:bodyclose // by response.close
	if err != nil {
		err = peerError(ctx, w, at.Host, err)
		w.stop()
		return nil, err
	}
	w.touch(0)
	return &response{Response: resp, watch: w}, nil
}

// Read implements io.Reader: the body, while it moves.
func (r *response) Read(p []byte) (int, error) {
	n, err := r.Body.Read(p)
	r.watch.touch(n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = peerError(r.watch.parent, r.watch, r.Request.URL.Host, err)
	}
	return n, err
}

func (r *response) close() {
	r.watch.stop()
	_ = r.Body.Close()
}

// readAll returns a body that may have up to most bytes.
func (r *response) readAll(what string, most int64) ([]byte, error) {
	if r.ContentLength > most {
		return nil, limitError("the %s has %d bytes, at most %d are allowed", what, r.ContentLength, most)
	}
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > most {
		return nil, limitError("the %s has more than %d bytes", what, most)
	}
	return data, nil
}

// watch ends a request that stands still, or moves too slowly to be meant well.
type watch struct {
	parent context.Context
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	tune   tuning
	idle   time.Duration

	mu    sync.Mutex
	since time.Time // begin of the present window
	bytes int64     // in it
}

var (
	errIdle = errors.New("it stands still")
	errSlow = errors.New("it is too slow")
)

func newWatch(parent context.Context, t tuning, idle time.Duration) *watch {
	w := &watch{parent: parent, tune: t, idle: idle, since: t.now()}
	w.ctx, w.cancel = context.WithCancelCause(parent)
	w.timer = time.AfterFunc(idle, func() { w.cancel(errIdle) })
	return w
}

// touch says that n bytes have come. The time that our own disk takes counts as well: it is
// faster than the slowest peer that we put up with.
func (w *watch) touch(n int) {
	w.timer.Reset(w.idle)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes += int64(n)
	now := w.tune.now()
	if now.Sub(w.since) < w.tune.window {
		return
	}
	if w.bytes < w.tune.floor {
		w.cancel(errSlow)
	}
	w.since, w.bytes = now, 0
}

func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(context.Canceled)
}

// retryable marks an error after which the same request may well succeed.
type retryable struct {
	error
	asked time.Duration // how long the peer wants us to wait
}

func (e retryable) Unwrap() error { return e.error }

// peerError explains why a request or its answer broke off.
func peerError(ctx context.Context, w *watch, host string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	host = plain(host)
	cause := context.Cause(w.ctx)
	if errors.Is(cause, errIdle) || errors.Is(cause, errSlow) {
		return machine.Errorf("peer.timeout", "check the connection and run the command again: it goes on where it was",
			"waiting for %s: %w", host, cause)
	}
	_, isRecord := errors.AsType[tls.RecordHeaderError](err)
	_, isUnknown := errors.AsType[*tls.CertificateVerificationError](err)
	_, isHost := errors.AsType[x509.HostnameError](err)
	dns, isDNS := errors.AsType[*net.DNSError](err)
	op, isOp := errors.AsType[*net.OpError](err)
	switch {
	case errors.Is(err, errReach):
		return redirectError("to %s, which is no address for it to send us to", host)
	case isRecord, strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return machine.Errorf("peer.tls", "if it is meant to have no TLS, name it as an insecure registry", "%s does not speak TLS", host)
	case isUnknown, isHost:
		return machine.Errorf("peer.tls", "make this host trust the registry's certificate, for example with SSL_CERT_FILE", "%s: %s", host, short(plain(err.Error()), 200))
	case isDNS && !dns.IsTemporary && !dns.IsTimeout:
		return machine.Errorf("peer.unavailable", "check the name and the connection", "there is no host %s", host)
	case isOp && op.Op == "dial":
		return machine.Errorf("peer.unavailable", "check that the registry runs and can be reached", "connecting to %s: %s", host, plain(op.Err.Error()))
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return retryable{error: machine.Errorf("peer.truncated", remedyRegistry, "%s ended its answer too early", host)}
	}
	return retryable{error: machine.Errorf("peer.unavailable", remedyRegistry, "talking to %s: %s", host, plain(err.Error()))}
}

// statusError explains an answer that is not the one that was hoped for. It closes it.
func (r *registry) statusError(resp *response, what string) error {
	defer resp.close()
	said := ""
	if data, err := io.ReadAll(io.LimitReader(resp, 4<<10)); err == nil {
		said = errorText(data)
	}
	host := plain(resp.Request.URL.Host)
	switch code := resp.StatusCode; {
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		if !sameHost(r.url("", ""), resp.Request.URL) {
			return machine.Errorf("peer.unavailable", remedyRegistry, "%s, where the registry keeps its content, refuses us (%d)%s", host, code, said)
		}
		if code == http.StatusForbidden {
			return r.forbiddenError(said)
		}
		return r.deniedError()
	case code == http.StatusTooManyRequests:
		return retryable{
			machine.Errorf("peer.unavailable", strings.TrimSpace("try again later, or log in, which often allows more: docker login "+loginHost(r.ref.host)), "%s answers that we ask too much (%d)%s", host, code, said),
			retryAfter(resp.Header.Get("Retry-After"), r.c.tune.now()),
		}
	case code == http.StatusRequestTimeout, code >= 500:
		return retryable{
			machine.Errorf("peer.unavailable", "try again later, or use another registry", "%s answers %d%s", host, code, said),
			retryAfter(resp.Header.Get("Retry-After"), r.c.tune.now()),
		}
	default:
		return machine.Errorf("peer.invalid", remedyRegistry, "%s answers %d when asked for %s%s", host, code, what, said)
	}
}

// errorText is what a registry says in its answer to a failed request, if it keeps to the
// specification.
func errorText(data []byte) string {
	o, err := parseDocument(data, "errors")
	if err != nil {
		return ""
	}
	var list []struct{ Message string }
	if o.get("errors", &list) != nil || len(list) == 0 || list[0].Message == "" {
		return ""
	}
	return fmt.Sprintf(": %s", quote(list[0].Message))
}

// retryAfter reads seconds or a date; nonsense is nothing.
func retryAfter(value string, now time.Time) time.Duration {
	if n, err := strconv.ParseInt(value, 10, 64); err == nil {
		return time.Duration(min(max(n, 0), 3600)) * time.Second
	}
	if t, err := http.ParseTime(value); err == nil {
		return max(t.Sub(now), 0)
	}
	return 0
}

// try runs a request again as long as that makes sense.
func (c *Client) try(ctx context.Context, do func() error) error {
	for n := 1; ; n++ {
		err := do()
		again, ok := errors.AsType[retryable](err)
		if !ok {
			return err
		}
		if n > c.tune.retries {
			return again.error
		}
		if err := c.pause(ctx, n, again.asked); err != nil {
			return err
		}
	}
}
