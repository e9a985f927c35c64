package usernet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/mvmctl/mvmctl/internal/proxy"
)

// Limits of one machine.
const (
	maxSYN      = 512 // connections that are being opened
	maxQuestion = 64  // questions to the resolver at a time
	idleDNS     = 30 * time.Second
	dnsPort     = 53
	nic         = 1
)

// Carrier carries what a guest sends through its gateway: a proxy.Proxy.
type Carrier interface {
	TCP(ctx context.Context, in proxy.Incoming)
	UDP(ctx context.Context, dst netip.AddrPort) (carry func(guest net.Conn)) // to be called once, with nil when there is nothing to carry
	Answer(ctx context.Context, query []byte, stream bool) []byte
}

// Options configure a Network.
type Options struct {
	MTU        int              // of packets, at most MaxMTU
	GatewayMAC net.HardwareAddr // this process's
	GuestMAC   net.HardwareAddr
	Gateways   []netip.Prefix // this process's addresses, with the segment's size
	Guests     []netip.Addr   // the guest's addresses
	Carrier    Carrier
}

// Network is one machine's segment. It is safe for concurrent use.
type Network struct {
	o     Options
	stack *stack.Stack
	link  *link
	err   chan error

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	asking chan struct{}
}

// New returns a network whose guest is behind port. It owns the port, and works until Close.
func New(port Port, o Options) (*Network, error) {
	n := &Network{o: o, err: make(chan error, 1), asking: make(chan struct{}, maxQuestion)}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.link = &link{port: port, mac: tcpip.LinkAddress(o.GatewayMAC), mtu: uint32(o.MTU), done: make(chan struct{})} //nolint:gosec // at most MaxMTU
	n.stack = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocol, arp.NewProtocol,
			ipv6.NewProtocolWithOptions(ipv6.Options{NDPConfigs: ipv6.NDPConfigurations{HandleRAs: ipv6.HandlingRAsDisabled}}),
		},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	if err := n.configure(); err != nil {
		n.cancel()
		n.stack.Destroy()
		_ = port.Close()
		return nil, err
	}
	check := &filter{mac: [6]byte(o.GuestMAC), gateway: [6]byte(o.GatewayMAC), addrs: o.Guests}
	for _, g := range o.Gateways {
		check.routers = append(check.routers, g.Addr())
	}
	n.wg.Go(func() { n.err <- n.link.receive(check) })
	return n, nil
}

func (n *Network) configure() error {
	s := n.stack
	if terr := s.CreateNIC(nic, n.link); terr != nil {
		return fmt.Errorf("making the network: %s", terr)
	}
	for _, g := range n.o.Gateways {
		addr := tcpip.ProtocolAddress{Protocol: protocolOf(g.Addr()), AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(g.Addr().AsSlice()), PrefixLen: g.Bits()}}
		if terr := s.AddProtocolAddress(nic, addr, stack.AddressProperties{}); terr != nil {
			return fmt.Errorf("making the network: %s", terr)
		}
	}
	// The gateway answers for every address: it is where all connections end.
	for _, terr := range []tcpip.Error{s.SetPromiscuousMode(nic, true), s.SetSpoofing(nic, true)} {
		if terr != nil {
			return fmt.Errorf("making the network: %s", terr)
		}
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}, {Destination: header.IPv6EmptySubnet, NIC: nic}})
	sack := tcpip.TCPSACKEnabled(true)
	_ = s.SetTransportProtocolOption(tcp.ProtocolNumber, &sack)
	for _, buffers := range []tcpip.SettableTransportProtocolOption{
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: 1 << 20, Max: 4 << 20},
		&tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: 1 << 20, Max: 4 << 20},
	} {
		_ = s.SetTransportProtocolOption(tcp.ProtocolNumber, buffers)
	}
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(s, 0, maxSYN, n.connection).HandlePacket)
	s.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(s, n.datagram).HandlePacket)
	return n.resolver()
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func addrOf(a tcpip.Address) netip.Addr {
	out, _ := netip.AddrFromSlice(a.AsSlice())
	return out.Unmap()
}

func (n *Network) isGateway(a netip.Addr) bool {
	for _, g := range n.o.Gateways {
		if g.Addr() == a {
			return true
		}
	}
	return false
}

