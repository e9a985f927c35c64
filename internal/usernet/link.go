package usernet

import (
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// link is the stack's end of the segment.
type link struct {
	port Port
	mac  tcpip.LinkAddress
	mtu  uint32

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher
	done       chan struct{} // closed when receive has returned
}

var _ stack.LinkEndpoint = (*link)(nil)

func (l *link) MTU() uint32                             { return l.mtu }
func (l *link) SetMTU(uint32)                           {}
func (l *link) MaxHeaderLength() uint16                 { return header.EthernetMinimumSize }
func (l *link) LinkAddress() tcpip.LinkAddress          { return l.mac }
func (l *link) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (l *link) Close()                                  { _ = l.port.Close() }
func (l *link) SetOnCloseAction(func())                 {}
func (l *link) Wait()                                   { <-l.done }

// Capabilities: what arrives has come through memory, so its checksums are not computed again.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload | stack.CapabilityResolutionRequired
}

func (l *link) Attach(d stack.NetworkDispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatcher = d
}

func (l *link) IsAttached() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.dispatcher != nil
}

func (l *link) AddHeader(pkt *stack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: l.mac, DstAddr: pkt.EgressRoute.RemoteLinkAddress, Type: pkt.NetworkProtocolNumber,
	})
}

func (l *link) ParseHeader(pkt *stack.PacketBuffer) bool {
	_, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize)
	return ok
}

func (l *link) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	pkts := list.AsSlice()
	frames := make([][][]byte, len(pkts))
	for i, pkt := range pkts {
		frames[i] = pkt.AsSlices()
	}
	if err := l.port.WriteFrames(frames); err != nil {
		return 0, &tcpip.ErrClosedForSend{}
	}
	return len(pkts), nil
}

// receive takes the guest's frames until the port ends.
func (l *link) receive(check interface{ passes(frame []byte) bool }) error {
	defer close(l.done)
	buf := make([]byte, headerSize+MaxMTU)
	for {
		n, err := l.port.ReadFrame(buf)
		if err != nil {
			return err
		}
		if n > headerSize+int(l.mtu) || !check.passes(buf[:n]) {
			continue
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(buf[:n])})
		eth, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize)
		l.mu.RLock()
		d := l.dispatcher
		l.mu.RUnlock()
		if ok && d != nil {
			d.DeliverNetworkPacket(header.Ethernet(eth).Type(), pkt)
		}
		pkt.DecRef()
	}
}
