package userland

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// sedCommand is one command of a sed script. Blocks and branches are resolved
// to indices of the flat list of commands.
type sedCommand struct {
	addr   [2]*sedAddress
	negate bool
	verb   byte
	text   string // of a, i, c; label of b, t, T; file of r, w
	target int    // of b, t, T, {
	status int    // of q, Q

	re          *regexp.Regexp // of s; nil means the last one used
	replacement []sedPart
	global      bool
	print       bool
	occurrence  int
	table       map[rune]rune // of y

	inRange  bool
	rangeEnd int // line at which the range ends, when it is known
}

// sedAddress selects lines.
type sedAddress struct {
	kind byte // 'n' number, '$', '/', '~' step, '+' count, '0' zero
	n    int
	step int
	re   *regexp.Regexp // nil: the last one used
}

// sedPart is a piece of an s command's replacement.
type sedPart struct {
	text  string
	group int  // with text == "": the group's number
	fold  byte // \U \L \u \l \E
}

// sedParser reads a script (POSIX sed, with GNU's common additions).
type sedParser struct {
	s        string
	i        int
	syntax   posixSyntax
	commands []*sedCommand
	labels   map[string]int
	open     []int // indices of unclosed {
}

func parseSed(script string, syntax posixSyntax) ([]*sedCommand, error) {
	p := &sedParser{s: script, syntax: syntax, labels: map[string]int{}}
	for {
		p.skip(" \t\n;")
		if p.i >= len(p.s) {
			break
		}
		if err := p.command(); err != nil {
			return nil, err
		}
	}
	if len(p.open) > 0 {
		return nil, errors.New("unmatched '{'")
	}
	for _, c := range p.commands {
		switch c.verb {
		case 'b', 't', 'T':
			if c.text == "" {
				c.target = len(p.commands)
				continue
			}
			target, ok := p.labels[c.text]
			if !ok {
				return nil, fmt.Errorf("can't find label for jump to '%s'", c.text)
			}
			c.target = target
		}
	}
	return p.commands, nil
}

func (p *sedParser) skip(chars string) {
	for p.i < len(p.s) && strings.IndexByte(chars, p.s[p.i]) >= 0 {
		p.i++
	}
}

func (p *sedParser) peek() byte {
	if p.i < len(p.s) {
		return p.s[p.i]
	}
	return 0
}

func (p *sedParser) command() error {
	c := &sedCommand{}
	var err error
	if c.addr[0], err = p.address(); err != nil {
		return err
	}
	p.skip(" \t")
	if c.addr[0] != nil && p.peek() == ',' {
		p.i++
		p.skip(" \t")
		if c.addr[1], err = p.secondAddress(); err != nil {
			return err
		}
	}
	if a := c.addr[0]; a != nil && a.kind == '0' && (c.addr[1] == nil || c.addr[1].kind != '/') {
		return errors.New("invalid usage of line address 0")
	}
	p.skip(" \t")
	for p.peek() == '!' {
		c.negate = true
		p.i++
		p.skip(" \t")
	}
	c.verb = p.peek()
	if c.verb == 0 {
		return errors.New("missing command")
	}
	p.i++
	return p.body(c)
}

func (p *sedParser) body(c *sedCommand) error {
	switch c.verb {
	case '#':
		if c.addr[0] != nil {
			return errors.New("comments don't accept any addresses")
		}
		p.restOfLine()
		return nil
	case '{':
		p.open = append(p.open, len(p.commands))
		p.commands = append(p.commands, c)
		return nil
	case '}':
		if len(p.open) == 0 || c.addr[0] != nil {
			return errors.New("unexpected '}'")
		}
		p.commands[p.open[len(p.open)-1]].target = len(p.commands)
		p.open = p.open[:len(p.open)-1]
		return p.end()
	case ':':
		label := strings.TrimSpace(p.restOf("\n;"))
		if label == "" || c.addr[0] != nil {
			return errors.New("\":\" lacks a label")
		}
		p.labels[label] = len(p.commands)
		return nil
	}
	p.commands = append(p.commands, c)
	switch c.verb {
	case 'a', 'i', 'c':
		return p.textArgument(c)
	case 'b', 't', 'T':
		c.text = strings.TrimSpace(p.restOf("\n;}"))
		return nil
	case 'r', 'w':
		p.skip(" \t")
		if c.text = p.restOfLine(); c.text == "" {
			return errors.New("missing filename in r/R/w/W commands")
		}
		return nil
	case 's':
		return p.substitute(c)
	case 'y':
		return p.transliterate(c)
	case 'q', 'Q':
		p.skip(" \t")
		start := p.i
		p.skip("0123456789")
		c.status = atoi(p.s[start:p.i])
		return p.end()
	case 'd', 'D', 'g', 'G', 'h', 'H', 'l', 'n', 'N', 'p', 'P', 'x', '=', 'z':
		return p.end()
	}
	return fmt.Errorf("unknown command: '%c'", c.verb)
}

