package userland

import (
	"strings"
)

func runTrue(*call) int  { return exitOK }
func runFalse(*call) int { return exitFailure }

// runEcho prints its arguments. Like GNU and busybox it knows -n, -e and -E.
func runEcho(c *call) int {
	args, newline, escapes := c.args, true, false
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && strings.Trim(args[0][1:], "neE") == "" {
		for _, f := range args[0][1:] {
			switch f {
			case 'n':
				newline = false
			case 'e':
				escapes = true
			case 'E':
				escapes = false
			}
		}
		args = args[1:]
	}
	text := strings.Join(args, " ")
	if escapes {
		var stop bool
		if text, stop = unescape(text, escapeEcho); stop {
			newline = false
		}
	}
	if newline {
		text += "\n"
	}
	c.out.WriteString(text)
	return exitOK
}

// escapeStyle says which octal form an escape has.
type escapeStyle int

const (
	escapeEcho   escapeStyle = iota // \NNN or \0NNN, and \c ends all output
	escapePrintf                    // \NNN
)

// unescape replaces backslash escapes. stop reports a \c.
func unescape(s string, style escapeStyle) (out string, stop bool) {
	if !strings.Contains(s, `\`) {
		return s, false
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch s[i] {
		case 'c':
			if style == escapeEcho {
				return b.String(), true
			}
			b.WriteString(`\c`)
		case 'x':
			v, n := digits(s[i+1:], 16, 2)
			if n == 0 {
				b.WriteString(`\x`)
			} else {
				b.WriteByte(byte(v))
			}
			i += n
		case '0', '1', '2', '3', '4', '5', '6', '7':
			start := i
			if style == escapeEcho && s[i] == '0' {
				start = i + 1
			}
			v, n := digits(s[start:], 8, 3)
			b.WriteByte(byte(v))
			i = start + n - 1
		default:
			if r := strings.IndexByte(`abefnrtv\"`, s[i]); r >= 0 && !(s[i] == '"' && style == escapeEcho) {
				b.WriteByte("\a\b\x1b\f\n\r\t\v\\\""[r])
			} else {
				b.WriteString(s[i-1 : i+1])
			}
		}
	}
	return b.String(), false
}

// digits reads up to width digits of a base from the start of s.
func digits(s string, base, width int) (v, n int) {
	for n < len(s) && n < width {
		d := strings.IndexByte("0123456789abcdef", s[n]|0x20)
		if s[n] >= '0' && s[n] <= '9' {
			d = int(s[n] - '0')
		}
		if d < 0 || d >= base {
			break
		}
		v = v*base + d
		n++
	}
	return v, n
}