// connection is called, in a goroutine of its own, for each connection that the guest opens.
func (n *Network) connection(r *tcp.ForwarderRequest) {
	id := r.ID()
	dst := netip.AddrPortFrom(addrOf(id.LocalAddress), id.LocalPort)
	if n.isGateway(dst.Addr()) { // nothing listens there but the resolver
		r.Complete(true)
		return
	}
	n.o.Carrier.TCP(n.ctx, proxy.Incoming{
		Dst: dst,
		Accept: func() (net.Conn, error) {
			var queue waiter.Queue
			ep, terr := r.CreateEndpoint(&queue)
			r.Complete(terr != nil)
			if terr != nil {
				return nil, fmt.Errorf("accepting: %s", terr)
			}
			return gonet.NewTCPConn(&queue, ep), nil
		},
		Refuse: func() { r.Complete(true) },
	})
}

// datagram is called for the first datagram of a flow. False has the guest told that nobody is there.
func (n *Network) datagram(r *udp.ForwarderRequest) bool {
	id := r.ID()
	dst := netip.AddrPortFrom(addrOf(id.LocalAddress), id.LocalPort)
	if n.isGateway(dst.Addr()) {
		return false
	}
	carry := n.o.Carrier.UDP(n.ctx, dst)
	if carry == nil {
		return false
	}
	var queue waiter.Queue
	ep, terr := r.CreateEndpoint(&queue)
	if terr != nil {
		carry(nil)
		return false
	}
	n.wg.Go(func() { carry(gonet.NewUDPConn(&queue, ep)) })
	return true
}

// resolver serves the gateway's addresses.
func (n *Network) resolver() error {
	for _, g := range n.o.Gateways {
		at := tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFromSlice(g.Addr().AsSlice()), Port: dnsPort}
		u, err := gonet.DialUDP(n.stack, &at, nil, protocolOf(g.Addr()))
		if err != nil {
			return fmt.Errorf("making the network's resolver: %w", err)
		}
		l, err := gonet.ListenTCP(n.stack, at, protocolOf(g.Addr()))
		if err != nil {
			return fmt.Errorf("making the network's resolver: %w", err)
		}
		context.AfterFunc(n.ctx, func() { _ = u.Close(); l.Shutdown() })
		n.wg.Go(func() { n.resolve(u) })
		n.wg.Go(func() { n.resolveStreams(l) })
	}
	return nil
}

func (n *Network) resolve(u *gonet.UDPConn) {
	buf := make([]byte, 64<<10)
	for {
		size, from, err := u.ReadFrom(buf)
		if err != nil {
			return
		}
		query := append([]byte(nil), buf[:size]...)
		select {
		case n.asking <- struct{}{}:
		default: // as if it was lost: it is asked again
			continue
		}
		n.wg.Go(func() {
			defer func() { <-n.asking }()
			if answer := n.o.Carrier.Answer(n.ctx, query, false); answer != nil {
				_, _ = u.WriteTo(answer, from)
			}
		})
	}
}

func (n *Network) resolveStreams(l *gonet.TCPListener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		select {
		case n.asking <- struct{}{}:
		default:
			_ = c.Close()
			continue
		}
		n.wg.Go(func() {
			defer func() { _ = c.Close(); <-n.asking }()
			stop := context.AfterFunc(n.ctx, func() { _ = c.Close() })
			defer stop()
			for {
				_ = c.SetDeadline(time.Now().Add(idleDNS))
				query, err := proxy.ReadMessage(c, 4<<10)
				if err != nil {
					return
				}
				answer := n.o.Carrier.Answer(n.ctx, query, true)
				if answer == nil || proxy.WriteMessage(c, answer) != nil {
					return
				}
			}
		})
	}
}

// Dial connects to a port of the guest, from the gateway.
func (n *Network) Dial(ctx context.Context, proto string, dst netip.AddrPort) (net.Conn, error) {
	to := tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFromSlice(dst.Addr().AsSlice()), Port: dst.Port()}
	switch proto {
	case "tcp":
		return gonet.DialContextTCP(ctx, n.stack, to, protocolOf(dst.Addr()))
	case "udp":
		return gonet.DialUDP(n.stack, nil, &to, protocolOf(dst.Addr()))
	}
	return nil, errors.New("unknown protocol " + proto)
}

// Wait returns when the port has ended, with its error.
func (n *Network) Wait() error {
	err := <-n.err
	n.err <- err
	return err
}

// Close ends all flows and the port, and returns when nothing works any more.
func (n *Network) Close() {
	n.cancel()
	_ = n.link.port.Close()
	n.stack.Destroy()
	n.wg.Wait()
}
