package userland

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// pinger is one run of ping.
type pinger struct {
	c        *call
	name     string
	addr     netip.Addr
	conn     *os.File
	raw      bool
	id       uint16
	size     int
	count    int
	interval time.Duration
	timeout  time.Duration
	quiet    bool

	sent, received, duplicates int
	min, max, sum              float64
}

// ICMP types (RFC 792, RFC 4443).
const (
	icmpEcho, icmpEchoReply   = 8, 0
	icmp6Echo, icmp6EchoReply = 128, 129
)

func runPing(c *call) int {
	c.trouble = exitUsage
	o, args, ok := c.parse("46c:i:W:w:s:qnI:t:", nil)
	if !ok {
		return exitUsage
	}
	if len(args) != 1 {
		return c.usageError("a destination is needed")
	}
	p := &pinger{c: c, name: args[0], count: -1, size: 56, interval: time.Second, timeout: 10 * time.Second, quiet: o.has('q'), id: uint16(os.Getpid())}
	deadline := time.Duration(0)
	for _, opt := range o {
		switch opt.flag {
		case 'c', 's':
			n, err := strconv.Atoi(opt.value)
			if err != nil || n < 0 || n > 65507 {
				return c.usageError("invalid argument: '%s'", opt.value)
			}
			if opt.flag == 'c' {
				p.count = n
			} else {
				p.size = n
			}
		case 'i', 'W', 'w':
			d, ok := parseSleep(opt.value)
			if !ok {
				return c.usageError("invalid argument: '%s'", opt.value)
			}
			switch opt.flag {
			case 'i':
				p.interval = max(d, 2*time.Millisecond)
			case 'W':
				p.timeout = d
			case 'w':
				deadline = d
			}
		}
	}
	ctx := c.ctx
	if c.self != "" {
		// An interrupt ends the count, and the statistics follow.
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt)
		defer stop()
	}
	if deadline > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, deadline)
		defer cancel()
	}
	network := map[rune]string{'4': "ip4", '6': "ip6"}[o.last('4', '6')]
	if network == "" {
		network = "ip"
	}
	list, err := (&net.Resolver{PreferGo: true}).LookupNetIP(ctx, network, p.name)
	if err != nil || len(list) == 0 {
		c.errorf("%s: Name or service not known", p.name)
		return exitUsage
	}
	p.addr = list[0].Unmap()
	if err := p.open(); err != nil {
		c.errorf("socket: %s", reason(err))
		return exitUsage
	}
	defer p.conn.Close()
	return p.run(ctx)
}

// open makes a socket: the unprivileged kind when the kernel allows it
// (net.ipv4.ping_group_range), otherwise a raw one.
func (p *pinger) open() error {
	family, proto := unix.AF_INET, unix.IPPROTO_ICMP
	var to unix.Sockaddr
	if p.addr.Is4() {
		to = &unix.SockaddrInet4{Addr: p.addr.As4()}
	} else {
		family, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
		sa := &unix.SockaddrInet6{Addr: p.addr.As16()}
		if zone := p.addr.Zone(); zone != "" {
			if iface, err := net.InterfaceByName(zone); err == nil {
				sa.ZoneId = uint32(iface.Index)
			}
		}
		to = sa
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EPROTONOSUPPORT) {
		fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
		p.raw = true
	}
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, to); err != nil {
		unix.Close(fd)
		return err
	}
	p.conn = os.NewFile(uintptr(fd), "icmp") // non-blocking, so it takes deadlines
	return nil
}

func (p *pinger) packet(seq int) []byte {
	b := make([]byte, 8+p.size)
	b[0] = icmpEcho
	if p.addr.Is6() {
		b[0] = icmp6Echo
	}
	binary.BigEndian.PutUint16(b[4:], p.id)
	binary.BigEndian.PutUint16(b[6:], uint16(seq))
	for i := 8; i < len(b); i++ {
		b[i] = byte(i)
	}
	if p.addr.Is4() { // for ICMPv6 the kernel does it
		binary.BigEndian.PutUint16(b[2:], checksum(b))
	}
	return b
}

