package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/mvmctl/mvmctl/internal/egress"
)

func question(t testing.TB, name string, kind dnsmessage.Type) []byte {
	t.Helper()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true}, Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}}}
	out, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// answered is an answer in words: its code, and what its records say.
func answered(t testing.TB, answer []byte) string {
	t.Helper()
	if answer == nil {
		return "nothing"
	}
	var m dnsmessage.Message
	if err := m.Unpack(answer); err != nil || m.ID != 7 || !m.Response {
		t.Fatalf("%x: %v, %+v", answer, err, m.Header)
	}
	out := strings.TrimPrefix(m.RCode.String(), "RCode")
	if m.Truncated {
		out += " cut"
	}
	for _, r := range m.Answers {
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			out += " " + netip.AddrFrom4(b.A).String()
		case *dnsmessage.AAAAResource:
			out += " " + netip.AddrFrom16(b.AAAA).String()
		default:
			out += fmt.Sprintf(" %T", b)
		}
	}
	return out
}

func TestAnswer(t *testing.T) {
	t.Parallel()
	strict := newWorld(t, policyOf(t, ".ok.test:443"))
	open := newWorld(t, egress.Policy{Open: true})
	for _, w := range []*world{strict, open} {
		w.names["ok.test"] = []string{"7.7.7.1", "::ffff:7.7.7.2", "2001:db8::1", "198.18.0.9"}
		w.names["evil.test"] = []string{"7.7.7.3"}
		w.proxy.o.Local = func(name string) []netip.Addr {
			if name == "peer" {
				return []netip.Addr{netip.MustParseAddr("10.9.0.2")}
			}
			return nil
		}
		w.proxy.o.Exchange = func(_ context.Context, query []byte) ([]byte, error) {
			w.looked = append(w.looked, "exchange")
			out := slices.Clone(query)
			out[2] |= 0x80
			return out, nil
		}
	}
	for _, tt := range []struct {
		name         string
		kind         dnsmessage.Type
		strict, open string
	}{
		{"ok.test.", dnsmessage.TypeA, "Success 198.18.0.1", "Success 7.7.7.1 7.7.7.2"},
		{"OK.test.", dnsmessage.TypeAAAA, "Success fdb1:4e71:9a02::1", "Success 2001:db8::1"},
		{"evil.test.", dnsmessage.TypeA, "Success 198.18.0.2", "Success 7.7.7.3"},
		{"none.test.", dnsmessage.TypeA, "Success 198.18.0.3", "NameError"},
		{"none.ok.test.", dnsmessage.TypeA, "NameError", "NameError"},
		{"peer.", dnsmessage.TypeA, "Success 10.9.0.2", "Success 10.9.0.2"},
		{"localhost.", dnsmessage.TypeA, "NameError", "NameError"},
		{"1.2.3.4.", dnsmessage.TypeA, "NameError", "NameError"},
		{"ok.test.", dnsmessage.TypeTXT, "Success", "Success"},
		{"ok.test.", dnsmessage.TypeHTTPS, "Success", "Success"},
		{"4.3.2.1.in-addr.arpa.", dnsmessage.TypePTR, "Success", "Success"},
	} {
		for _, side := range []struct {
			w    *world
			want string
		}{{strict, tt.strict}, {open, tt.open}} {
			if got := answered(t, side.w.proxy.Answer(t.Context(), question(t, tt.name, tt.kind), false)); got != side.want {
				t.Errorf("%s %v: %q, want %q", tt.name, tt.kind, got, side.want)
			}
		}
	}
	if slices.Contains(strict.looked, "exchange") || !slices.Contains(open.looked, "exchange") {
		t.Errorf("passed on: %q, %q", strict.looked, open.looked)
	}
	for _, name := range strict.looked {
		if !strings.HasSuffix(name, "ok.test") {
			t.Errorf("%s left under the strict policy", name)
		}
	}
}

