package proxy

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/mvmctl/mvmctl/internal/egress"
)

// idleUDP is how long datagrams may stay away before their flow is forgotten. It is what RFC 4787 asks
// of a NAT at least.
const idleUDP = 2 * time.Minute

// UDP decides on datagrams of a guest's socket to one address. It returns nil when they are denied; else
// carry, which carries them to their end, nothing for nil, and is to be called. It does not wait for anything.
func (p *Proxy) UDP(ctx context.Context, dst netip.AddrPort) (carry func(guest net.Conn)) {
	f, stale := p.flowTo(egress.UDP, dst)
	if stale {
		p.deny(f, egress.Decision{Why: whyStale})
		return nil
	}
	ctx, d, err := p.begin(ctx, f)
	if err != nil || !d.Allowed {
		if err == nil {
			p.deny(f, d)
		}
		return nil
	}
	return func(guest net.Conn) {
		defer p.end(f)
		if guest == nil {
			return
		}
		defer func() { _ = guest.Close() }()
		out, d, err := p.dial(ctx, f)
		if err == nil && !d.Allowed {
			p.deny(f, d)
		}
		if out == nil {
			return
		}
		defer func() { _ = out.Close() }()
		stop := context.AfterFunc(ctx, func() { _, _ = guest.Close(), out.Close() })
		defer stop()
		both(guest, out)
	}
}

// both carries datagrams both ways until one side ends or none came for long.
func both(guest, out net.Conn) {
	alive := make(chan struct{}, 1)
	done := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{guest, out}, {out, guest}} {
		go func() { datagrams(pair[0], pair[1], alive); done <- struct{}{} }()
	}
	idle := time.NewTimer(idleUDP)
	defer idle.Stop()
	for ended := 0; ended < 2; {
		select {
		case <-alive:
			idle.Reset(idleUDP)
		case <-idle.C:
			_, _ = guest.Close(), out.Close()
		case <-done:
			if ended++; ended == 1 {
				_, _ = guest.Close(), out.Close()
			}
		}
	}
}

// datagrams carries one direction.
func datagrams(to, from net.Conn, alive chan<- struct{}) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		select {
		case alive <- struct{}{}:
		default:
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}
