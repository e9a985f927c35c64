package userland

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// trSet is a set of bytes in the order given. Like GNU tr this works on bytes.
type trSet struct {
	bytes []byte
	// fill is where "[c*]" stands, the character that fills up to the length of
	// the first set; -1 when there is none.
	fill     int
	fillByte byte
}

func runTR(c *call) int {
	o, args, ok := c.parse("+cCdst", longOptions{"complement": 'c', "delete": 'd', "squeeze-repeats": 's', "truncate-set1": 't'})
	if !ok {
		return exitFailure
	}
	del, squeeze := o.has('d'), o.has('s')
	want := 2
	if del != squeeze {
		want = 1
	}
	switch {
	case len(args) < want:
		return c.usageError("missing operand")
	case len(args) > 2 || (del && !squeeze && len(args) > 1):
		return c.usageError("extra operand '%s'", args[len(args)-1])
	}
	f, err := newTrFilter(args, o)
	if err != nil {
		return c.errorf("%s", err)
	}
	buf := make([]byte, bufSize)
	for {
		n, err := c.in.Read(buf)
		if n > 0 {
			if _, werr := c.out.Write(f.apply(buf[:n])); werr != nil {
				return exitFailure
			}
		}
		if errors.Is(err, io.EOF) {
			return exitOK
		}
		if err != nil {
			return c.fail("read error", err)
		}
	}
}

// trFilter is what tr does to a stream.
type trFilter struct {
	table    [256]byte
	del      [256]bool
	squeeze  [256]bool
	last     int // last byte written, or -1
	deleting bool
}

func newTrFilter(args []string, o options) (*trFilter, error) {
	f := &trFilter{last: -1, deleting: o.has('d')}
	for i := range f.table {
		f.table[i] = byte(i)
	}
	set1, err := parseTrSet(args[0])
	if err != nil {
		return nil, err
	}
	if o.has('c', 'C') {
		set1 = set1.complement()
	}
	var set2 trSet
	if len(args) > 1 {
		if set2, err = parseTrSet(args[1]); err != nil {
			return nil, err
		}
	}
	switch {
	case f.deleting:
		for _, b := range set1.bytes {
			f.del[b] = true
		}
	case len(args) > 1:
		if err := f.translate(set1, &set2, o.has('t')); err != nil {
			return nil, err
		}
	}
	if o.has('s') {
		last := set1
		if len(args) > 1 {
			last = set2
		}
		for _, b := range last.bytes {
			f.squeeze[b] = true
		}
	}
	return f, nil
}

// translate fills the table from the pairs of the two sets.
func (f *trFilter) translate(set1 trSet, set2 *trSet, truncate bool) error {
	if set2.fill >= 0 && len(set1.bytes) > len(set2.bytes) {
		fill := strings.Repeat(string([]byte{set2.fillByte}), len(set1.bytes)-len(set2.bytes))
		set2.bytes = append(set2.bytes[:set2.fill:set2.fill], append([]byte(fill), set2.bytes[set2.fill:]...)...)
	}
	if len(set2.bytes) == 0 {
		if len(set1.bytes) == 0 || truncate {
			return nil
		}
		return errors.New("when not truncating set1, string2 must be non-empty")
	}
	for i, b := range set1.bytes {
		if i >= len(set2.bytes) && truncate {
			break
		}
		f.table[b] = set2.bytes[min(i, len(set2.bytes)-1)]
	}
	return nil
}

// apply filters in place and returns what is left.
func (f *trFilter) apply(p []byte) []byte {
	out := p[:0]
	for _, b := range p {
		if f.del[b] {
			continue
		}
		b = f.table[b]
		if f.squeeze[b] && f.last == int(b) {
			continue
		}
		f.last = int(b)
		out = append(out, b)
	}
	return out
}

func (s trSet) complement() trSet {
	var in [256]bool
	for _, b := range s.bytes {
		in[b] = true
	}
	out := trSet{fill: -1}
	for i := range 256 {
		if !in[i] {
			out.bytes = append(out.bytes, byte(i))
		}
	}
	return out
}

