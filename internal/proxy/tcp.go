package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/mvmctl/mvmctl/internal/egress"
)

// Incoming is a connection that a guest wants to open.
type Incoming struct {
	Dst    netip.AddrPort
	Accept func() (net.Conn, error) // completes it
	Refuse func()                   // as a host without a server there does
}

// whyStale is said of an address whose name is forgotten.
const whyStale = "the address stood for a name that was not used for long: look it up again"

// webPort is where a guest hears in HTTP that it is denied.
const webPort = 80

// TCP carries one connection to its end, or refuses it.
func (p *Proxy) TCP(ctx context.Context, in Incoming) {
	f, stale := p.flowTo(egress.TCP, in.Dst)
	if stale {
		p.deny(f, egress.Decision{Why: whyStale})
		in.Refuse()
		return
	}
	ctx, d, err := p.begin(ctx, f)
	switch {
	case err != nil:
		in.Refuse()
		return
	case !d.Allowed:
		p.deny(f, d)
		p.refuse(in, f, d)
		return
	}
	defer p.end(f)
	out, d, err := p.dial(ctx, f)
	switch {
	case err != nil:
		in.Refuse()
		return
	case !d.Allowed:
		p.deny(f, d)
		p.refuse(in, f, d)
		return
	}
	defer func() { _ = out.Close() }()
	guest, err := in.Accept()
	if err != nil {
		return
	}
	defer func() { _ = guest.Close() }()
	stop := context.AfterFunc(ctx, func() { _, _ = guest.Close(), out.Close() })
	defer stop()
	if !p.Policy().Restricted() {
		splice(guest, guest, out)
		return
	}
	p.watched(ctx, f, guest, out)
}

// refuse ends a connection that is denied: at the port of HTTP with an answer that says why.
func (p *Proxy) refuse(in Incoming, f *flow, d egress.Decision) {
	if f.port != webPort {
		in.Refuse()
		return
	}
	guest, err := in.Accept()
	if err != nil {
		return
	}
	defer func() { _ = guest.Close() }()
	_ = guest.SetDeadline(time.Now().Add(helloTime))
	answerDenied(guest, bufio.NewReaderSize(guest, 4<<10), f, d)
}

// watched carries a connection under a policy that looks at names: what the guest says first may name
// another host than the one it is connected to.
func (p *Proxy) watched(ctx context.Context, f *flow, guest, out net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() { pump(guest, out) })
	first := bufio.NewReaderSize(guest, 16<<10)
	from, ok := p.checked(ctx, f, guest, first)
	if from == nil && ok { // HTTP, which is carried request by request
		_ = out.SetReadDeadline(time.Unix(1, 0)) // the pump lets go of it
		wg.Wait()
		_ = out.SetReadDeadline(time.Time{})
		p.http(ctx, f, guest, first, out)
		return
	}
	if !ok {
		abort(guest)
		_ = out.Close()
		wg.Wait()
		return
	}
	pump(out, from)
	wg.Wait()
}

// checked waits for a guest's first words, which it may never say, and returns the guest's stream with
// them; nil for HTTP. ok is false when they name a host that is denied.
func (p *Proxy) checked(ctx context.Context, f *flow, guest net.Conn, first *bufio.Reader) (from io.Reader, ok bool) {
	head, err := first.Peek(1)
	if err != nil {
		return first, true // it says nothing and hangs up, or was ended
	}
	switch {
	case head[0] == 0x16: // the record type of a TLS handshake (RFC 8446, section 5.1)
		_ = guest.SetReadDeadline(time.Now().Add(helloTime))
		hello, said, err := readHello(ctx, first)
		_ = guest.SetReadDeadline(time.Time{})
		from = io.MultiReader(bytes.NewReader(said), first)
		if err != nil {
			p.deny(f, egress.Decision{Why: "what looks like TLS is none"})
			return nil, false
		}
		if d := p.named(f, hello.ServerName, slices.Contains(hello.Extensions, extensionECH)); !d.Allowed {
			return nil, false
		}
		return from, true
	case isHTTP(first):
		return nil, true
	case isHTTP2(first):
		p.deny(f, egress.Decision{Why: "HTTP/2 without TLS may name a host in each request: use HTTP/1.1"})
		return nil, false
	}
	return first, true
}

// extensionECH is the type of the TLS extension encrypted_client_hello (RFC 9849).
const extensionECH = 0xfe0d

// named decides on a connection whose first words name a host. Without a name the one counts that it
// is connected to. The inner name of an encrypted hello is not seen: the server of the outer one may
// serve it.
func (p *Proxy) named(f *flow, name string, encrypted bool) egress.Decision {
	if name == "" {
		return egress.Decision{Allowed: true}
	}
	canonical, err := egress.Name(name)
	if err != nil {
		d := egress.Decision{Why: "it is for a name that is none"}
		p.deny(f, d)
		return d
	}
	if encrypted && !p.Policy().HiddenNames {
		d := egress.Decision{Why: "its TLS hides for whom it is (ECH)"}
		p.deny(f, d)
		return d
	}
	other := &flow{proto: f.proto, name: canonical, byName: f.byName, addr: f.addr, port: f.port}
	d := p.learn(other, func(*flow) {})
	if !d.Allowed {
		p.deny(other, d)
	}
	return d
}

// readHello reads a ClientHello with TLS's own code, and returns it with all that was read.
func readHello(ctx context.Context, r io.Reader) (*tls.ClientHelloInfo, []byte, error) {
	var said bytes.Buffer
	var hello *tls.ClientHelloInfo
	enough := errors.New("enough")
	err := tls.Server(readOnly{io.TeeReader(io.LimitReader(r, maxHello), &said)}, &tls.Config{ //nolint:gosec // nothing is ever said with it
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			hello = h
			return nil, enough
		},
	}).HandshakeContext(ctx)
	if hello == nil {
		return nil, said.Bytes(), err
	}
	return hello, said.Bytes(), nil
}

// readOnly is a connection for reading alone.
type readOnly struct{ io.Reader }

func (readOnly) Write([]byte) (int, error)        { return 0, io.ErrClosedPipe }
func (readOnly) Close() error                     { return nil }
func (readOnly) LocalAddr() net.Addr              { return nil }
func (readOnly) RemoteAddr() net.Addr             { return nil }
func (readOnly) SetDeadline(time.Time) error      { return nil }
func (readOnly) SetReadDeadline(time.Time) error  { return nil }
func (readOnly) SetWriteDeadline(time.Time) error { return nil }

// splice carries both directions to their ends.
func splice(guest net.Conn, from io.Reader, out net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() { pump(guest, out) })
	pump(out, from)
	wg.Wait()
}

// pump carries one direction, and its end. An error ends both, but for a deadline, which is set to
// take the connection back.
func pump(to net.Conn, from io.Reader) {
	_, err := io.Copy(to, from)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	half, ok := to.(interface{ CloseWrite() error })
	if err != nil || !ok || half.CloseWrite() != nil {
		abort(to)
		if c, ok := from.(net.Conn); ok {
			abort(c)
		}
	}
}

// abort ends a connection so that the other side sees that it broke off.
func abort(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}
