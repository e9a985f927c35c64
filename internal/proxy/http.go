package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mvmctl/mvmctl/internal/egress"
)

const (
	maxHeader = 64 << 10
	idleHTTP  = 5 * time.Minute // between two requests of a connection
)

// isHTTP reports whether a guest's first words begin a request of HTTP/1. It waits for no more of them
// than a method has.
func isHTTP(r *bufio.Reader) bool {
	for n := 1; n <= len("CONNECT")+1; n++ {
		head, err := r.Peek(n)
		if err != nil {
			return false
		}
		switch c := head[n-1]; {
		case c == ' ':
			switch string(head[:n-1]) {
			case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH":
				return true
			}
			return false
		case c < 'A' || c > 'Z':
			return false
		}
	}
	return false
}

// isHTTP2 reports whether they are the preface of HTTP/2 (RFC 9113, section 3.4).
func isHTTP2(r *bufio.Reader) bool {
	const preface = "PRI * HTTP/2.0\r\n"
	for n := 1; n <= len(preface); n++ {
		if head, err := r.Peek(n); err != nil || head[n-1] != preface[n-1] {
			return false
		}
	}
	return true
}

// http carries the requests of one connection. Each names its host, and is decided on by itself. out is
// connected to where f goes, for the first request that goes there.
func (p *Proxy) http(ctx context.Context, f *flow, guest net.Conn, first *bufio.Reader, out net.Conn) {
	spare := make(chan net.Conn, 1)
	spare <- out
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			if address == f.host() {
				select {
				case c := <-spare:
					return c, nil
				default:
				}
			}
			return p.dialRequest(ctx, f, address)
		},
		DisableCompression: true, MaxIdleConnsPerHost: 1, ResponseHeaderTimeout: 0,
	}
	defer transport.CloseIdleConnections()
	quiet := log.New(io.Discard, "", 0)
	carry := &httputil.ReverseProxy{
		Transport: transport, ErrorLog: quiet, FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", target(r.In.Host, f)
			for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if v, ok := r.In.Header[h]; ok {
					r.Out.Header[h] = v
				}
			}
			if _, ok := r.In.Header["User-Agent"]; !ok {
				r.Out.Header["User-Agent"] = nil // the guest said none
			}
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if d, ok := errors.AsType[*deniedError](err); ok {
				writeDenied(w, d)
				return
			}
			http.Error(w, "mvmctl: the host was not reached: "+err.Error(), http.StatusBadGateway)
		},
	}
	l := newOneListener(buffered{guest, first})
	var upgraded atomic.Bool // to another protocol: the server has the connection no more
	server := &http.Server{
		ReadHeaderTimeout: helloTime, IdleTimeout: idleHTTP, MaxHeaderBytes: maxHeader, ErrorLog: quiet,
		BaseContext: func(net.Listener) context.Context { return ctx },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if d := p.request(f, r); d != nil {
				w.Header().Set("Connection", "close")
				writeDenied(w, d)
				return
			}
			carry.ServeHTTP(w, r)
			if upgraded.Load() { // it was carried until now
				l.release()
			}
		}),
		ConnState: func(_ net.Conn, s http.ConnState) {
			switch s {
			case http.StateHijacked:
				upgraded.Store(true)
			case http.StateClosed:
				l.release()
			}
		},
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	_ = server.Serve(l)
	l.wait(ctx)
}

// deniedError is a denial on its way to the guest.
type deniedError struct {
	f *flow
	d egress.Decision
}

func (e *deniedError) Error() string { return e.d.Why }

// request decides on one request.
func (p *Proxy) request(f *flow, r *http.Request) *deniedError {
	to := requestFlow(f, r.Host)
	var d egress.Decision
	switch {
	case r.Method == http.MethodConnect:
		d.Why = "CONNECT asks for a proxy, and this is none"
	case to == nil:
		to, d.Why = f, "the request names no host that can be compared"
	default:
		d = p.learn(to, func(*flow) {})
	}
	if d.Allowed {
		return nil
	}
	p.deny(to, d)
	return &deniedError{to, d}
}

// requestFlow is the flow of one request of a connection; nil when the host that it names is none.
func requestFlow(f *flow, host string) *flow {
	name, port := host, strconv.Itoa(int(f.port))
	if h, p, err := net.SplitHostPort(host); err == nil {
		name, port = h, p
	}
	to := &flow{proto: f.proto, byName: f.byName, port: f.port}
	if !f.byName {
		to.addr = f.addr
	}
	if port != strconv.Itoa(int(f.port)) {
		return nil
	}
	if a, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		if f.byName || a.Unmap() != f.addr {
			return nil
		}
		return to
	}
	var err error
	if to.name, err = egress.Name(name); err != nil {
		return nil
	}
	return to
}

// target is what the transport dials for a request that was let pass.
func target(host string, f *flow) string {
	return requestFlow(f, host).host()
}

// host is where a flow goes, as a URL has it.
func (f *flow) host() string {
	if f.byName {
		return net.JoinHostPort(f.name, strconv.Itoa(int(f.port)))
	}
	return netip.AddrPortFrom(f.addr, f.port).String()
}

// dialRequest connects for a request.
func (p *Proxy) dialRequest(ctx context.Context, f *flow, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	to := requestFlow(f, host)
	if to == nil {
		return nil, errors.New("no host")
	}
	out, d, err := p.dial(ctx, to)
	if err == nil && !d.Allowed {
		p.deny(to, d)
		return nil, &deniedError{to, d}
	}
	return out, err
}

// deniedText is what a guest hears of a denial.
func deniedText(f *flow, d egress.Decision) string {
	to := f.name
	if to == "" {
		to = f.addr.String()
	}
	why := d.Why
	if d.Rule != "" {
		why += fmt.Sprintf(": %q", d.Rule)
	}
	return fmt.Sprintf("mvmctl: this machine's network policy does not allow %s %s (%s).\n"+
		"On the host, `mvmctl policy log` shows it, and --network-allow %s allows it.\n",
		f.proto, net.JoinHostPort(to, strconv.Itoa(int(f.port))), why, net.JoinHostPort(to, strconv.Itoa(int(f.port))))
}

func writeDenied(w http.ResponseWriter, e *deniedError) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusForbidden)
	_, _ = io.WriteString(w, deniedText(e.f, e.d))
}

// answerDenied answers the first request of a connection that is denied.
func answerDenied(guest net.Conn, r *bufio.Reader, f *flow, d egress.Decision) {
	if !isHTTP(r) {
		abort(guest)
		return
	}
	text := deniedText(f, d)
	if head, _ := r.Peek(5); bytes.Equal(head, []byte("HEAD ")) {
		text = ""
	}
	// Its head has to be read, or the answer would be lost with the reset that unread bytes cause.
	for read := 0; read < maxHeader; {
		line, err := r.ReadSlice('\n')
		if read += len(line); err != nil && !errors.Is(err, bufio.ErrBufferFull) || len(bytes.TrimRight(line, "\r\n")) == 0 && err == nil {
			break
		}
	}
	_, _ = fmt.Fprintf(guest, "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(deniedText(f, d)), text)
	if half, ok := guest.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(r, maxHello)) // until it has heard
	}
}

// buffered is a connection of which some was read already.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// CloseWrite passes a half-close on.
func (b buffered) CloseWrite() error {
	if half, ok := b.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return b.Close()
}
