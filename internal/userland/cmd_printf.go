package userland

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxWidth bounds a field width, so that a format cannot ask for gigabytes.
const maxWidth = 1 << 20

// printfState is one printf command on its way through its arguments.
type printfState struct {
	c      *call
	out    strings.Builder
	args   []string
	used   bool // an argument was consumed in this pass
	stop   bool // \c in a %b
	status int
}

// runPrintf formats its arguments; the format is used again while arguments are
// left (POSIX printf).
func runPrintf(c *call) int {
	args := c.args
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return c.usageError("missing operand")
	}
	p := &printfState{c: c, args: args[1:]}
	for {
		p.used = false
		if err := p.pass(args[0]); err != nil {
			c.out.WriteString(p.out.String())
			return c.errorf("%s", err)
		}
		c.out.WriteString(p.out.String())
		p.out.Reset()
		if p.stop || !p.used || len(p.args) == 0 || c.stopped() {
			return p.status
		}
	}
}

func (p *printfState) next() (string, bool) {
	if len(p.args) == 0 {
		return "", false
	}
	s := p.args[0]
	p.args = p.args[1:]
	p.used = true
	return s, true
}

// pass writes the format once.
func (p *printfState) pass(format string) error {
	for i := 0; i < len(format) && !p.stop; {
		switch {
		case format[i] == '\\':
			n := escapeLen(format[i:])
			text, _ := unescape(format[i:i+n], escapePrintf)
			if format[i:i+n] == `\c` {
				p.stop = true
				return nil
			}
			p.out.WriteString(text)
			i += n
		case format[i] != '%':
			p.out.WriteByte(format[i])
			i++
		case strings.HasPrefix(format[i:], "%%"):
			p.out.WriteByte('%')
			i += 2
		default:
			n, err := p.directive(format[i:])
			if err != nil {
				return err
			}
			i += n
		}
	}
	return nil
}

// escapeLen is the length of the escape that s starts with.
func escapeLen(s string) int {
	if len(s) < 2 {
		return len(s)
	}
	switch {
	case s[1] == 'x':
		_, n := digits(s[2:], 16, 2)
		return 2 + n
	case s[1] >= '0' && s[1] <= '7':
		_, n := digits(s[1:], 8, 3)
		return 1 + n
	}
	return 2
}

// directive writes the conversion that s starts with and returns its length.
func (p *printfState) directive(s string) (int, error) {
	i := 1
	for i < len(s) && strings.IndexByte("-+ #0'", s[i]) >= 0 {
		i++
	}
	flags := strings.ReplaceAll(s[1:i], "'", "")
	width, n, err := p.number(s[i:])
	if err != nil {
		return 0, err
	}
	i += n
	if width < 0 {
		flags, width = flags+"-", -width
	}
	precision := -1
	if i < len(s) && s[i] == '.' {
		i++
		precision, n, err = p.number(s[i:])
		if err != nil {
			return 0, err
		}
		i += n
	}
	for i < len(s) && strings.IndexByte("hlLqjzt", s[i]) >= 0 && i+1 < len(s) {
		i++
	}
	if i >= len(s) {
		return 0, fmt.Errorf("%s: missing conversion", s)
	}
	spec := "%" + flags
	if width > 0 {
		spec += strconv.Itoa(width)
	}
	if precision >= 0 {
		spec += "." + strconv.Itoa(precision)
	}
	return i + 1, p.convert(s[:i+1], spec, s[i], precision)
}

// number reads a width or precision: digits or '*'.
func (p *printfState) number(s string) (v, n int, err error) {
	if strings.HasPrefix(s, "*") {
		arg, _ := p.next()
		v, n = int(p.integer(arg)), 1
	} else {
		for n < len(s) && s[n] >= '0' && s[n] <= '9' && v <= maxWidth {
			v = v*10 + int(s[n]-'0')
			n++
		}
	}
	if v > maxWidth || v < -maxWidth {
		return 0, 0, fmt.Errorf("field width too large")
	}
	return v, n, nil
}

