package userland

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// runExpr evaluates an expression (POSIX expr).
func runExpr(c *call) int {
	c.trouble = exitUsage
	args := c.args
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return c.usageError("missing operand")
	}
	p := &exprParser{args: args}
	v, err := p.binary(0)
	if err == nil && len(p.args) > 0 {
		err = fmt.Errorf("syntax error: unexpected argument '%s'", p.args[0])
	}
	if err != nil {
		c.errorf("%s", err)
		return exitUsage
	}
	c.printf("%s\n", v)
	return boolInt(isNull(v))
}

func isNull(v string) bool {
	n, err := strconv.ParseInt(v, 10, 64)
	return v == "" || err == nil && n == 0
}

type exprParser struct {
	args  []string
	depth int
}

// exprLevel is the precedence of an operator, or -1.
func exprLevel(op string) int {
	switch op {
	case "|":
		return 0
	case "&":
		return 1
	case "=", "==", ">", ">=", "<", "<=", "!=":
		return 2
	case "+", "-":
		return 3
	case "*", "/", "%":
		return 4
	case ":":
		return 5
	}
	return -1
}

func (p *exprParser) binary(level int) (string, error) {
	if p.depth++; p.depth > maxNesting*6 {
		return "", errors.New("expression is nested too deeply")
	}
	defer func() { p.depth-- }()
	if level > 5 {
		return p.primary()
	}
	left, err := p.binary(level + 1)
	for err == nil && len(p.args) > 0 && exprLevel(p.args[0]) == level {
		op := p.args[0]
		p.args = p.args[1:]
		var right string
		if right, err = p.binary(level + 1); err == nil {
			left, err = exprApply(left, op, right)
		}
	}
	return left, err
}

func (p *exprParser) primary() (string, error) {
	if len(p.args) == 0 {
		return "", errors.New("syntax error: missing argument")
	}
	word := p.args[0]
	p.args = p.args[1:]
	switch {
	case word == "(":
		v, err := p.binary(0)
		if err == nil && (len(p.args) == 0 || p.args[0] != ")") {
			err = errors.New("syntax error: expecting ')'")
		}
		if err != nil {
			return "", err
		}
		p.args = p.args[1:]
		return v, nil
	case word == "length" && len(p.args) > 0:
		v, err := p.primary()
		return strconv.Itoa(utf8.RuneCountInString(v)), err
	case word == "match" && len(p.args) > 1:
		return p.two(func(a, b string) (string, error) { return exprMatch(a, b) })
	case word == "index" && len(p.args) > 1:
		return p.two(func(a, b string) (string, error) { return strconv.Itoa(strings.IndexAny(a, b) + 1), nil })
	case word == "substr" && len(p.args) > 2:
		return p.substr()
	}
	return word, nil
}

func (p *exprParser) two(f func(a, b string) (string, error)) (string, error) {
	a, err := p.primary()
	if err != nil {
		return "", err
	}
	b, err := p.primary()
	if err != nil {
		return "", err
	}
	return f(a, b)
}

func (p *exprParser) substr() (string, error) {
	s, err := p.primary()
	if err != nil {
		return "", err
	}
	return p.two(func(a, b string) (string, error) {
		pos, err1 := strconv.Atoi(a)
		n, err2 := strconv.Atoi(b)
		if err1 != nil || err2 != nil || pos < 1 || n < 1 || pos > len(s) {
			return "", nil
		}
		return s[pos-1 : min(len(s), pos-1+min(n, len(s)))], nil
	})
}

func exprApply(a, op, b string) (string, error) {
	switch op {
	case "|":
		if !isNull(a) {
			return a, nil
		}
		if isNull(b) {
			return "0", nil
		}
		return b, nil
	case "&":
		if isNull(a) || isNull(b) {
			return "0", nil
		}
		return a, nil
	case ":":
		return exprMatch(a, b)
	}
	x, err1 := strconv.ParseInt(a, 10, 64)
	y, err2 := strconv.ParseInt(b, 10, 64)
	if exprLevel(op) == 2 {
		d := strings.Compare(a, b)
		if err1 == nil && err2 == nil {
			d = compare(x, y)
		}
		return strconv.Itoa(boolInt(map[string]bool{
			"=": d == 0, "==": d == 0, "!=": d != 0, "<": d < 0, "<=": d <= 0, ">": d > 0, ">=": d >= 0,
		}[op])), nil
	}
	if err1 != nil || err2 != nil {
		return "", errors.New("non-integer argument")
	}
	switch op {
	case "+":
		x += y
	case "-":
		x -= y
	case "*":
		x *= y
	default:
		if y == 0 {
			return "", errors.New("division by zero")
		}
		if op == "/" {
			x /= y
		} else {
			x %= y
		}
	}
	return strconv.FormatInt(x, 10), nil
}

// exprMatch matches at the beginning; the result is the group or the length.
func exprMatch(s, pattern string) (string, error) {
	re, err := compilePOSIX(pattern, basicRE, false)
	if err != nil {
		return "", err
	}
	m := re.FindStringSubmatchIndex(s)
	hit := m != nil && m[0] == 0
	if re.NumSubexp() > 0 {
		if !hit || m[2] < 0 {
			return "", nil
		}
		return s[m[2]:m[3]], nil
	}
	if !hit {
		return "0", nil
	}
	return strconv.Itoa(utf8.RuneCountInString(s[:m[1]])), nil
}
