package proxy

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/mvmctl/mvmctl/internal/egress"
)

const (
	maxDatagram = 1232 // of an answer over UDP (DNS flag day 2020); longer ones are asked for again over TCP
	maxAnswer   = 65535
	maxQuery    = 4096
	maxAddrs    = 32 // in an answer
	shortTTL    = 10 // seconds: a stand-in lasts, what the policy says of it may change
	localTTL    = 5  // seconds, of a machine's address
	realTTL     = 60 // seconds: the resolver does not tell how long it knows an answer for
	askTime     = 5 * time.Second
	maxServers  = 3
	resolvConf  = "/etc/resolv.conf"
	maxResolver = 64 << 10
)

// Answer answers a question to the resolver, nil for what is none. stream says that it came over TCP,
// where an answer may be long.
//
// Under a policy that looks at names, every name is answered with a stand-in: the connection to that
// is what is decided on, so a denied name never leaves, and the guest hears why it is denied. A name
// that is allowed and does not exist is answered so.
func (p *Proxy) Answer(ctx context.Context, query []byte, stream bool) []byte {
	if len(query) > maxQuery {
		return nil
	}
	var parser dnsmessage.Parser
	h, err := parser.Start(query)
	if err != nil || h.Response {
		return nil
	}
	q, err := parser.Question()
	if err != nil {
		return reply(h, nil, dnsmessage.RCodeFormatError, nil, stream)
	}
	if _, err := parser.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) || h.OpCode != 0 {
		return reply(h, nil, dnsmessage.RCodeFormatError, nil, stream)
	}
	name, nameErr := egress.Name(q.Name.String())
	wantsAddr := q.Type == dnsmessage.TypeA || q.Type == dnsmessage.TypeAAAA
	switch {
	case q.Class != dnsmessage.ClassINET:
		return reply(h, &q, dnsmessage.RCodeRefused, nil, stream)
	case nameErr == nil && p.o.Local != nil && len(p.o.Local(name)) > 0:
		return reply(h, &q, dnsmessage.RCodeSuccess, records(q, localTTL, p.o.Local(name)), stream)
	case !p.Policy().Restricted() && !wantsAddr:
		return p.passOn(ctx, h, q, query, stream)
	case nameErr != nil || name == "localhost" || strings.HasSuffix(name, ".localhost"):
		return reply(h, &q, dnsmessage.RCodeNameError, nil, stream)
	case !wantsAddr: // nothing else is needed for a connection, and much else carries data
		return reply(h, &q, dnsmessage.RCodeSuccess, nil, stream)
	case !p.Policy().Restricted():
		return p.real(ctx, h, q, name, stream)
	}
	return p.standIn(ctx, h, q, name, stream)
}

// standIn answers with the address that stands for a name.
func (p *Proxy) standIn(ctx context.Context, h dnsmessage.Header, q dnsmessage.Question, name string, stream bool) []byte {
	f := &flow{name: name, byName: true}
	p.mu.Lock()
	d := p.policy.ToName("", name, 0)
	may := !d.Allowed || p.lookup.take(time.Now())
	p.mu.Unlock()
	if !may {
		f.proto = egress.UDP
		p.deny(f, egress.Decision{Why: "it asks for too many names"})
		return reply(h, &q, dnsmessage.RCodeRefused, nil, stream)
	}
	if d.Allowed {
		if _, err := p.resolve(ctx, name); err != nil {
			return reply(h, &q, codeOf(err), nil, stream)
		}
	}
	v4, v6 := p.names.Addrs(name)
	return reply(h, &q, dnsmessage.RCodeSuccess, records(q, shortTTL, []netip.Addr{v4, v6}), stream)
}

// real answers with a name's own addresses.
func (p *Proxy) real(ctx context.Context, h dnsmessage.Header, q dnsmessage.Question, name string, stream bool) []byte {
	addrs, err := p.resolve(ctx, name)
	if err != nil {
		return reply(h, &q, codeOf(err), nil, stream)
	}
	return reply(h, &q, dnsmessage.RCodeSuccess, records(q, realTTL, addrs), stream)
}

