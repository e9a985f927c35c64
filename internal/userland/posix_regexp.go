package userland

import (
	"errors"
	"regexp"
	"strings"
)

// posixSyntax says which regular expression language a pattern is in.
type posixSyntax int

const (
	basicRE posixSyntax = iota
	extendedRE
	fixedRE
)

var (
	errBackReference = errors.New("back-references are not supported")
	errBracket       = errors.New("unmatched [, [^, [:, [., or [=")
	errTrailing      = errors.New("trailing backslash")
)

// compilePOSIX compiles a POSIX regular expression (with GNU's \+ \? \| \< \>
// \w) to Go's engine, with POSIX's leftmost-longest rule. Back-references do
// not exist there: matching stays linear in the input.
func compilePOSIX(re string, syntax posixSyntax, fold bool) (*regexp.Regexp, error) {
	text, err := translateRE(re, syntax)
	if err != nil {
		return nil, err
	}
	flags := "(?s)"
	if fold {
		flags = "(?is)"
	}
	compiled, err := regexp.Compile(flags + text)
	if err != nil {
		return nil, regexpError(err)
	}
	compiled.Longest()
	return compiled, nil
}

// translateRE rewrites a pattern in Go's syntax.
func translateRE(re string, syntax posixSyntax) (string, error) {
	if syntax == fixedRE {
		return regexp.QuoteMeta(re), nil
	}
	t := translator{re: re, extended: syntax == extendedRE, start: true}
	for t.i < len(re) {
		if err := t.step(); err != nil {
			return "", err
		}
	}
	return t.out.String(), nil
}

// translator is the state of translateRE.
type translator struct {
	re       string
	i        int
	extended bool
	out      strings.Builder
	// start says that nothing precedes that an operator could repeat.
	start bool
	// repeated says that the last thing written was a repetition.
	repeated bool
}

func (t *translator) atom(s string) {
	t.out.WriteString(s)
	t.start, t.repeated = false, false
}

// repeat writes a repetition operator; a second one in a row ("a**") has no
// further effect when it is '*', and Go does not take it.
func (t *translator) repeat(op string) {
	switch {
	case t.start:
		t.atom(regexp.QuoteMeta(op)) // nothing to repeat: a literal
	case t.repeated:
		if op == "*" || op == "+" || op == "?" {
			return
		}
		t.out.WriteString(op)
	default:
		t.out.WriteString(op)
		t.repeated = true
	}
}

// open begins a group or an alternative.
func (t *translator) open(s string) {
	t.out.WriteString(s)
	t.start, t.repeated = true, false
}

