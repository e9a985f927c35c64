package userland

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// netcat is one run of nc.
type netcat struct {
	c       *call
	o       options
	network string
	wait    time.Duration
}

func runNC(c *call) int {
	o, args, ok := c.parse("lukzvnN46p:s:w:Uq:e:d", nil)
	if !ok {
		return exitFailure
	}
	n := &netcat{c: c, o: o, network: "tcp"}
	if o.has('u') {
		n.network = "udp"
	}
	switch o.last('4', '6') {
	case '4':
		n.network += "4"
	case '6':
		n.network += "6"
	}
	if o.has('U') {
		n.network = "unix"
	}
	if text, ok := o.get('w'); ok {
		if n.wait, ok = parseSleep(text); !ok {
			return c.errorf("invalid timeout '%s'", text)
		}
	}
	host, port := "", ""
	if p, ok := o.get('p'); ok && o.has('l') {
		port = p
	}
	switch {
	case o.has('U') && len(args) == 1:
		host = c.path(args[0])
	case len(args) == 2:
		host, port = args[0], args[1]
	case len(args) == 1 && o.has('l') && port == "":
		port = args[0]
	case len(args) == 1 && o.has('l'):
		host = args[0]
	case len(args) == 0 && o.has('l') && port != "":
	default:
		return c.usageError("a host and a port are needed")
	}
	if o.has('l') {
		return n.listen(host, port)
	}
	return n.connect(host, port)
}

func (n *netcat) address(host, port string) string {
	if n.o.has('U') {
		return host
	}
	return net.JoinHostPort(host, port)
}

func (n *netcat) connect(host, ports string) int {
	lo, hi, isRange := strings.Cut(ports, "-")
	if !isRange || n.o.has('U') {
		hi = lo
	}
	first, err1 := strconv.Atoi(lo)
	last, err2 := strconv.Atoi(hi)
	if n.o.has('U') || err1 != nil || err2 != nil { // a service name
		return n.one(host, ports)
	}
	if first < 1 || last > 65535 || first > last {
		return n.c.errorf("port range not valid: %s", ports)
	}
	status := exitFailure
	for p := first; p <= last && n.c.ctx.Err() == nil; p++ {
		if s := n.one(host, strconv.Itoa(p)); s == exitOK {
			status = exitOK
			if !n.o.has('z') {
				return exitOK
			}
		}
	}
	return status
}

func (n *netcat) one(host, port string) int {
	d := net.Dialer{Timeout: n.wait}
	if from, ok := n.o.get('s'); ok {
		a, err := netip.ParseAddr(from)
		if err != nil {
			return n.c.errorf("invalid source address '%s'", from)
		}
		if n.o.has('u') {
			d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0))
		} else {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0))
		}
	}
	conn, err := d.DialContext(n.c.ctx, n.network, n.address(host, port))
	if err != nil {
		if (n.o.has('v') || !n.o.has('z')) && n.c.ctx.Err() == nil {
			n.c.errorf("connect to %s port %s (%s) failed: %s", host, port, n.network, ncReason(err))
		}
		return exitFailure
	}
	defer conn.Close()
	if n.o.has('v') {
		fmt.Fprintf(n.c.err, "Connection to %s %s port [%s] succeeded!\n", host, port, n.network)
	}
	if n.o.has('z') {
		return exitOK
	}
	return n.relay(conn)
}

func ncReason(err error) string {
	var de *net.DNSError
	switch {
	case errors.As(err, &de):
		return "Name or service not known"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "Operation timed out"
	}
	return reason(err)
}

func (n *netcat) listen(host, port string) int {
	var lc net.ListenConfig
	if n.o.has('u') {
		return n.listenPacket(host, port)
	}
	l, err := lc.Listen(n.c.ctx, n.network, n.address(host, port))
	if err != nil {
		return n.c.errorf("listen: %s", reason(err))
	}
	defer l.Close()
	stop := context.AfterFunc(n.c.ctx, func() { l.Close() })
	defer stop()
	if n.o.has('v') {
		fmt.Fprintf(n.c.err, "Listening on %s\n", l.Addr())
	}
	for {
		if t, ok := l.(*net.TCPListener); ok && n.wait > 0 {
			t.SetDeadline(time.Now().Add(n.wait))
		}
		conn, err := l.Accept()
		if err != nil {
			if n.c.ctx.Err() == nil {
				n.c.errorf("accept: %s", ncReason(err))
			}
			return exitFailure
		}
		if n.o.has('v') {
			fmt.Fprintf(n.c.err, "Connection received on %s\n", conn.RemoteAddr())
		}
		if !n.o.has('k') {
			l.Close()
		}
		status := n.relay(conn)
		conn.Close()
		if !n.o.has('k') || n.c.stopped() {
			return status
		}
	}
}