func (p *printfState) convert(directive, spec string, verb byte, precision int) error {
	arg, _ := p.next()
	switch verb {
	case 'd', 'i':
		p.out.WriteString(formatInt(spec, p.integer(arg), precision))
	case 'u':
		p.out.WriteString(formatInt(spec, uint64(p.integer(arg)), precision))
	case 'o', 'x', 'X':
		fmt.Fprintf(&p.out, zeroless(spec, precision)+string(verb), uint64(p.integer(arg)))
	case 'e', 'E', 'f', 'F', 'g', 'G':
		fmt.Fprintf(&p.out, spec+string(verb), p.float(arg))
	case 'c':
		_, n := utf8.DecodeRuneInString(arg)
		p.pad(spec, arg[:min(n, len(arg))])
	case 's', 'b', 'q':
		switch verb {
		case 'b':
			// %b takes \0NNN as echo does and \NNN as the format does.
			arg, p.stop = unescape(arg, escapeEcho)
		case 'q':
			arg = quoteArgs([]string{arg})
		}
		// Go would count runes, C counts bytes.
		if precision >= 0 && precision < len(arg) {
			arg = arg[:precision]
		}
		spec, _, _ = strings.Cut(spec, ".")
		p.pad(spec, arg)
	default:
		return fmt.Errorf("%s: invalid directive", directive)
	}
	return nil
}

// pad writes a string in the width of spec, counted in bytes as C does.
func (p *printfState) pad(spec, s string) {
	width, _ := strconv.Atoi(strings.TrimLeft(spec, "%-+ #0"))
	fill := strings.Repeat(" ", max(0, width-len(s)))
	if strings.Contains(spec, "-") {
		p.out.WriteString(s + fill)
	} else {
		p.out.WriteString(fill + s)
	}
}

// zeroless drops the 0 flag when there is a precision, which C ignores then.
func zeroless(spec string, precision int) string {
	if precision < 0 {
		return spec
	}
	return "%" + strings.TrimLeft(spec[1:], "0")
}

func formatInt(spec string, v any, precision int) string {
	return fmt.Sprintf(zeroless(spec, precision)+"d", v)
}

// integer reads a C integer constant, or 'c for a character's code.
func (p *printfState) integer(s string) int64 {
	t := strings.TrimSpace(s)
	if t == "" {
		return 0
	}
	if t[0] == '\'' || t[0] == '"' {
		r, n := utf8.DecodeRuneInString(t[1:])
		if r == utf8.RuneError && n == 1 {
			return int64(t[1])
		}
		if n == 0 {
			return 0
		}
		return int64(r)
	}
	if strings.ContainsAny(t, "_bBoO") {
		return p.bad(s)
	}
	if v, err := strconv.ParseInt(t, 0, 64); err == nil {
		return v
	}
	if v, err := strconv.ParseUint(t, 0, 64); err == nil {
		return int64(v)
	}
	n := 0
	for n < len(t) && (t[n] >= '0' && t[n] <= '9' || n == 0 && (t[n] == '-' || t[n] == '+')) {
		n++
	}
	p.bad(s)
	v, err := strconv.ParseInt(t[:n], 10, 64)
	if err != nil && v == 0 {
		return 0
	}
	return v
}

func (p *printfState) float(s string) float64 {
	t := strings.TrimSpace(s)
	if t == "" {
		return 0
	}
	if t[0] == '\'' || t[0] == '"' {
		return float64(p.integer(s))
	}
	v, err := strconv.ParseFloat(t, 64)
	if err != nil {
		p.bad(s)
	}
	return v
}

// bad reports a number that is none; printf goes on with what it could read.
func (p *printfState) bad(s string) int64 {
	p.c.errorf("%s: expected a numeric value", s)
	p.status = exitFailure
	return 0
}