// end checks that nothing but a separator follows a command.
func (p *sedParser) end() error {
	p.skip(" \t")
	switch p.peek() {
	case 0, '\n', ';', '}', '#':
		return nil
	}
	return errors.New("extra characters after command")
}

func (p *sedParser) restOf(stop string) string {
	start := p.i
	for p.i < len(p.s) && strings.IndexByte(stop, p.s[p.i]) < 0 {
		p.i++
	}
	return p.s[start:p.i]
}

func (p *sedParser) restOfLine() string { return p.restOf("\n") }

// textArgument reads the text of a, i and c: "a text" on the same line or, after
// "a\", on the following ones.
func (p *sedParser) textArgument(c *sedCommand) error {
	p.skip(" \t")
	if p.peek() == '\\' {
		p.i++
		line := p.i
		p.skip(" \t")
		if p.peek() == '\n' {
			p.i++
		} else {
			p.i = line // "a\  text" keeps the blanks
		}
	}
	var b strings.Builder
	for p.i < len(p.s) && p.s[p.i] != '\n' {
		if p.s[p.i] == '\\' && p.i+1 < len(p.s) {
			p.i++
		}
		b.WriteByte(p.s[p.i])
		p.i++
	}
	if b.Len() == 0 && p.i >= len(p.s) {
		return fmt.Errorf("expected \\ after 'a', 'c' or 'i'")
	}
	c.text = b.String() + "\n"
	return nil
}

func (p *sedParser) number() int {
	start := p.i
	p.skip("0123456789")
	n, err := strconv.Atoi(p.s[start:p.i])
	if err != nil {
		return 1 << 30
	}
	return n
}

func (p *sedParser) address() (*sedAddress, error) {
	switch c := p.peek(); {
	case c >= '0' && c <= '9':
		n := p.number()
		if p.peek() == '~' {
			p.i++
			return &sedAddress{kind: '~', n: n, step: p.number()}, nil
		}
		if n == 0 {
			return &sedAddress{kind: '0'}, nil
		}
		return &sedAddress{kind: 'n', n: n}, nil
	case c == '$':
		p.i++
		return &sedAddress{kind: '$'}, nil
	case c == '/' || c == '\\':
		if c == '\\' {
			p.i++
		}
		text, err := p.delimited(true)
		if err != nil {
			return nil, errors.New("unterminated address regex")
		}
		fold := false
		for p.peek() == 'I' || p.peek() == 'M' {
			fold = fold || p.peek() == 'I'
			p.i++
		}
		re, err := p.compile(text, fold)
		return &sedAddress{kind: '/', re: re}, err
	}
	return nil, nil
}

func (p *sedParser) secondAddress() (*sedAddress, error) {
	if c := p.peek(); c == '+' || c == '~' {
		p.i++
		if d := p.peek(); d < '0' || d > '9' {
			return nil, errors.New("expected a number")
		}
		return &sedAddress{kind: c, n: p.number(), step: -1}, nil
	}
	a, err := p.address()
	if err == nil && a == nil {
		err = errors.New("unexpected ','")
	}
	return a, err
}

// compile compiles a pattern; the empty one means the last one used, at run time.
func (p *sedParser) compile(text string, fold bool) (*regexp.Regexp, error) {
	if text == "" {
		return nil, nil
	}
	return compilePOSIX(text, p.syntax, fold)
}