// checksum is the Internet checksum (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func (p *pinger) run(ctx context.Context) int {
	p.c.printf("PING %s (%s): %d data bytes\n", p.name, p.addr, p.size)
	stop := context.AfterFunc(ctx, func() { p.conn.SetReadDeadline(time.Now()) })
	defer stop()
	begin := time.Now()
	for seq := 0; (p.count < 0 || seq < p.count) && ctx.Err() == nil && p.c.out.err == nil; seq++ {
		start := time.Now()
		if _, err := p.conn.Write(p.packet(seq)); err != nil {
			p.c.errorf("sendto: %s", reason(err))
		}
		p.sent++
		wait := p.interval
		if seq == p.count-1 {
			wait = p.timeout
		}
		got := p.receive(ctx, seq, start, wait)
		if seq != p.count-1 {
			if left := p.interval - time.Since(start); got && left > 0 {
				p.receive(ctx, -1, start, left) // late and duplicate answers
			}
		}
	}
	p.summary(time.Since(begin))
	if p.received == 0 {
		return exitFailure
	}
	return exitOK
}

// receive waits for the answer to seq, or with -1 just reads what comes.
func (p *pinger) receive(ctx context.Context, seq int, start time.Time, wait time.Duration) bool {
	p.conn.SetReadDeadline(start.Add(wait))
	if seq < 0 {
		p.conn.SetReadDeadline(time.Now().Add(wait))
	}
	if ctx.Err() != nil {
		return false
	}
	buf := make([]byte, 65536)
	for {
		n, err := p.conn.Read(buf)
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				p.c.errorf("recv: %s", reason(err))
			}
			return false
		}
		elapsed := time.Since(start)
		b, ttl := buf[:n], -1
		if p.raw && p.addr.Is4() { // a raw IPv4 socket delivers the IP header too
			if len(b) < 20 || len(b) < int(b[0]&15)*4 {
				continue
			}
			ttl = int(b[8])
			b = b[int(b[0]&15)*4:]
		}
		want := byte(icmpEchoReply)
		if p.addr.Is6() {
			want = icmp6EchoReply
		}
		if len(b) < 8 || b[0] != want || (p.raw && binary.BigEndian.Uint16(b[4:]) != p.id) {
			continue
		}
		if got := int(binary.BigEndian.Uint16(b[6:])); got != seq&0xffff || seq < 0 {
			p.duplicates++
			continue
		}
		p.note(seq, len(b), ttl, elapsed)
		return true
	}
}

func (p *pinger) note(seq, n, ttl int, elapsed time.Duration) {
	ms := float64(elapsed) / float64(time.Millisecond)
	p.received++
	if p.received == 1 || ms < p.min {
		p.min = ms
	}
	p.max = math.Max(p.max, ms)
	p.sum += ms
	if p.quiet {
		return
	}
	hops := ""
	if ttl >= 0 {
		hops = " ttl=" + strconv.Itoa(ttl)
	}
	p.c.printf("%d bytes from %s: seq=%d%s time=%.3f ms\n", n, p.addr, seq, hops, ms)
}

func (p *pinger) summary(took time.Duration) {
	out := p.c.stdio.Out // also after the context has ended
	if out == nil {
		return
	}
	text := "\n--- " + p.name + " ping statistics ---\n" + strconv.Itoa(p.sent) + " packets transmitted, " + strconv.Itoa(p.received) + " packets received, "
	if p.duplicates > 0 {
		text += strconv.Itoa(p.duplicates) + " duplicates, "
	}
	lost := 0
	if p.sent > 0 {
		lost = 100 * (p.sent - p.received) / p.sent
	}
	text += strconv.Itoa(lost) + "% packet loss, time " + strconv.FormatInt(took.Milliseconds(), 10) + "ms\n"
	if p.received > 0 {
		f := func(v float64) string { return strconv.FormatFloat(v, 'f', 3, 64) }
		text += "round-trip min/avg/max = " + f(p.min) + "/" + f(p.sum/float64(p.received)) + "/" + f(p.max) + " ms\n"
	}
	_, _ = io.WriteString(out, text) // it is the last word anyway
}
