package egress

import (
	"errors"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"
)

// Limits of names (RFC 1035, section 2.3.4), in their text form without the last dot.
const (
	maxName  = 253
	maxLabel = 63
)

var errName = errors.New("it is no host name")

// Name returns the canonical form of a host name that a guest has sent, in DNS, TLS or HTTP: lower
// case, letters, digits, hyphens and underscores, no dot at its end. Anything else, an address
// included, is an error: what cannot be compared exactly is not compared at all.
func Name(s string) (string, error) {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > maxName {
		return "", errName
	}
	out := []byte(s)
	for i, c := range out {
		if 'A' <= c && c <= 'Z' {
			out[i] = c + 'a' - 'A'
		}
	}
	label := 0
	for i := 0; i <= len(out); i++ {
		if i < len(out) && out[i] != '.' {
			if !nameByte(out[i]) {
				return "", errName
			}
			continue
		}
		if i == label || i-label > maxLabel || out[label] == '-' || out[i-1] == '-' {
			return "", errName
		}
		label = i + 1
	}
	if last := out[strings.LastIndexByte(string(out), '.')+1:]; digits(last) {
		return "", errName // an address, or what some resolvers take for one
	}
	return string(out), nil
}

// nameByte reports whether a canonical name may have c. Underscores are in the names of services.
func nameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// digits reports whether a label is a number in any of the forms that inet_aton takes.
func digits(label []byte) bool {
	if len(label) > 1 && label[0] == '0' && label[1] == 'x' {
		label = label[2:]
		for _, c := range label {
			if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
				return false
			}
		}
		return true
	}
	for _, c := range label {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// writtenName is Name for what a person writes: it may have letters of other scripts.
func writtenName(s string) (string, error) {
	if ascii(s) {
		return Name(s)
	}
	s, err := idna.Lookup.ToASCII(s)
	if err != nil {
		return "", errName
	}
	return Name(s)
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// Kind is what sort of network an address belongs to, as far as a policy looks at that.
type Kind string

// Kinds of addresses. All but Public are closed to a restricted machine unless a rule has the
// address itself: a name never leads to them.
const (
	Public    Kind = "public"
	Host      Kind = "the host itself"
	Private   Kind = "a private network"
	LinkLocal Kind = "link-local, where clouds keep their metadata"
	Special   Kind = "no address of a host"
)

// special lists what is not public (IANA's special-purpose registries of IPv4 and IPv6 addresses),
// the narrower before the wider.
func special() []struct {
	prefix string
	kind   Kind
} {
	return []struct {
		prefix string
		kind   Kind
	}{
		{"0.0.0.0/8", Host},
		{"127.0.0.0/8", Host},
		{"::/128", Host},
		{"::1/128", Host},
		{"10.0.0.0/8", Private},
		{"172.16.0.0/12", Private},
		{"192.168.0.0/16", Private},
		{"100.64.0.0/10", Private},
		{"fc00::/7", Private},
		{"fec0::/10", Private},
		{"169.254.0.0/16", LinkLocal},
		{"fe80::/10", LinkLocal},
		{"192.0.0.0/24", Special},
		{"192.0.2.0/24", Special},
		{"192.88.99.0/24", Special},
		{"198.18.0.0/15", Special},
		{"198.51.100.0/24", Special},
		{"203.0.113.0/24", Special},
		{"224.0.0.0/4", Special},
		{"240.0.0.0/4", Special},
		{"100::/64", Special},
		{"2001:db8::/32", Special},
		{"3fff::/20", Special},
		{"5f00::/16", Special},
		{"ff00::/8", Special},
	}
}

// KindOf says what sort of address a is. An IPv6 address that carries an IPv4 address is of that one's
// kind, since that is where its packets end up.
func KindOf(a netip.Addr) Kind {
	a = inner(a)
	if !a.IsValid() {
		return Special
	}
	for _, s := range special() {
		if netip.MustParsePrefix(s.prefix).Contains(a) {
			return s.kind
		}
	}
	return Public
}

// inner takes an IPv4 address out of an IPv6 one: mapped and compatible ones, NAT64 (RFC 6052 and
// 8215), 6to4 (RFC 3056) and Teredo (RFC 4380).
func inner(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if !a.Is6() {
		return a
	}
	b := a.As16()
	v4 := func(at int) netip.Addr { return netip.AddrFrom4([4]byte(b[at : at+4])) }
	switch in := func(p string) bool { return netip.MustParsePrefix(p).Contains(a) }; {
	case in("::/128"), in("::1/128"):
		return a
	case in("::/96"), in("64:ff9b::/96"), in("64:ff9b:1::/48"):
		return v4(12)
	case in("2002::/16"):
		return v4(2)
	case in("2001::/32"):
		for i := 12; i < 16; i++ {
			b[i] = ^b[i]
		}
		return v4(12)
	}
	return a
}