// delimited reads up to the delimiter that it starts with. An escaped
// delimiter stands for itself. In a pattern a bracket expression may contain it.
func (p *sedParser) delimited(isPattern bool) (string, error) {
	delim := p.peek()
	if delim == 0 || delim == '\n' {
		return "", errors.New("unterminated command")
	}
	p.i++
	var b strings.Builder
	for p.i < len(p.s) {
		c := p.s[p.i]
		switch {
		case c == delim:
			p.i++
			return b.String(), nil
		case c == '\\' && p.i+1 < len(p.s):
			p.i++
			if p.s[p.i] != delim {
				b.WriteByte('\\')
			} else if isPattern && strings.IndexByte(`.*[]^$+?(){}|`, delim) >= 0 {
				b.WriteByte('\\') // "s.a\.b.c.": an operator as the delimiter becomes literal
			}
			b.WriteByte(p.s[p.i])
		case c == '[' && isPattern:
			n := bracketLen(p.s[p.i:])
			b.WriteString(p.s[p.i : p.i+n])
			p.i += n
			continue
		default:
			b.WriteByte(c)
		}
		p.i++
	}
	return "", errors.New("unterminated command")
}

// bracketLen is the length of the bracket expression s starts with, or 1.
func bracketLen(s string) int {
	i := 1
	if i < len(s) && s[i] == '^' {
		i++
	}
	if i < len(s) && s[i] == ']' {
		i++
	}
	for i < len(s) && s[i] != '\n' {
		switch {
		case s[i] == ']':
			return i + 1
		case s[i] == '[' && i+1 < len(s) && strings.IndexByte(":.=", s[i+1]) >= 0:
			n := strings.Index(s[i+2:], s[i+1:i+2]+"]")
			if n < 0 {
				return 1
			}
			i += n + 4
		default:
			i++
		}
	}
	return 1
}

func (p *sedParser) substitute(c *sedCommand) error {
	delim := p.peek()
	pattern, err := p.delimited(true)
	if err != nil {
		return errors.New("unterminated 's' command")
	}
	p.i-- // the middle delimiter begins the replacement
	if p.s[p.i] != delim {
		return errors.New("unterminated 's' command")
	}
	replacement, err := p.delimited(false)
	if err != nil {
		return errors.New("unterminated 's' command")
	}
	fold := false
	for done := false; !done; {
		switch f := p.peek(); {
		case f == 'g':
			c.global = true
		case f == 'p':
			c.print = true
		case f == 'i' || f == 'I':
			fold = true
		case f == 'm' || f == 'M':
			return errors.New("the M flag is not supported")
		case f == 'w' || f == 'e':
			return fmt.Errorf("the %c flag is not supported", f)
		case f >= '1' && f <= '9':
			c.occurrence = p.number()
			continue
		default:
			done = true
			continue
		}
		p.i++
	}
	if c.re, err = p.compile(pattern, fold); err != nil {
		return err
	}
	c.replacement = parseReplacement(replacement)
	for _, part := range c.replacement {
		if c.re != nil && part.group > c.re.NumSubexp() {
			return fmt.Errorf("invalid reference \\%d on 's' command's RHS", part.group)
		}
	}
	if err := p.end(); err != nil {
		return errors.New("unknown option to 's'")
	}
	return nil
}

func parseReplacement(s string) []sedPart {
	var parts []sedPart
	var text strings.Builder
	flush := func() {
		if text.Len() > 0 {
			parts = append(parts, sedPart{text: text.String()})
			text.Reset()
		}
	}
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '&':
			flush()
			parts = append(parts, sedPart{group: 0})
		case s[i] == '\\' && i+1 < len(s):
			i++
			switch {
			case s[i] >= '0' && s[i] <= '9':
				flush()
				parts = append(parts, sedPart{group: int(s[i] - '0')})
			case strings.IndexByte("ULulE", s[i]) >= 0:
				flush()
				parts = append(parts, sedPart{fold: s[i]})
			case strings.IndexByte("ntrfva", s[i]) >= 0:
				text.WriteByte("\n\t\r\f\v\a"[strings.IndexByte("ntrfva", s[i])])
			default:
				text.WriteByte(s[i])
			}
		default:
			text.WriteByte(s[i])
		}
	}
	flush()
	return parts
}

func (p *sedParser) transliterate(c *sedCommand) error {
	from, err := p.delimited(false)
	if err != nil {
		return errors.New("unterminated 'y' command")
	}
	p.i--
	to, err := p.delimited(false)
	if err != nil {
		return errors.New("unterminated 'y' command")
	}
	unescapeY := strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\t`, "\t")
	a, b := []rune(unescapeY.Replace(from)), []rune(unescapeY.Replace(to))
	if len(a) != len(b) {
		return errors.New("strings for 'y' command are different lengths")
	}
	c.table = map[rune]rune{}
	for i, r := range a {
		if _, ok := c.table[r]; !ok {
			c.table[r] = b[i]
		}
	}
	return p.end()
}
