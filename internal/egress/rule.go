package egress

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Proto is a transport protocol.
type Proto string

// Protocols. A rule that says none is for TCP: what goes over UDP by the name of a web server (QUIC)
// cannot be seen into, so whoever wants it says so.
const (
	TCP Proto = "tcp"
	UDP Proto = "udp"
)

// Rule is one line of a policy: where to, and by which ports.
type Rule struct {
	Text   string // as it was written
	Proto  Proto
	Name   string       // canonical; "" for a rule of addresses
	Below  bool         // also, or with Only alone, every name below Name
	Only   bool         // not Name itself
	Prefix netip.Prefix // of a rule of addresses
	Low    uint16       // first port; 0 with High 0: all
	High   uint16       // last port
}

// ParseRule reads a rule:
//
//	[tcp:|udp:] HOST [:PORT | :FIRST-LAST]
//
// HOST is a name, *.NAME for the names below it, .NAME for both, * for every public name, an address
// or a network (CIDR). An IPv6 one that has a port after it is in brackets.
func ParseRule(text string) (Rule, error) {
	r := Rule{Text: text, Proto: TCP}
	rest := strings.TrimSpace(text)
	for _, p := range []Proto{TCP, UDP} {
		if after, ok := strings.CutPrefix(rest, string(p)+":"); ok {
			r.Proto, rest = p, after
			break
		}
	}
	host, ports, err := splitPorts(rest)
	if err != nil {
		return Rule{}, fmt.Errorf("%q: %w", text, err)
	}
	if r.Low, r.High, err = parsePorts(ports); err != nil {
		return Rule{}, fmt.Errorf("%q: %w", text, err)
	}
	if r.Prefix, err = parsePrefix(host); err == nil {
		return r, nil
	}
	switch {
	case host == "*":
		r.Below, r.Only = true, true
		return r, nil
	case strings.HasPrefix(host, "*."):
		r.Below, r.Only, host = true, true, host[2:]
	case strings.HasPrefix(host, "."):
		r.Below, host = true, host[1:]
	}
	if r.Name, err = writtenName(host); err != nil {
		return Rule{}, fmt.Errorf("%q: %q is neither a host name nor an address", text, host)
	}
	return r, nil
}

// splitPorts takes the ports off the end of a host.
func splitPorts(s string) (host, ports string, err error) {
	if inside, ok := strings.CutPrefix(s, "["); ok {
		host, after, ok := strings.Cut(inside, "]")
		if !ok || after != "" && after[0] != ':' {
			return "", "", fmt.Errorf("the brackets of an IPv6 address are for [ADDRESS]:PORT")
		}
		return host, strings.TrimPrefix(after, ":"), nil
	}
	if strings.Count(s, ":") > 1 { // an IPv6 address without ports
		return s, "", nil
	}
	host, ports, found := strings.Cut(s, ":")
	if found && ports == "" {
		return "", "", fmt.Errorf("there is no port after the colon")
	}
	return host, ports, nil
}

func parsePorts(s string) (low, high uint16, err error) {
	if s == "" {
		return 0, 0, nil
	}
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	a, aerr := strconv.ParseUint(first, 10, 16)
	b, berr := strconv.ParseUint(last, 10, 16)
	if aerr != nil || berr != nil || a == 0 || a > b {
		return 0, 0, fmt.Errorf("%q is neither a port nor a range of ports (1-65535)", s)
	}
	return uint16(a), uint16(b), nil
}

// parsePrefix reads an address or a network, whose bits behind its length must be zero: they are
// mostly a mistake about what is allowed.
func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Masked() != p || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is no network", s)
	}
	return p, nil
}

// covers reports whether a rule is for a protocol and a port; "" and port 0 stand for any.
func (r Rule) covers(proto Proto, port uint16) bool {
	return (proto == "" || r.Proto == proto) && (r.High == 0 || port == 0 || r.Low <= port && port <= r.High)
}

// hasName reports whether a rule is for a name, which is canonical.
func (r Rule) hasName(name string) bool {
	switch {
	case r.Prefix.IsValid():
		return false
	case r.Name == "": // "*"
		return true
	case name == r.Name:
		return !r.Only
	}
	return r.Below && len(name) > len(r.Name) && strings.HasSuffix(name, "."+r.Name)
}

// hasAddr reports whether a rule is for an address. An IPv4 address within an IPv6 one is never meant
// by a rule for the latter.
func (r Rule) hasAddr(a netip.Addr) bool {
	return r.Prefix.IsValid() && r.Prefix.Contains(a.Unmap().WithZone(""))
}
