package egress

import (
	"container/list"
	"encoding/binary"
	"net/netip"
	"sync"
)

// maxNames bounds the names that a guest can have an address for at a time. The one that was not
// used for longest is forgotten.
const maxNames = 8192

// Names gives every name that a guest looks up an address of its own, so that a connection to that
// address says which name it is for: exactly one, whatever servers share their real addresses, and
// whatever the name leads to later. It is safe for concurrent use.
type Names struct {
	mu      sync.Mutex
	next    uint32
	by      map[string]*list.Element // of *stand
	at      map[uint32]*list.Element
	recency *list.List // most recently used first
}

// stand is one name with the number of its addresses.
type stand struct {
	name   string
	number uint32
}

// Stand-ins are in these networks, which no host has: the IPv4 one is for benchmarks of network devices
// (RFC 2544), the IPv6 one is a unique local one (RFC 4193) whose global id was drawn once.
const (
	standIns4 = "198.18.0.0/15"
	standIns6 = "fdb1:4e71:9a02::/64"
)

// StandIns returns the networks that a guest's stand-in addresses are in.
func StandIns() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix(standIns4), netip.MustParsePrefix(standIns6)}
}

// NewNames returns an empty table.
func NewNames() *Names {
	return &Names{by: map[string]*list.Element{}, at: map[uint32]*list.Element{}, recency: list.New()}
}

// Addrs returns the addresses that stand for a name (canonical).
func (n *Names) Addrs(name string) (v4, v6 netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e, ok := n.by[name]
	if !ok {
		for n.recency.Len() >= maxNames {
			old := n.recency.Remove(n.recency.Back()).(*stand)
			delete(n.by, old.name)
			delete(n.at, old.number)
		}
		s := &stand{name: name, number: n.free()}
		e = n.recency.PushFront(s)
		n.by[name], n.at[s.number] = e, e
	}
	n.recency.MoveToFront(e)
	return address(e.Value.(*stand).number)
}

// numbers is how many addresses there are to give, all but the first of the smaller network.
const numbers = 1<<17 - 2

// free returns a number that no name has. They are given in turn, so that one is not soon given to
// another name; there are many more than names.
func (n *Names) free() uint32 {
	for {
		n.next = n.next%numbers + 1
		if _, taken := n.at[n.next]; !taken {
			return n.next
		}
	}
}

func address(number uint32) (v4, v6 netip.Addr) {
	a := netip.MustParsePrefix(standIns4).Addr().As4()
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+number)
	b := netip.MustParsePrefix(standIns6).Addr().As16()
	binary.BigEndian.PutUint32(b[12:], number)
	return netip.AddrFrom4(a), netip.AddrFrom16(b)
}

// Name returns the name that an address stands for, "" for none. standIn says that the address is in
// the networks of stand-ins.
func (n *Names) Name(a netip.Addr) (name string, standIn bool) {
	a = a.Unmap()
	var number uint32
	switch {
	case netip.MustParsePrefix(standIns4).Contains(a):
		b, first := a.As4(), netip.MustParsePrefix(standIns4).Addr().As4()
		number = binary.BigEndian.Uint32(b[:]) - binary.BigEndian.Uint32(first[:])
	case netip.MustParsePrefix(standIns6).Contains(a):
		b := a.As16()
		if binary.BigEndian.Uint32(b[8:]) != 0 {
			return "", true
		}
		number = binary.BigEndian.Uint32(b[12:])
	default:
		return "", false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	e, ok := n.at[number]
	if !ok {
		return "", true
	}
	n.recency.MoveToFront(e)
	return e.Value.(*stand).name, true
}
