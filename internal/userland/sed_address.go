package userland

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// selects reports whether the addresses of a command fit the current line.
func (s *sedRun) selects(c *sedCommand) (bool, error) {
	if c.addr[0] == nil {
		return true, nil
	}
	if c.addr[1] == nil {
		return s.matches(c.addr[0])
	}
	if c.inRange {
		return true, s.leaveRange(c)
	}
	if c.addr[0].kind == '0' {
		if s.line != 1 {
			return false, nil
		}
		c.inRange = true
		return true, s.leaveRange(c)
	}
	hit, err := s.matches(c.addr[0])
	if err != nil || !hit {
		return false, err
	}
	switch b := c.addr[1]; b.kind {
	case 'n':
		c.inRange, c.rangeEnd = b.n > s.line, b.n
	case '+':
		c.inRange, c.rangeEnd = b.n > 0, s.line+b.n
	case '~':
		end := s.line
		if b.step > 0 || b.n > 0 {
			n := max(1, b.n)
			end = (s.line + n - 1) / n * n
		}
		c.inRange, c.rangeEnd = end > s.line, end
	case '$':
		c.inRange = !s.in.atEnd()
	default:
		c.inRange = true // the end is looked for from the next line on
	}
	return true, nil
}

// leaveRange ends a range whose last line this is.
func (s *sedRun) leaveRange(c *sedCommand) error {
	switch b := c.addr[1]; b.kind {
	case 'n', '+':
		c.inRange = s.line < c.rangeEnd
	case '~':
		if b.step >= 0 {
			hit, err := s.matches(b)
			c.inRange = !hit
			return err
		}
		c.inRange = s.line < c.rangeEnd
	default:
		hit, err := s.matches(b)
		c.inRange = !hit
		return err
	}
	return nil
}

func (s *sedRun) matches(a *sedAddress) (bool, error) {
	switch a.kind {
	case 'n':
		return s.line == a.n, nil
	case '$':
		return s.in.atEnd(), nil
	case '~':
		if a.step <= 0 {
			return s.line == a.n, nil
		}
		return s.line >= a.n && (s.line-a.n)%a.step == 0, nil
	case '/':
		re, err := s.expression(a.re)
		if err != nil {
			return false, err
		}
		return re.MatchString(s.pattern), nil
	}
	return false, nil
}

// expression resolves the empty pattern to the last one used.
func (s *sedRun) expression(re *regexp.Regexp) (*regexp.Regexp, error) {
	if re == nil {
		re = s.last
	}
	if re == nil {
		return nil, errNoExpression
	}
	s.last = re
	return re, nil
}

func (s *sedRun) substitute(c *sedCommand) error {
	re, err := s.expression(c.re)
	if err != nil {
		return err
	}
	limit := -1
	if !c.global {
		limit = max(1, c.occurrence)
	}
	all := re.FindAllStringSubmatchIndex(s.pattern, limit)
	if len(all) < max(1, c.occurrence) {
		return nil
	}
	var b strings.Builder
	from := 0
	for _, m := range all[max(1, c.occurrence)-1:] {
		b.WriteString(s.pattern[from:m[0]])
		expandReplacement(&b, c.replacement, s.pattern, m)
		from = m[1]
		if b.Len() > maxHeld {
			return errTooLarge
		}
	}
	b.WriteString(s.pattern[from:])
	s.pattern = b.String()
	s.substituted = true
	if c.print {
		s.print(s.pattern)
	}
	return nil
}

// expandReplacement writes a replacement with its groups and case changes.
func expandReplacement(b *strings.Builder, parts []sedPart, text string, m []int) {
	var all, one byte // \U or \L until \E; \u or \l for one character
	for _, p := range parts {
		switch p.fold {
		case 'U', 'L':
			all, one = p.fold, 0
			continue
		case 'E':
			all, one = 0, 0
			continue
		case 'u', 'l':
			one = p.fold
			continue
		}
		s := p.text
		if s == "" && 2*p.group+1 < len(m) && m[2*p.group] >= 0 {
			s = text[m[2*p.group]:m[2*p.group+1]]
		}
		switch all {
		case 'U':
			s = strings.ToUpper(s)
		case 'L':
			s = strings.ToLower(s)
		}
		if one != 0 && s != "" {
			r, n := utf8.DecodeRuneInString(s)
			if one == 'u' {
				s = string(unicode.ToUpper(r)) + s[n:]
			} else {
				s = string(unicode.ToLower(r)) + s[n:]
			}
			one = 0
		}
		b.WriteString(s)
	}
}

// sedVisible is the notation of sed's l command.
func sedVisible(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c == '\\':
			b.WriteString(`\\`)
		case strings.IndexByte("\a\b\f\n\r\t\v", c) >= 0:
			b.WriteString(`\` + "abfnrtv"[strings.IndexByte("\a\b\f\n\r\t\v", c):][:1])
		case c < ' ' || c >= 0x7f:
			fmt.Fprintf(&b, `\%03o`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
