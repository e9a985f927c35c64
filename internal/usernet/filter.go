package usernet

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// filter holds a guest to its own addresses, and to the protocols that are carried: ARP, and over IPv4
// and IPv6 TCP, UDP and ICMP.
type filter struct {
	mac     [6]byte
	gateway [6]byte
	addrs   []netip.Addr // the guest's
	routers []netip.Addr // the gateway's
}

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58

	echoRequest  = 8
	echoRequest6 = 128
	routerAdvert = 134
	redirect6    = 137
)

// passes reports whether a frame of the guest's is taken.
func (f *filter) passes(frame []byte) bool {
	if len(frame) < headerSize || [6]byte(frame[6:12]) != f.mac {
		return false
	}
	multicast := frame[0]&1 != 0
	if !multicast && [6]byte(frame[:6]) != f.gateway {
		return false
	}
	p := frame[headerSize:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherARP:
		return f.arp(p)
	case etherIPv4:
		return !multicast && f.ipv4(p)
	case etherIPv6:
		return f.ipv6(p)
	}
	return false
}

// arp takes a packet (RFC 826) that speaks of the guest's own addresses.
func (f *filter) arp(p []byte) bool {
	if len(p) < 28 || binary.BigEndian.Uint16(p) != 1 || binary.BigEndian.Uint16(p[2:]) != etherIPv4 || p[4] != 6 || p[5] != 4 {
		return false
	}
	sender := netip.AddrFrom4([4]byte(p[14:18]))
	return [6]byte(p[8:14]) == f.mac && (f.owns(sender) || sender == netip.IPv4Unspecified()) // a probe (RFC 5227)
}

func (f *filter) ipv4(p []byte) bool {
	if len(p) < 20 || p[0] != 0x45 { // no options
		return false
	}
	src, dst := netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
	if !f.owns(src) || dst.IsMulticast() || dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return false
	}
	if fragment := binary.BigEndian.Uint16(p[6:]) & 0x3fff; p[9] == protoICMP {
		return fragment == 0 && len(p) > 20 && (p[20] != echoRequest || f.isRouter(dst))
	}
	return p[9] == protoTCP || p[9] == protoUDP
}

func (f *filter) ipv6(p []byte) bool {
	if len(p) < 40 || p[0]>>4 != 6 {
		return false
	}
	src, dst := netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
	if p[6] == protoICMPv6 {
		if len(p) < 41 || !f.owns(src) && !src.IsLinkLocalUnicast() && src != netip.IPv6Unspecified() {
			return false
		}
		switch kind := p[40]; kind {
		case echoRequest6:
			return f.isRouter(dst)
		case routerAdvert, redirect6:
			return false
		}
		return true // neighbours are found with it
	}
	// No extension headers: what they hide would have to be looked for.
	return f.owns(src) && !dst.IsMulticast() && (p[6] == protoTCP || p[6] == protoUDP)
}

func (f *filter) owns(a netip.Addr) bool     { return slices.Contains(f.addrs, a) }
func (f *filter) isRouter(a netip.Addr) bool { return slices.Contains(f.routers, a) }