// parseTrSet expands ranges, classes, escapes and repeats.
func parseTrSet(s string) (trSet, error) {
	set := trSet{fill: -1}
	for i := 0; i < len(s); {
		if s[i] == '[' {
			n, err := set.bracket(s[i:])
			if err != nil {
				return set, err
			}
			if n > 0 {
				i += n
				continue
			}
		}
		lo, n := trByte(s[i:])
		i += n
		if i+1 < len(s) && s[i] == '-' {
			hi, m := trByte(s[i+1:])
			if hi < lo {
				return set, fmt.Errorf("range-endpoints of '%c-%c' are in reverse collating sequence order", lo, hi)
			}
			for b := int(lo); b <= int(hi); b++ {
				set.bytes = append(set.bytes, byte(b))
			}
			i += 1 + m
			continue
		}
		set.bytes = append(set.bytes, lo)
	}
	return set, nil
}

// bracket reads [:class:], [=c=] or [c*n] and returns its length, or 0 when s
// starts with none of them.
func (s *trSet) bracket(text string) (int, error) {
	if strings.HasPrefix(text, "[:") {
		end := strings.Index(text, ":]")
		if end < 2 {
			return 0, nil
		}
		members, ok := trClass(text[2:end])
		if !ok {
			return 0, fmt.Errorf("invalid character class '%s'", text[2:end])
		}
		s.bytes = append(s.bytes, members...)
		return end + 2, nil
	}
	if strings.HasPrefix(text, "[=") && len(text) >= 5 && text[3:5] == "=]" {
		s.bytes = append(s.bytes, text[2])
		return 5, nil
	}
	if len(text) < 4 {
		return 0, nil
	}
	b, n := trByte(text[1:])
	rest := text[1+n:]
	end := strings.IndexByte(rest, ']')
	if !strings.HasPrefix(rest, "*") || end < 0 || strings.Trim(rest[1:end], "0123456789") != "" {
		return 0, nil
	}
	count := 0
	if digits := rest[1:end]; digits != "" {
		base := 10
		if digits[0] == '0' {
			base = 8
		}
		for _, d := range digits {
			if count = count*base + int(d-'0'); count > 1<<16 {
				return 0, errors.New("repeat count is too large")
			}
		}
	}
	if count == 0 {
		s.fill, s.fillByte = len(s.bytes), b
	}
	for range count {
		s.bytes = append(s.bytes, b)
	}
	return 1 + n + end + 1, nil
}

// trByte reads one byte, which may be written as an escape.
func trByte(s string) (byte, int) {
	if s[0] != '\\' || len(s) == 1 {
		return s[0], 1
	}
	if v, n := digits(s[1:], 8, 3); n > 0 {
		if v > 255 {
			v, n = v/8, n-1
		}
		return byte(v), 1 + n
	}
	if i := strings.IndexByte(`abfnrtv\`, s[1]); i >= 0 {
		return "\a\b\f\n\r\t\v\\"[i], 2
	}
	return s[1], 2
}

func trClass(name string) ([]byte, bool) {
	var member func(b byte) bool
	between := func(lo, hi byte) func(byte) bool { return func(b byte) bool { return b >= lo && b <= hi } }
	isDigit, isUpper, isLower := between('0', '9'), between('A', 'Z'), between('a', 'z')
	isAlpha := func(b byte) bool { return isUpper(b) || isLower(b) }
	switch name {
	case "digit":
		member = isDigit
	case "upper":
		member = isUpper
	case "lower":
		member = isLower
	case "alpha":
		member = isAlpha
	case "alnum":
		member = func(b byte) bool { return isAlpha(b) || isDigit(b) }
	case "blank":
		member = func(b byte) bool { return b == ' ' || b == '\t' }
	case "space":
		member = func(b byte) bool { return b == ' ' || b >= '\t' && b <= '\r' }
	case "cntrl":
		member = func(b byte) bool { return b < ' ' || b == 0x7f }
	case "print":
		member = between(' ', '~')
	case "graph":
		member = between('!', '~')
	case "punct":
		member = func(b byte) bool { return b > ' ' && b < 0x7f && !isAlpha(b) && !isDigit(b) }
	case "xdigit":
		member = func(b byte) bool { return isDigit(b) || b|0x20 >= 'a' && b|0x20 <= 'f' }
	default:
		return nil, false
	}
	var out []byte
	for i := range 256 {
		if member(byte(i)) {
			out = append(out, byte(i))
		}
	}
	return out, true
}