// What is malformed gets an answer that says so, or none.
func TestAnswerMalformed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policyOf(t, "ok.test"))
	good := question(t, "ok.test.", dnsmessage.TypeA)
	set := func(at int, b ...byte) []byte { out := slices.Clone(good); copy(out[at:], b); return out }
	for what, tt := range map[string]struct {
		query []byte
		want  string
	}{
		"nothing":        {nil, "nothing"},
		"an answer":      {set(2, 0x81), "nothing"},
		"too long":       {append(slices.Clone(good), make([]byte, maxQuery)...), "nothing"},
		"no question":    {set(4, 0, 0), "FormatError"},
		"many questions": {set(4, 3, 232), "FormatError"},
		"two questions":  {append(set(4, 0, 2), good[12:]...), "FormatError"},
		"another class":  {append(good[:len(good)-2:len(good)-2], 0, 3), "Refused"},
		"another opcode": {set(2, 0x29), "FormatError"},
		"a loop":         {append(good[:12:12], 0xc0, 12, 0, 1, 0, 1), "FormatError"},
		"a long label":   {append(append(good[:12:12], 64), make([]byte, 70)...), "FormatError"},
	} {
		if got := answered(t, w.proxy.Answer(t.Context(), tt.query, false)); got != tt.want {
			t.Errorf("%s: %q, want %q", what, got, tt.want)
		}
	}
}

// Names that carry data leave slowly, also below a name that is allowed.
func TestAnswerIsLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, policyOf(t, ".ok.test"))
	for i := range lookupBurst + 100 {
		w.proxy.Answer(t.Context(), question(t, fmt.Sprintf("n%d.ok.test.", i), dnsmessage.TypeA), false)
	}
	if n := len(w.looked); n < lookupBurst || n > lookupBurst+50 || !strings.Contains(w.said(), "too many names") {
		t.Errorf("%d names left; denied: %.200s", n, w.said())
	}
}

// An answer that is too long for a datagram is cut over UDP and whole over TCP.
func TestAnswerTruncated(t *testing.T) {
	t.Parallel()
	w := newWorld(t, egress.Policy{Open: true})
	w.proxy.o.Exchange = func(_ context.Context, query []byte) ([]byte, error) {
		out := append(slices.Clone(query), make([]byte, 2000)...)
		out[2] |= 0x80
		return out, nil
	}
	q := question(t, "big.test.", dnsmessage.TypeTXT)
	if got := answered(t, w.proxy.Answer(t.Context(), q, false)); got != "Success cut" {
		t.Error(got)
	}
	if got := w.proxy.Answer(t.Context(), q, true); len(got) != len(q)+2000 || binary.BigEndian.Uint16(got) != 7 {
		t.Errorf("%d bytes", len(got))
	}
	w.proxy.o.Exchange = func(_ context.Context, query []byte) ([]byte, error) {
		out := slices.Clone(query)
		out[2] |= 0x80
		out[0] ^= 1
		return out, nil
	}
	if got := answered(t, w.proxy.Answer(t.Context(), q, false)); got != "ServerFailure" {
		t.Errorf("an answer to another question: %s", got)
	}
}

// FuzzAnswer: whatever a guest asks, the answer is a message with its id, or none.
func FuzzAnswer(f *testing.F) {
	f.Add(question(f, "ok.test.", dnsmessage.TypeA))
	f.Add(question(f, "a.b.", dnsmessage.TypeAAAA))
	f.Add([]byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1})
	r, err := egress.ParseRule(".ok.test")
	if err != nil {
		f.Fatal(err)
	}
	p := New(Options{
		Policy: egress.Policy{Allow: []egress.Rule{r}},
		Lookup: func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("7.7.7.7")}, nil
		},
	})
	f.Fuzz(func(t *testing.T, query []byte) {
		answer := p.Answer(t.Context(), query, false)
		if answer == nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(answer); err != nil || !m.Response || !bytes.Equal(answer[:2], query[:2]) || len(answer) > maxDatagram {
			t.Errorf("%x is answered by %x: %v", query, answer, err)
		}
	})
}