// listenPacket talks UDP with the first peer that sends something.
func (n *netcat) listenPacket(host, port string) int {
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(n.c.ctx, n.network, n.address(host, port))
	if err != nil {
		return n.c.errorf("listen: %s", reason(err))
	}
	defer pc.Close()
	stop := context.AfterFunc(n.c.ctx, func() { pc.Close() })
	defer stop()
	buf := make([]byte, 64<<10)
	if n.wait > 0 {
		pc.SetReadDeadline(time.Now().Add(n.wait))
	}
	m, peer, err := pc.ReadFrom(buf)
	if err != nil {
		return n.c.errorf("recv: %s", ncReason(err))
	}
	if _, err := n.c.out.Write(buf[:m]); err != nil {
		return exitFailure
	}
	return n.relay(&packetPeer{PacketConn: pc, peer: peer})
}

// packetPeer is a packet socket seen as a connection with one peer.
type packetPeer struct {
	net.PacketConn
	peer net.Addr
}

func (p *packetPeer) Read(b []byte) (int, error) {
	for {
		n, from, err := p.ReadFrom(b)
		if err != nil || from.String() == p.peer.String() {
			return n, err
		}
	}
}

func (p *packetPeer) Write(b []byte) (int, error) { return p.WriteTo(b, p.peer) }
func (p *packetPeer) RemoteAddr() net.Addr        { return p.peer }

// relay copies both ways. The end of our input closes the sending half; the end
// of the connection ends nc, also when input is still open.
func (n *netcat) relay(conn net.Conn) int {
	stop := context.AfterFunc(n.c.ctx, func() { conn.Close() })
	defer stop()
	var once sync.Once
	if !n.o.has('d') {
		go func() {
			_, _ = io.Copy(&idleConn{conn, n.wait}, n.c.in) // the other direction notices a lost peer
			once.Do(func() {
				if h, ok := conn.(interface{ CloseWrite() error }); ok {
					_ = h.CloseWrite() // likewise
				}
				if text, ok := n.o.get('q'); ok {
					if d, ok := parseSleep(text); ok && n.c.pause(d) {
						conn.Close()
					}
				}
			})
		}()
	}
	_, err := copyBuffer(n.c.ctx, n.c.out, &idleConn{conn, n.wait})
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) && n.c.out.err == nil && n.c.ctx.Err() == nil {
		n.c.errorf("%s", ncReason(err))
		return exitFailure
	}
	return exitOK
}

// idleConn gives up when nothing moves for a time.
type idleConn struct {
	net.Conn
	wait time.Duration
}

func (c *idleConn) Read(p []byte) (int, error) {
	if c.wait > 0 {
		c.SetReadDeadline(time.Now().Add(c.wait))
	}
	return c.Conn.Read(p)
}

func (c *idleConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err == nil && c.wait > 0 {
		c.SetReadDeadline(time.Now().Add(c.wait))
	}
	return n, err
}

// runNslookup asks the resolver for a name's or an address's records.
func runNslookup(c *call) int {
	_, args, ok := c.parse("", nil)
	if !ok {
		return exitFailure
	}
	if len(args) == 0 || len(args) > 2 {
		return c.usageError("a name is needed")
	}
	r := &net.Resolver{PreferGo: true}
	if len(args) == 2 {
		server := args[1]
		if _, _, err := net.SplitHostPort(server); err != nil {
			server = net.JoinHostPort(server, "53")
		}
		r.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, server)
		}
	}
	ctx, cancel := context.WithTimeout(c.ctx, 15*time.Second)
	defer cancel()
	if a, err := netip.ParseAddr(args[0]); err == nil {
		names, err := r.LookupAddr(ctx, a.String())
		if err != nil {
			return c.errorf("can't resolve '%s'", args[0])
		}
		for _, name := range names {
			c.printf("%s\tname = %s\n", a, strings.TrimSuffix(name, "."))
		}
		return exitOK
	}
	list, err := r.LookupNetIP(ctx, "ip", args[0])
	if err != nil {
		return c.errorf("can't resolve '%s'", args[0])
	}
	for _, a := range list {
		c.printf("Name:\t%s\nAddress: %s\n", args[0], a.Unmap())
	}
	return exitOK
}
