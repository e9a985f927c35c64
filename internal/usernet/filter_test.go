package usernet

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
)

func testFilter() *filter {
	return &filter{
		mac: [6]byte(guestMAC), gateway: [6]byte(gatewayMAC), addrs: []netip.Addr{guest4, guest6},
		routers: []netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")},
	}
}

func frame(dst, src []byte, kind uint16, payload []byte) []byte {
	out := slices.Concat(dst, src, binary.BigEndian.AppendUint16(nil, kind))
	return append(out, payload...)
}

func packet4(src, dst string, proto byte, payload ...byte) []byte {
	p := make([]byte, 20)
	p[0], p[8], p[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(p[2:], uint16(20+len(payload)))
	copy(p[12:], netip.MustParseAddr(src).AsSlice())
	copy(p[16:], netip.MustParseAddr(dst).AsSlice())
	return append(p, payload...)
}

func packet6(src, dst string, next byte, payload ...byte) []byte {
	p := make([]byte, 40)
	p[0], p[6], p[7] = 0x60, next, 64
	copy(p[8:], netip.MustParseAddr(src).AsSlice())
	copy(p[24:], netip.MustParseAddr(dst).AsSlice())
	return append(p, payload...)
}

func arpPacket(mac []byte, ip string) []byte {
	p := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	p = append(p, mac...)
	p = append(p, netip.MustParseAddr(ip).AsSlice()...)
	return append(p, make([]byte, 10)...)
}

func TestFilter(t *testing.T) {
	t.Parallel()
	all := []byte{255, 255, 255, 255, 255, 255}
	group := []byte{0x33, 0x33, 0, 0, 0, 1}
	other := []byte{2, 0, 0, 0, 0, 9}
	with := func(p []byte, at int, b byte) []byte { p = slices.Clone(p); p[at] = b; return p }
	tcp4 := packet4("10.9.0.2", "7.7.7.7", protoTCP, make([]byte, 20)...)
	tcp6 := packet6("fd09::2", "2001:db8::1", protoTCP, make([]byte, 20)...)
	for what, tt := range map[string]struct {
		frame []byte
		want  bool
	}{
		"TCP":                   {frame(gatewayMAC, guestMAC, etherIPv4, tcp4), true},
		"TCP over IPv6":         {frame(gatewayMAC, guestMAC, etherIPv6, tcp6), true},
		"UDP":                   {frame(gatewayMAC, guestMAC, etherIPv4, packet4("10.9.0.2", "7.7.7.7", protoUDP, make([]byte, 8)...)), true},
		"a fragment":            {frame(gatewayMAC, guestMAC, etherIPv4, with(tcp4, 7, 1)), true}, // it is put together before anybody decides
		"another MAC":           {frame(gatewayMAC, other, etherIPv4, tcp4), false},
		"to another MAC":        {frame(other, guestMAC, etherIPv4, tcp4), false},
		"another address":       {frame(gatewayMAC, guestMAC, etherIPv4, packet4("10.9.0.3", "7.7.7.7", protoTCP, make([]byte, 20)...)), false},
		"another address, IPv6": {frame(gatewayMAC, guestMAC, etherIPv6, packet6("fd09::3", "2001:db8::1", protoTCP, make([]byte, 20)...)), false},
		"link-local TCP":        {frame(gatewayMAC, guestMAC, etherIPv6, packet6("fe80::3", "2001:db8::1", protoTCP, make([]byte, 20)...)), false},
		"IP options":            {frame(gatewayMAC, guestMAC, etherIPv4, with(tcp4, 0, 0x46)), false},
		"extension header":      {frame(gatewayMAC, guestMAC, etherIPv6, with(tcp6, 6, 0)), false},
		"GRE":                   {frame(gatewayMAC, guestMAC, etherIPv4, with(tcp4, 9, 47)), false},
		"SCTP":                  {frame(gatewayMAC, guestMAC, etherIPv4, with(tcp4, 9, 132)), false},
		"broadcast":             {frame(all, guestMAC, etherIPv4, packet4("10.9.0.2", "255.255.255.255", protoUDP, make([]byte, 8)...)), false},
		"multicast":             {frame([]byte{1, 0, 0x5e, 0, 0, 251}, guestMAC, etherIPv4, packet4("10.9.0.2", "224.0.0.251", protoUDP, make([]byte, 8)...)), false},
		"ping the gateway":      {frame(gatewayMAC, guestMAC, etherIPv4, packet4("10.9.0.2", "10.9.0.1", protoICMP, 8, 0, 0, 0)), true},
		"ping the world":        {frame(gatewayMAC, guestMAC, etherIPv4, packet4("10.9.0.2", "7.7.7.7", protoICMP, 8, 0, 0, 0)), false},
		"ping the world, IPv6":  {frame(gatewayMAC, guestMAC, etherIPv6, packet6("fd09::2", "2001:db8::1", protoICMPv6, 128, 0, 0, 0)), false},
		"router advertisement":  {frame(group, guestMAC, etherIPv6, packet6("fe80::2", "ff02::1", protoICMPv6, 134, 0, 0, 0)), false},
		"redirect":              {frame(gatewayMAC, guestMAC, etherIPv6, packet6("fe80::2", "fd09::1", protoICMPv6, 137, 0, 0, 0)), false},
		"who has":               {frame(group, guestMAC, etherIPv6, packet6("fd09::2", "ff02::1:ff00:1", protoICMPv6, 135, 0, 0, 0)), true},
		"ARP":                   {frame(all, guestMAC, etherARP, arpPacket(guestMAC, "10.9.0.2")), true},
		"ARP probe":             {frame(all, guestMAC, etherARP, arpPacket(guestMAC, "0.0.0.0")), true},
		"ARP for the gateway":   {frame(all, guestMAC, etherARP, arpPacket(guestMAC, "10.9.0.1")), false},
		"ARP of another MAC":    {frame(all, guestMAC, etherARP, arpPacket(other, "10.9.0.2")), false},
		"VLAN":                  {frame(gatewayMAC, guestMAC, 0x8100, append([]byte{0, 1, 8, 0}, tcp4...)), false},
		"an IPv4 in IPv6's":     {frame(gatewayMAC, guestMAC, etherIPv6, tcp4), false},
		"nothing":               {nil, false},
		"cut":                   {frame(gatewayMAC, guestMAC, etherIPv4, tcp4)[:30], false},
	} {
		if got := testFilter().passes(tt.frame); got != tt.want {
			t.Errorf("%s: %v, want %v", what, got, tt.want)
		}
	}
}

// FuzzFilter: whatever a guest sends is taken or not, and what is taken is from its own addresses.
func FuzzFilter(f *testing.F) {
	f.Add(frame(gatewayMAC, guestMAC, etherIPv4, packet4("10.9.0.2", "7.7.7.7", protoTCP, make([]byte, 20)...)))
	f.Add(frame(gatewayMAC, guestMAC, etherIPv6, packet6("fd09::2", "2001:db8::1", protoICMPv6, 135)))
	f.Add(frame(gatewayMAC, guestMAC, etherARP, arpPacket(guestMAC, "10.9.0.2")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if testFilter().passes(b) && [6]byte(b[6:12]) != [6]byte(guestMAC) {
			t.Errorf("%x", b)
		}
	})
}