// passOn asks the host's name servers the guest's own question.
func (p *Proxy) passOn(ctx context.Context, h dnsmessage.Header, q dnsmessage.Question, query []byte, stream bool) []byte {
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	asked := slices.Clone(query)
	_, _ = rand.Read(asked[:2]) // never fails
	answer, err := p.o.Exchange(ctx, asked)
	var back dnsmessage.Parser
	if err == nil {
		var bh dnsmessage.Header
		bh, err = back.Start(answer)
		if err == nil && (!bh.Response || bh.ID != binary.BigEndian.Uint16(asked)) {
			err = errors.New("an answer to another question")
		}
	}
	if err != nil {
		return reply(h, &q, dnsmessage.RCodeServerFailure, nil, stream)
	}
	if !stream && len(answer) > maxDatagram {
		return truncated(h, &q)
	}
	answer = slices.Clone(answer)
	binary.BigEndian.PutUint16(answer, h.ID)
	return answer
}

func codeOf(err error) dnsmessage.RCode {
	if e, ok := errors.AsType[*net.DNSError](err); ok && e.IsNotFound {
		return dnsmessage.RCodeNameError
	}
	return dnsmessage.RCodeServerFailure
}

// records makes the answer's records of those addresses that were asked for.
func records(q dnsmessage.Question, ttl uint32, addrs []netip.Addr) []dnsmessage.Resource {
	var out []dnsmessage.Resource
	for _, a := range addrs {
		r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: ttl}}
		switch a = a.Unmap(); {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			r.Body = &dnsmessage.AResource{A: a.As4()}
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			r.Body = &dnsmessage.AAAAResource{AAAA: a.As16()}
		default:
			continue
		}
		if out = append(out, r); len(out) == maxAddrs {
			break
		}
	}
	return out
}

func reply(h dnsmessage.Header, q *dnsmessage.Question, code dnsmessage.RCode, answers []dnsmessage.Resource, stream bool) []byte {
	m := dnsmessage.Message{Header: dnsmessage.Header{
		ID: h.ID, Response: true, OpCode: h.OpCode, RecursionDesired: h.RecursionDesired, RecursionAvailable: true, RCode: code,
	}, Answers: answers}
	if q != nil {
		m.Questions = []dnsmessage.Question{*q}
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	if !stream && len(out) > maxDatagram {
		return truncated(h, q)
	}
	return out
}

func truncated(h dnsmessage.Header, q *dnsmessage.Question) []byte {
	m := dnsmessage.Message{Header: dnsmessage.Header{
		ID: h.ID, Response: true, RecursionDesired: h.RecursionDesired, RecursionAvailable: true, Truncated: true,
	}, Questions: []dnsmessage.Question{*q}}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

// exchange asks the name servers of this host's resolver, one after the other.
func exchange(ctx context.Context, query []byte) ([]byte, error) {
	err := errors.New("there is no name server")
	for _, server := range nameServers() {
		for _, network := range []string{"udp", "tcp"} {
			var answer []byte
			answer, err = ask(ctx, network, server, query)
			if err == nil && len(answer) > 3 && answer[2]&0x02 != 0 && network == "udp" {
				continue // it was cut
			}
			if err == nil {
				return answer, nil
			}
			break
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

// nameServers reads them from resolv.conf(5).
func nameServers() []string {
	f, err := os.Open(resolvConf)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	data, _ := io.ReadAll(io.LimitReader(f, maxResolver))
	var out []string
	for line := range strings.Lines(string(data)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "nameserver" && len(out) < maxServers {
			if a, err := netip.ParseAddr(words[1]); err == nil {
				out = append(out, netip.AddrPortFrom(a, 53).String())
			}
		}
	}
	return out
}

func ask(ctx context.Context, network, server string, query []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	if network == "udp" {
		if _, err := c.Write(query); err != nil {
			return nil, err
		}
		answer := make([]byte, maxAnswer)
		n, err := c.Read(answer)
		return answer[:n], err
	}
	if err := WriteMessage(c, query); err != nil {
		return nil, err
	}
	return ReadMessage(c, maxAnswer)
}

// WriteMessage writes a message of DNS over TCP (RFC 1035, section 4.2.2).
func WriteMessage(w io.Writer, m []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...)) //nolint:gosec // a message is at most 64 KiB
	return err
}

// ReadMessage reads one, of at most so many bytes.
func ReadMessage(r io.Reader, most int) ([]byte, error) {
	var n [2]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint16(n[:]))
	if size > most {
		return nil, errors.New("the message is too long")
	}
	m := make([]byte, size)
	_, err := io.ReadFull(r, m)
	return m, err
}
