package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/mvmctl/mvmctl/internal/egress"
)

// Limits of one machine.
const (
	maxFlows    = 4096             // at a time
	dialTime    = 10 * time.Second // for one address of a name
	helloTime   = 10 * time.Second // for what a guest has to say first
	maxHello    = 64 << 10
	maxTries    = 4 // addresses of a name
	resolveTime = 10 * time.Second
)

// Options configure a Proxy.
type Options struct {
	Policy egress.Policy
	// Lookup returns the addresses of a name; nil: this host's resolver.
	Lookup func(ctx context.Context, name string) ([]netip.Addr, error)
	// Dial opens a connection to an address; nil: this host's network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Local returns the addresses of a name of the machine's own networks, which are answered as they
	// are; nil: there are none.
	Local func(name string) []netip.Addr
	// Exchange asks this host's name servers a question as it is; nil: those of its resolver.
	Exchange func(ctx context.Context, query []byte) ([]byte, error)
	// Denied hears of every denial, one at a time; nil: nobody does.
	Denied func(Denial)
}

// Denial is something that was not carried.
type Denial struct {
	Proto egress.Proto
	Name  string     // "" when the guest gave an address
	Addr  netip.Addr // that the guest gave, or that the name has; may be invalid
	Port  uint16     // 0: a question to the resolver
	Rule  string     // that denies it; "" when none allows it
	Why   string
}

// Proxy carries one machine's flows. It is safe for concurrent use.
type Proxy struct {
	o     Options
	names *egress.Names

	mu     sync.Mutex
	policy egress.Policy
	flows  map[*flow]struct{}
	closed bool
	lookup limiter

	saying sync.Mutex // one denial at a time
}

// New returns a proxy.
func New(o Options) *Proxy {
	if o.Lookup == nil {
		o.Lookup = func(ctx context.Context, name string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", name+".")
		}
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	if o.Exchange == nil {
		o.Exchange = exchange
	}
	return &Proxy{o: o, policy: o.Policy, names: egress.NewNames(), flows: map[*flow]struct{}{}, lookup: limiter{burst: lookupBurst, every: lookupEvery}}
}

// Policy returns the policy in force.
func (p *Proxy) Policy() egress.Policy {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.policy
}

// SetPolicy puts another policy in force, and ends the flows that it denies.
func (p *Proxy) SetPolicy(policy egress.Policy) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.policy = policy
	for f := range p.flows {
		if d := f.decide(policy); !d.Allowed {
			f.cancel()
		}
	}
}

// Close ends all flows and refuses new ones.
func (p *Proxy) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for f := range p.flows {
		f.cancel()
	}
}

// flow is something that is carried, or about to be.
type flow struct {
	proto  egress.Proto
	name   string     // that the guest gave, or its first words named
	addr   netip.Addr // that the guest gave; of a name: the one that is dialled
	byName bool
	port   uint16
	cancel context.CancelFunc
}

// decide asks a policy about what is known of a flow.
func (f *flow) decide(policy egress.Policy) egress.Decision {
	if f.name != "" {
		if d := policy.ToName(f.proto, f.name, f.port); !d.Allowed && (f.byName || d.Rule != "") {
			return d
		}
	}
	switch {
	case !f.byName:
		return policy.ToAddr(f.proto, f.addr, f.port)
	case f.addr.IsValid():
		return policy.Resolved(f.proto, f.addr, f.port)
	}
	return egress.Decision{Allowed: true}
}

var errBusy = errors.New("the machine has too many connections")

// begin takes a flow up, unless the policy denies it. A policy that is set later ends it by its context.
func (p *Proxy) begin(ctx context.Context, f *flow) (context.Context, egress.Decision, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := f.decide(p.policy)
	switch {
	case p.closed:
		return nil, d, net.ErrClosed
	case d.Allowed && len(p.flows) >= maxFlows:
		return nil, d, errBusy
	case !d.Allowed:
		return nil, d, nil
	}
	ctx, f.cancel = context.WithCancel(ctx)
	p.flows[f] = struct{}{}
	return ctx, d, nil
}

// learn notes more of a flow and asks the policy again.
func (p *Proxy) learn(f *flow, more func(*flow)) egress.Decision {
	p.mu.Lock()
	defer p.mu.Unlock()
	more(f)
	return f.decide(p.policy)
}

func (p *Proxy) end(f *flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f.cancel()
	delete(p.flows, f)
}

// deny tells of a denial.
func (p *Proxy) deny(f *flow, d egress.Decision) {
	if p.o.Denied == nil {
		return
	}
	p.saying.Lock()
	defer p.saying.Unlock()
	p.o.Denied(Denial{Proto: f.proto, Name: f.name, Addr: f.addr, Port: f.port, Rule: d.Rule, Why: d.Why})
}

// flowTo makes a flow of the address that a guest has given. stale says that the address stood for a
// name that is forgotten.
func (p *Proxy) flowTo(proto egress.Proto, dst netip.AddrPort) (f *flow, stale bool) {
	f = &flow{proto: proto, port: dst.Port()}
	name, standIn := p.names.Name(dst.Addr())
	if standIn {
		f.name, f.byName = name, true
		return f, name == ""
	}
	f.addr = dst.Addr().Unmap()
	return f, false
}

// dial connects to where a flow goes: to the address that the guest gave, or to the first of a name's
// addresses that answers and that the policy lets the name lead to.
func (p *Proxy) dial(ctx context.Context, f *flow) (net.Conn, egress.Decision, error) {
	ok := egress.Decision{Allowed: true}
	if !f.byName {
		c, err := p.dialAddr(ctx, f, f.addr)
		return c, ok, err
	}
	addrs, err := p.resolve(ctx, f.name)
	if err != nil {
		return nil, ok, err
	}
	denied := egress.Decision{}
	tries := 0
	err = errors.New("the name has no addresses")
	for _, a := range addrs {
		d := p.learn(f, func(f *flow) { f.addr = a })
		if !d.Allowed {
			denied = d
			continue
		}
		if tries++; tries > maxTries || ctx.Err() != nil {
			break
		}
		var c net.Conn
		if c, err = p.dialAddr(ctx, f, a); err == nil {
			return c, ok, nil
		}
	}
	if tries == 0 && denied.Why != "" {
		return nil, denied, nil
	}
	return nil, ok, err
}

func (p *Proxy) dialAddr(ctx context.Context, f *flow, a netip.Addr) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	return p.o.Dial(ctx, string(f.proto), netip.AddrPortFrom(a, f.port).String())
}

// resolve looks a name up. Addresses in the networks of stand-ins are nobody's.
func (p *Proxy) resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	if p.o.Local != nil {
		if addrs := p.o.Local(name); len(addrs) > 0 {
			return addrs, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	addrs, err := p.o.Lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap(); a.IsValid() && a.Zone() == "" {
			if _, standIn := p.names.Name(a); !standIn {
				out = append(out, a)
			}
		}
	}
	return out, nil
}
