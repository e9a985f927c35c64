package egress

import (
	"net/netip"
	"slices"
)

// Policy is what a machine may reach. The zero Policy allows nothing.
type Policy struct {
	Name  string
	Open  bool   // what no rule denies is allowed: the preset "unrestricted"
	Allow []Rule // what is allowed
	Deny  []Rule // what is denied, whatever else allows it
	// HiddenNames lets TLS pass that hides the name of the host from us (ECH, RFC 9849), when the name
	// that it shows is allowed. Browsers look as if they did that always.
	HiddenNames bool
}

// Decision is the answer to "may the machine?".
type Decision struct {
	Allowed bool
	Rule    string // the rule that decided, as it was written; "" when none did
	Why     string // of a denial, for people: how it came about
}

// WhyNoRule is the reason of a denial when nothing speaks for or against.
const WhyNoRule = "no rule allows it"

// Restricted reports whether there is anything that the policy denies by its own rules.
func (p Policy) Restricted() bool { return !p.Open || len(p.Deny) > 0 }

// ToName decides on a connection to a name (canonical) on a port; port 0 and proto "" stand for any,
// which is the question of the resolver: may the name be looked up at all?
func (p Policy) ToName(proto Proto, name string, port uint16) Decision {
	// A denial of some ports does not keep the name from being looked up.
	denies := func(r Rule) bool {
		return r.hasName(name) && r.covers(proto, port) && (port != 0 || r.High == 0)
	}
	if i := slices.IndexFunc(p.Deny, denies); i >= 0 {
		return Decision{Rule: p.Deny[i].Text, Why: "a rule denies it"}
	}
	if i := slices.IndexFunc(p.Allow, func(r Rule) bool { return r.hasName(name) && r.covers(proto, port) }); i >= 0 {
		return Decision{Allowed: true, Rule: p.Allow[i].Text}
	}
	if p.Open {
		return Decision{Allowed: true}
	}
	return Decision{Why: WhyNoRule}
}

// ToAddr decides on a connection to an address that the guest has named itself, and not through a
// name. Under an open policy the host itself and link-local addresses are closed too: what listens
// there trusts whoever can reach it.
func (p Policy) ToAddr(proto Proto, a netip.Addr, port uint16) Decision {
	match := func(r Rule) bool { return r.hasAddr(a) && r.covers(proto, port) }
	if i := slices.IndexFunc(p.Deny, func(r Rule) bool { return r.covers(proto, port) && (r.hasAddr(a) || r.hasAddr(inner(a))) }); i >= 0 {
		return Decision{Rule: p.Deny[i].Text, Why: "a rule denies it"}
	}
	if i := slices.IndexFunc(p.Allow, match); i >= 0 {
		return Decision{Allowed: true, Rule: p.Allow[i].Text}
	}
	kind := KindOf(a)
	switch {
	case p.Open && kind != Host && kind != LinkLocal:
		return Decision{Allowed: true}
	case kind != Public:
		return Decision{Why: "the address is " + string(kind)}
	}
	return Decision{Why: "it is an address, and rules with names are for names: connect to the name"}
}

// Resolved decides on an address that an allowed name was found to have. Names do not lead into
// networks that are not public, whoever answers for them (rebinding), unless a rule has the address.
func (p Policy) Resolved(proto Proto, a netip.Addr, port uint16) Decision {
	if d := p.ToAddr(proto, a, port); d.Allowed || d.Rule != "" {
		return d
	}
	if kind := KindOf(a); kind != Public {
		return Decision{Why: "the name leads to an address that is " + string(kind)}
	}
	return Decision{Allowed: true}
}

// New makes a policy of rules as they are written.
func New(name string, open, hiddenNames bool, allow, deny []string) (Policy, error) {
	p := Policy{Name: name, Open: open, HiddenNames: hiddenNames}
	var err error
	if p.Allow, err = ParseRules(allow); err == nil {
		p.Deny, err = ParseRules(deny)
	}
	return p, err
}