func (t *translator) step() error {
	c := t.re[t.i]
	switch c {
	case '\\':
		return t.escape()
	case '[':
		return t.bracket()
	case '*':
		t.i++
		t.repeat("*")
	case '^':
		t.i++
		if t.extended || t.atStart() {
			t.out.WriteString("^")
			t.start, t.repeated = true, false
		} else {
			t.atom(`\^`)
		}
	case '$':
		t.i++
		if t.extended || t.i == len(t.re) || strings.HasPrefix(t.re[t.i:], `\)`) || strings.HasPrefix(t.re[t.i:], `\|`) {
			t.atom("$")
		} else {
			t.atom(`\$`)
		}
	case '+', '?':
		t.i++
		if t.extended {
			t.repeat(string(c))
		} else {
			t.atom(`\` + string(c))
		}
	case '(', '|':
		t.i++
		if t.extended {
			t.open(string(c))
		} else {
			t.atom(`\` + string(c))
		}
	case ')':
		t.i++
		if t.extended {
			t.atom(")")
		} else {
			t.atom(`\)`)
		}
	case '{':
		if t.extended {
			return t.interval("}")
		}
		t.i++
		t.atom(`\{`)
	case '}':
		t.i++
		t.atom(`\}`)
	default:
		t.i++
		t.atom(string([]byte{c}))
	}
	return nil
}

// atStart reports whether a '^' here is an anchor in a basic expression.
func (t *translator) atStart() bool {
	done := t.re[:t.i-1]
	return done == "" || strings.HasSuffix(done, `\(`) || strings.HasSuffix(done, `\|`)
}

func (t *translator) escape() error {
	if t.i+1 >= len(t.re) {
		return errTrailing
	}
	c := t.re[t.i+1]
	if c == '{' && !t.extended {
		t.i++
		return t.interval(`\}`)
	}
	t.i += 2
	switch c {
	case '(', '|', ')', '+', '?':
		switch {
		case t.extended:
			t.atom(`\` + string(c))
		case c == ')':
			t.atom(")")
		case c == '+' || c == '?':
			t.repeat(string(c))
		default:
			t.open(string(c))
		}
	case '<', '>', 'b':
		t.out.WriteString(`\b`)
		t.repeated = false
	case '`':
		t.out.WriteString(`\A`)
	case '\'':
		t.out.WriteString(`\z`)
	case 'w', 'W', 's', 'S', 'B':
		t.atom(`\` + string(c))
	case 'n', 't', 'r', 'f', 'v', 'a':
		t.atom(`\` + string(c))
	case '1', '2', '3', '4', '5', '6', '7', '8', '9':
		return errBackReference
	default:
		t.atom(regexp.QuoteMeta(string([]byte{c})))
	}
	return nil
}

// interval reads {n}, {n,}, {,m} or {n,m} up to end.
func (t *translator) interval(end string) error {
	rest := t.re[t.i+1:]
	n := strings.Index(rest, end)
	if n < 0 || strings.Trim(rest[:n], "0123456789,") != "" || rest[:n] == "" || t.start {
		if t.extended {
			t.i++
			t.atom(`\{`)
			return nil
		}
		return errors.New(`invalid content of \{\}`)
	}
	body := rest[:n]
	if strings.HasPrefix(body, ",") {
		body = "0" + body
	}
	t.i += 1 + n + len(end)
	if t.repeated {
		return errors.New("invalid preceding regular expression")
	}
	t.out.WriteString("{" + body + "}")
	t.repeated = true
	return nil
}

// bracket copies a bracket expression. In POSIX a backslash in it is literal.
func (t *translator) bracket() error {
	i := t.i + 1
	out := "["
	if i < len(t.re) && t.re[i] == '^' {
		out += "^"
		i++
	}
	for first := true; ; first = false {
		switch {
		case i >= len(t.re):
			return errBracket
		case t.re[i] == ']' && !first:
			t.i = i + 1
			t.atom(out + "]")
			return nil
		case strings.HasPrefix(t.re[i:], "[:"):
			n := strings.Index(t.re[i:], ":]")
			if n < 0 {
				return errBracket
			}
			out += t.re[i : i+n+2]
			i += n + 2
			continue
		case strings.HasPrefix(t.re[i:], "[.") || strings.HasPrefix(t.re[i:], "[="):
			n := strings.Index(t.re[i+2:], t.re[i+1:i+2]+"]")
			if n < 0 {
				return errBracket
			}
			out += regexp.QuoteMeta(t.re[i+2 : i+2+n])
			i += n + 4
			continue
		case t.re[i] == '\\' && i+1 < len(t.re) && strings.IndexByte("nt", t.re[i+1]) >= 0:
			// Not POSIX, but what every sed script expects.
			out += t.re[i : i+2]
			i += 2
			continue
		case strings.IndexByte(`\[]&~`, t.re[i]) >= 0:
			out += `\`
		case t.re[i] == '^' && first:
			out += `\`
		}
		out += t.re[i : i+1]
		i++
	}
}

// regexpError drops the library's prefix.
func regexpError(err error) error {
	return errors.New(strings.TrimPrefix(err.Error(), "error parsing regexp: "))
}
