package usernet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/mvmctl/mvmctl/internal/proxy"
)

// echo carries everything to itself: what is sent comes back. It refuses port 1.
type echo struct {
	mu   sync.Mutex
	seen []string
}

func (e *echo) note(s string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = append(e.seen, s)
}

func (e *echo) TCP(_ context.Context, in proxy.Incoming) {
	e.note("tcp " + in.Dst.String())
	if in.Dst.Port() == 1 {
		in.Refuse()
		return
	}
	c, err := in.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = io.Copy(c, c)
	_ = c.(*gonet.TCPConn).CloseWrite()
}

func (e *echo) UDP(_ context.Context, dst netip.AddrPort) func(net.Conn) {
	e.note("udp " + dst.String())
	if dst.Port() == 1 {
		return nil
	}
	return func(c net.Conn) {
		if c == nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			_, _ = c.Write(buf[:n])
			if string(buf[:n]) == "bye" {
				return
			}
		}
	}
}

func (e *echo) Answer(_ context.Context, query []byte, stream bool) []byte {
	if stream {
		return append([]byte("stream "), query...)
	}
	return append([]byte("datagram "), query...)
}

// anything passes.
type anything struct{}

func (anything) passes([]byte) bool { return true }

// guest is the other end of a segment: a stack of its own.
type guest struct {
	*stack.Stack
	link *link
}

var (
	guestMAC, gatewayMAC = net.HardwareAddr{2, 0, 0, 0, 0, 2}, net.HardwareAddr{2, 0, 0, 0, 0, 1}
	guest4, guest6       = netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("fd09::2")
)

func newSegment(t testing.TB, carrier Carrier) (*Network, *guest) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ports [2]Port
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "segment")
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		ports[i] = Stream(c)
	}
	n, err := New(ports[0], Options{
		MTU: MaxMTU, GatewayMAC: gatewayMAC, GuestMAC: guestMAC, Guests: []netip.Addr{guest4, guest6}, Carrier: carrier,
		Gateways: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24"), netip.MustParsePrefix("fd09::1/64")},
	})
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{
		Stack: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
		}),
		link: &link{port: ports[1], mac: tcpip.LinkAddress(guestMAC), mtu: MaxMTU, done: make(chan struct{})},
	}
	if terr := g.CreateNIC(1, g.link); terr != nil {
		t.Fatal(terr)
	}
	for _, p := range []string{"10.9.0.2/24", "fd09::2/64", "10.9.0.77/24"} { // the last is not given to it
		p := netip.MustParsePrefix(p)
		if terr := g.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: protocolOf(p.Addr()), AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(p.Addr().AsSlice()), PrefixLen: p.Bits()}}, stack.AddressProperties{}); terr != nil {
			t.Fatal(terr)
		}
	}
	via := func(a string) tcpip.Address { return tcpip.AddrFromSlice(netip.MustParseAddr(a).AsSlice()) }
	g.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1, Gateway: via("10.9.0.1")}, {Destination: header.IPv6EmptySubnet, NIC: 1, Gateway: via("fd09::1")}})
	go func() { // the guest takes whatever comes
		_ = g.link.receive(anything{})
	}()
	t.Cleanup(func() {
		n.Close()
		g.Destroy()
		<-g.link.done
	})
	return n, g
}

func (g *guest) dial(t testing.TB, to string) (net.Conn, error) {
	t.Helper()
	ap := netip.MustParseAddrPort(to)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := gonet.DialContextTCP(ctx, g.Stack, fullOf(ap), protocolOf(ap.Addr()))
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { _ = c.Close() })
	return c, nil
}

func fullOf(ap netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: 1, Addr: tcpip.AddrFromSlice(ap.Addr().AsSlice()), Port: ap.Port()}
}

func TestConnections(t *testing.T) {
	t.Parallel()
	e := &echo{}
	_, g := newSegment(t, e)
	for _, to := range []string{"7.7.7.7:80", "[2001:db8::7]:443"} {
		c, err := g.dial(t, to)
		if err != nil {
			t.Fatalf("%s: %v", to, err)
		}
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		go func() { _, _ = c.Write(data); _ = c.(*gonet.TCPConn).CloseWrite() }()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes back, %v", to, len(got), err)
		}
	}
	for _, to := range []string{"7.7.7.7:1", "10.9.0.1:22", "[fd09::1]:22"} {
		begun := time.Now()
		if _, err := g.dial(t, to); err == nil || time.Since(begun) > 2*time.Second {
			t.Errorf("%s: %v after %v", to, err, time.Since(begun))
		}
	}
}

func TestDatagrams(t *testing.T) {
	t.Parallel()
	e := &echo{}
	n, g := newSegment(t, e)
	for _, to := range []string{"7.7.7.7:123", "[2001:db8::7]:123"} {
		ap := netip.MustParseAddrPort(to)
		remote := fullOf(ap)
		c, err := gonet.DialUDP(g.Stack, nil, &remote, protocolOf(ap.Addr()))
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		for _, text := range []string{"one", string(make([]byte, 20_000)), "bye"} {
			_, _ = c.Write([]byte(text))
			buf := make([]byte, 64<<10)
			if size, err := c.Read(buf); err != nil || string(buf[:size]) != text {
				t.Errorf("%s: %d bytes, %v", to, size, err)
			}
		}
		_ = c.Close()
	}
	remote := fullOf(netip.MustParseAddrPort("7.7.7.7:1"))
	c, err := gonet.DialUDP(g.Stack, nil, &remote, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write([]byte("x"))
	unreachable := g.Stats().ICMP.V4.PacketsReceived.DstUnreachable
	for end := time.Now().Add(5 * time.Second); unreachable.Value() == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if unreachable.Value() != 1 {
		t.Error("denied datagrams: nobody said that the port is unreachable")
	}
	// From outside to the guest.
	at := fullOf(netip.AddrPortFrom(guest4, 9))
	l, err := gonet.ListenTCP(g.Stack, at, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.WriteString(c, "hello")
			_ = c.Close()
		}
	}()
	in, err := n.Dial(t.Context(), "tcp", netip.AddrPortFrom(guest4, 9))
	if err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(in); string(data) != "hello" {
		t.Errorf("from the guest: %q, %v", data, err)
	}
}

func TestResolver(t *testing.T) {
	t.Parallel()
	_, g := newSegment(t, &echo{})
	q := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("a."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	query, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	remote := fullOf(netip.MustParseAddrPort("10.9.0.1:53"))
	u, err := gonet.DialUDP(g.Stack, nil, &remote, ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	_ = u.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = u.Write(query)
	buf := make([]byte, 4096)
	if n, err := u.Read(buf); err != nil || string(buf[:n]) != "datagram "+string(query) {
		t.Errorf("%q, %v", buf[:n], err)
	}
	c, err := g.dial(t, "[fd09::1]:53")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := proxy.WriteMessage(c, query); err != nil {
			t.Fatal(err)
		}
		if got, err := proxy.ReadMessage(c, 4096); err != nil || string(got) != "stream "+string(query) {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// A guest with an address that is not its own gets nowhere.
func TestForeignAddress(t *testing.T) {
	t.Parallel()
	e := &echo{}
	_, g := newSegment(t, e)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := gonet.DialTCPWithBind(ctx, g.Stack, fullOf(netip.MustParseAddrPort("10.9.0.77:1000")), fullOf(netip.MustParseAddrPort("7.7.7.7:80")), ipv4.ProtocolNumber)
	if !errors.Is(err, context.DeadlineExceeded) || len(e.seen) > 0 {
		t.Errorf("%v, carried: %q", err, e.seen)
	}
}
