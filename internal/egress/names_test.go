package egress

import (
	"fmt"
	"net/netip"
	"testing"
)

// Every name has addresses of its own, which lead back to it for as long as it is in use.
func TestNames(t *testing.T) {
	t.Parallel()
	n := NewNames()
	seen := map[netip.Addr]string{}
	for i := range maxNames + 100 {
		name := fmt.Sprintf("n%d.test", i)
		v4, v6 := n.Addrs(name)
		if again4, again6 := n.Addrs(name); again4 != v4 || again6 != v6 {
			t.Fatalf("%s has %v and %v, and then %v and %v", name, v4, v6, again4, again6)
		}
		for j, a := range []netip.Addr{v4, v6} {
			if other, taken := seen[a]; taken {
				t.Fatalf("%s and %s have %v", name, other, a)
			}
			seen[a] = name
			if got, standIn := n.Name(a); got != name || !standIn || !StandIns()[j].Contains(a) {
				t.Fatalf("%v is %q, %v, want %s", a, got, standIn, name)
			}
		}
		n.Addrs("often.test")
	}
	if v4, _ := n.Addrs("often.test"); seen[v4] != "" {
		t.Errorf("a name in use lost its address %v to %s", v4, seen[v4])
	}
	for _, a := range []string{"198.18.0.0", "198.19.255.255", "fdb1:4e71:9a02::", "fdb1:4e71:9a02:0:1::1"} {
		if name, standIn := n.Name(netip.MustParseAddr(a)); name != "" || !standIn {
			t.Errorf("%s is %q, %v", a, name, standIn)
		}
	}
	if name, standIn := n.Name(netip.MustParseAddr("10.0.0.1")); name != "" || standIn {
		t.Errorf("10.0.0.1 is %q, %v", name, standIn)
	}
	if len(n.by) > maxNames || len(n.at) != len(n.by) || n.recency.Len() != len(n.by) {
		t.Errorf("%d names, %d numbers, %d in the list", len(n.by), len(n.at), n.recency.Len())
	}
}

// Numbers are given in turn over all of the network, and none twice.
func TestNamesGoRound(t *testing.T) {
	t.Parallel()
	n := NewNames()
	n.Addrs("first.test")
	n.next = numbers - 1
	for i := range 3 {
		v4, _ := n.Addrs(fmt.Sprintf("n%d.test", i))
		if name, _ := n.Name(v4); name != fmt.Sprintf("n%d.test", i) {
			t.Errorf("%v is %s", v4, name)
		}
	}
}
