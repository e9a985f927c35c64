package userland

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// isShow reports whether the rest of the line only shows.
func (ip *ipCommand) isShow() bool {
	if len(ip.args) == 0 {
		return true
	}
	word := ip.args[0]
	return isPrefixOf(word, "show", 1) && word != "set" || isPrefixOf(word, "list", 1) || word == "lst" || word == "ls" || word == "dev" || word == "up"
}

func (ip *ipCommand) address() error {
	if ip.isShow() {
		return ip.showAddresses()
	}
	switch verb := ip.next(); {
	case isPrefixOf(verb, "add", 1):
		return ip.changeAddress(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	case verb == "replace" || isPrefixOf(verb, "change", 2):
		return ip.changeAddress(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	case isPrefixOf(verb, "delete", 1):
		return ip.changeAddress(unix.RTM_DELADDR, 0)
	case isPrefixOf(verb, "flush", 1):
		return ip.flushAddresses()
	default:
		return fmt.Errorf("Command \"%s\" is unknown, try \"ip address help\".", verb) //nolint:staticcheck // iproute2's words
	}
}

// parsePrefix reads ADDRESS[/LENGTH].
func parsePrefix(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil && p.Addr().Zone() == "" {
		return p, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("any valid prefix is expected rather than \"%s\".", s) //nolint:staticcheck // iproute2's words
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func familyOf(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// lastAddress is the broadcast address of a prefix.
func lastAddress(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func (ip *ipCommand) changeAddress(kind, flags uint16) error {
	var prefix netip.Prefix
	var device, label, broadcast, peer, scope string
	nodad := false
	for len(ip.args) > 0 {
		word := ip.next()
		var err error
		switch word {
		case "dev":
			device, err = ip.value(word)
		case "label":
			label, err = ip.value(word)
		case "brd", "broadcast":
			broadcast, err = ip.value(word)
		case "peer", "remote":
			peer, err = ip.value(word)
		case "scope":
			scope, err = ip.value(word)
		case "nodad":
			nodad = true
		case "noprefixroute", "permanent":
		case "local":
			word, err = ip.value(word)
			fallthrough
		default:
			if err == nil {
				prefix, err = parsePrefix(word)
			}
		}
		if err != nil {
			return err
		}
	}
	if !prefix.IsValid() || device == "" {
		return fmt.Errorf("an address and \"dev\" are needed")
	}
	l, err := linkByName(device)
	if err != nil {
		return err
	}
	head := unix.IfAddrmsg{Family: familyOf(prefix.Addr()), Prefixlen: uint8(prefix.Bits()), Index: l.index}
	switch {
	case scope == "host", scope == "" && prefix.Addr().IsLoopback() && prefix.Addr().Is4():
		head.Scope = unix.RT_SCOPE_HOST
	case scope == "link":
		head.Scope = unix.RT_SCOPE_LINK
	}
	if nodad {
		head.Flags = unix.IFA_F_NODAD
	}
	r := &nlRequest{kind: kind}
	remote := prefix.Addr()
	if peer != "" {
		p, err := parsePrefix(peer)
		if err != nil {
			return err
		}
		remote, head.Prefixlen = p.Addr(), uint8(p.Bits())
	}
	put(r, head)
	r.attr(unix.IFA_LOCAL, prefix.Addr().AsSlice())
	r.attr(unix.IFA_ADDRESS, remote.AsSlice())
	if label != "" {
		r.attr(unix.IFA_LABEL, append([]byte(label), 0))
	}
	switch broadcast {
	case "":
	case "+":
		r.attr(unix.IFA_BROADCAST, lastAddress(prefix).AsSlice())
	default:
		a, err := netip.ParseAddr(broadcast)
		if err != nil {
			return err
		}
		r.attr(unix.IFA_BROADCAST, a.AsSlice())
	}
	return r.change(flags)
}

func (ip *ipCommand) flushAddresses() error {
	device, _, err := ip.showFilter()
	if err != nil {
		return err
	}
	if device == "" {
		return fmt.Errorf("flush requires arguments")
	}
	l, err := linkByName(device)
	if err != nil {
		return err
	}
	addrs, err := addresses(ip.family)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if a.index != l.index {
			continue
		}
		r := &nlRequest{kind: unix.RTM_DELADDR}
		put(r, unix.IfAddrmsg{Family: a.family, Prefixlen: a.prefix, Index: a.index})
		own := a.obj.attrs[unix.IFA_LOCAL]
		if own == nil {
			own = a.obj.attrs[unix.IFA_ADDRESS]
		}
		r.attr(unix.IFA_LOCAL, own)
		if err := r.change(0); err != nil {
			return err
		}
	}
	return nil
}

func (ip *ipCommand) route() error {
	if ip.isShow() {
		return ip.showRoutes()
	}
	switch verb := ip.next(); {
	case isPrefixOf(verb, "add", 1):
		return ip.changeRoute(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	case verb == "append":
		return ip.changeRoute(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_APPEND)
	case isPrefixOf(verb, "replace", 1), isPrefixOf(verb, "change", 1):
		return ip.changeRoute(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	case isPrefixOf(verb, "delete", 1):
		return ip.changeRoute(unix.RTM_DELROUTE, 0)
	case verb == "get":
		return ip.getRoute()
	default:
		return fmt.Errorf("Command \"%s\" is unknown, try \"ip route help\".", verb) //nolint:staticcheck // iproute2's words
	}
}

// routeRequest is a route as it is given on the command line.
type routeRequest struct {
	head               unix.RtMsg
	dest               netip.Prefix
	isDefault          bool
	via, src           netip.Addr
	metric, index, mtu uint32
}

// word reads one word of a route and the value after it.
func (q *routeRequest) word(ip *ipCommand, word string) error {
	switch word {
	case "default":
		q.isDefault = true
		return nil
	case "blackhole", "unreachable", "prohibit":
		q.head.Type = map[string]uint8{"blackhole": unix.RTN_BLACKHOLE, "unreachable": unix.RTN_UNREACHABLE, "prohibit": unix.RTN_PROHIBIT}[word]
		return nil
	case "onlink":
		q.head.Flags |= unix.RTNH_F_ONLINK
		return nil
	case "via", "dev", "src", "metric", "scope", "proto", "table", "mtu":
		text, err := ip.value(word)
		if err == nil && (text == "inet" || text == "inet6") {
			text, err = ip.value(word)
		}
		if err != nil {
			return err
		}
		return q.set(word, text)
	}
	var err error
	q.dest, err = parsePrefix(word)
	return err
}

func (q *routeRequest) set(word, text string) (err error) {
	switch word {
	case "via":
		q.via, err = netip.ParseAddr(text)
	case "src":
		q.src, err = netip.ParseAddr(text)
	case "dev":
		var l ipLink
		l, err = linkByName(text)
		q.index = l.index
	case "metric":
		q.metric, err = parse32(text)
	case "mtu":
		q.mtu, err = parse32(text)
	case "scope":
		scope, ok := map[string]uint8{"link": unix.RT_SCOPE_LINK, "host": unix.RT_SCOPE_HOST, "global": unix.RT_SCOPE_UNIVERSE}[text]
		if q.head.Scope = scope; !ok {
			err = fmt.Errorf("invalid \"scope\" value \"%s\"", text)
		}
	case "proto":
		proto, ok := map[string]uint8{"kernel": unix.RTPROT_KERNEL, "static": unix.RTPROT_STATIC, "dhcp": unix.RTPROT_DHCP, "boot": unix.RTPROT_BOOT}[text]
		if q.head.Protocol = proto; !ok {
			err = fmt.Errorf("invalid \"proto\" value \"%s\"", text)
		}
	case "table":
		if text != "main" {
			err = fmt.Errorf("table \"%s\" is not supported", text)
		}
	}
	return err
}

func (ip *ipCommand) changeRoute(kind, flags uint16) error {
	q := &routeRequest{head: unix.RtMsg{Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_BOOT, Scope: unix.RT_SCOPE_UNIVERSE, Type: unix.RTN_UNICAST}}
	if kind == unix.RTM_DELROUTE {
		q.head.Protocol, q.head.Scope = 0, unix.RT_SCOPE_NOWHERE
	}
	for len(ip.args) > 0 {
		if err := q.word(ip, ip.next()); err != nil {
			return err
		}
	}
	if !q.dest.IsValid() && !q.isDefault {
		return fmt.Errorf("a destination is needed")
	}
	return q.message(kind, ip.family).change(flags)
}

func (q *routeRequest) message(kind uint16, family byte) *nlRequest {
	head := q.head
	head.Family = family
	for _, a := range []netip.Addr{q.dest.Addr(), q.via, q.src} {
		if a.IsValid() {
			head.Family = familyOf(a)
		}
	}
	if head.Family == unix.AF_UNSPEC {
		head.Family = unix.AF_INET
	}
	if q.dest.IsValid() {
		head.Dst_len = uint8(q.dest.Bits())
	}
	if !q.via.IsValid() && head.Type == unix.RTN_UNICAST && kind == unix.RTM_NEWROUTE && head.Scope == unix.RT_SCOPE_UNIVERSE && head.Family == unix.AF_INET {
		head.Scope = unix.RT_SCOPE_LINK
	}
	r := &nlRequest{kind: kind}
	put(r, head)
	if q.dest.IsValid() {
		r.attr(unix.RTA_DST, q.dest.Addr().AsSlice())
	}
	if q.via.IsValid() {
		r.attr(unix.RTA_GATEWAY, q.via.AsSlice())
	}
	if q.src.IsValid() {
		r.attr(unix.RTA_PREFSRC, q.src.AsSlice())
	}
	if q.index != 0 {
		r.attr32(unix.RTA_OIF, q.index)
	}
	if q.metric != 0 {
		r.attr32(unix.RTA_PRIORITY, q.metric)
	}
	if q.mtu != 0 {
		inner := &nlRequest{}
		inner.attr32(unix.RTAX_MTU, q.mtu)
		r.attr(unix.RTA_METRICS, inner.body)
	}
	return r
}

func parse32(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("invalid number \"%s\"", s)
	}
	return uint32(n), nil
}

func (ip *ipCommand) showRoutes() error {
	device, _, err := ip.showFilter()
	if err != nil {
		return err
	}
	family := ip.family
	if family == unix.AF_UNSPEC {
		family = unix.AF_INET
	}
	list, err := links()
	if err != nil {
		return err
	}
	msgs, err := dump(unix.RTM_GETROUTE, family)
	if err != nil {
		return err
	}
	for _, m := range msgs {
		o, err := parseObject(m, unix.SizeofRtMsg)
		if err != nil {
			return err
		}
		table := uint32(o.head[4])
		if t, ok := o.u32(unix.RTA_TABLE); ok {
			table = t
		}
		const cloned = 0x200 // RTM_F_CLONED: a cache entry
		if table != unix.RT_TABLE_MAIN || binary.NativeEndian.Uint32(o.head[8:])&cloned != 0 {
			continue
		}
		oif, _ := o.u32(unix.RTA_OIF)
		if device != "" && linkName(list, oif) != device {
			continue
		}
		ip.c.printf("%s\n", ip.routeText(o, list, device != ""))
	}
	return nil
}

// routeText is a route in iproute2's words; each ends with a blank.
func (ip *ipCommand) routeText(o nlObject, list []ipLink, hideDevice bool) string {
	var b strings.Builder
	bits, proto, scope, kind := int(o.head[1]), o.head[5], o.head[6], o.head[7]
	if word := map[byte]string{unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_LOCAL: "local", unix.RTN_BROADCAST: "broadcast", unix.RTN_MULTICAST: "multicast", unix.RTN_ANYCAST: "anycast"}[kind]; word != "" {
		b.WriteString(word + " ")
	}
	dst, ok := netip.AddrFromSlice(o.attrs[unix.RTA_DST])
	switch {
	case !ok:
		b.WriteString("default ")
	case bits == dst.BitLen():
		b.WriteString(dst.String() + " ")
	default:
		fmt.Fprintf(&b, "%s/%d ", dst, bits)
	}
	if via, ok := netip.AddrFromSlice(o.attrs[unix.RTA_GATEWAY]); ok {
		fmt.Fprintf(&b, "via %s ", via)
	}
	if oif, ok := o.u32(unix.RTA_OIF); ok && !hideDevice {
		fmt.Fprintf(&b, "dev %s ", linkName(list, oif))
	}
	if word := map[byte]string{unix.RTPROT_KERNEL: "kernel", unix.RTPROT_STATIC: "static", unix.RTPROT_DHCP: "dhcp", unix.RTPROT_RA: "ra", unix.RTPROT_REDIRECT: "redirect"}[proto]; word != "" {
		fmt.Fprintf(&b, "proto %s ", word)
	}
	if o.head[0] == unix.AF_INET && (scope == unix.RT_SCOPE_LINK || scope == unix.RT_SCOPE_HOST) {
		fmt.Fprintf(&b, "scope %s ", scopeName(scope))
	}
	if src, ok := netip.AddrFromSlice(o.attrs[unix.RTA_PREFSRC]); ok {
		fmt.Fprintf(&b, "src %s ", src)
	}
	if metric, ok := o.u32(unix.RTA_PRIORITY); ok {
		fmt.Fprintf(&b, "metric %d ", metric)
	}
	flags := binary.NativeEndian.Uint32(o.head[8:])
	if flags&unix.RTNH_F_LINKDOWN != 0 {
		b.WriteString("linkdown ")
	}
	if flags&unix.RTNH_F_ONLINK != 0 {
		b.WriteString("onlink ")
	}
	if pref := o.attrs[unix.RTA_PREF]; len(pref) == 1 {
		fmt.Fprintf(&b, "pref %s", map[byte]string{0: "medium", 1: "high", 3: "low"}[pref[0]])
	}
	return b.String()
}

func (ip *ipCommand) getRoute() error {
	a, err := netip.ParseAddr(ip.next())
	if err != nil {
		return err
	}
	list, err := links()
	if err != nil {
		return err
	}
	r := &nlRequest{kind: unix.RTM_GETROUTE}
	put(r, unix.RtMsg{Family: familyOf(a), Dst_len: uint8(a.BitLen())})
	r.attr(unix.RTA_DST, a.AsSlice())
	msgs, err := r.do()
	if err != nil {
		return err
	}
	for _, m := range msgs {
		o, err := parseObject(m, unix.SizeofRtMsg)
		if err != nil {
			return err
		}
		ip.c.printf("%s\n", ip.routeText(o, list, false))
	}
	return nil
}

func (ip *ipCommand) neighbors() error {
	if !ip.isShow() {
		return fmt.Errorf("only \"ip neigh show\" is supported")
	}
	device, _, err := ip.showFilter()
	if err != nil {
		return err
	}
	list, err := links()
	if err != nil {
		return err
	}
	msgs, err := dump(unix.RTM_GETNEIGH, ip.family)
	if err != nil {
		return err
	}
	states := map[uint16]string{1: "INCOMPLETE", 2: "REACHABLE", 4: "STALE", 8: "DELAY", 16: "PROBE", 32: "FAILED", 128: "PERMANENT"}
	for _, m := range msgs {
		o, err := parseObject(m, unix.SizeofNdMsg)
		if err != nil {
			return err
		}
		name := linkName(list, binary.NativeEndian.Uint32(o.head[4:]))
		state := states[binary.NativeEndian.Uint16(o.head[8:])]
		addr, ok := netip.AddrFromSlice(o.attrs[unix.NDA_DST])
		if !ok || state == "" || (device != "" && name != device) {
			continue // also NUD_NOARP, which iproute2 hides
		}
		text := addr.String()
		if device == "" {
			text += " dev " + name
		}
		if mac := o.attrs[unix.NDA_LLADDR]; len(mac) > 0 {
			text += " lladdr " + hardwareAddress(mac)
		}
		ip.c.printf("%s %s \n", text, state)
	}
	return nil
}
