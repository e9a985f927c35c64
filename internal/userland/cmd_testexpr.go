package userland

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// runTest is test and [. The shell has its own; this one is for env, xargs and
// other shells.
func runTest(c *call) int {
	c.trouble = exitUsage
	args := c.args
	if c.name == "[" {
		if len(args) == 0 || args[len(args)-1] != "]" {
			c.errorf("missing ']'")
			return exitUsage
		}
		args = args[:len(args)-1]
	}
	t := &testParser{c: c, args: args}
	ok, err := t.evaluate()
	if err != nil {
		c.errorf("%s", err)
		return exitUsage
	}
	return boolInt(!ok)
}

// testParser evaluates an expression of test(1). POSIX fixes the meaning of up
// to four arguments by their number; longer ones are parsed.
type testParser struct {
	c     *call
	args  []string
	depth int
}

func (t *testParser) evaluate() (bool, error) {
	switch a := t.args; len(a) {
	case 0:
		return false, nil
	case 1:
		return a[0] != "", nil
	case 2:
		if a[0] == "!" {
			return a[1] == "", nil
		}
		if isUnaryTest(a[0]) {
			return t.unary(a[0], a[1])
		}
		return false, fmt.Errorf("%s: unary operator expected", a[0])
	case 3:
		switch {
		case isBinaryTest(a[1]):
			return t.binary(a[0], a[1], a[2])
		case a[1] == "-a":
			return a[0] != "" && a[2] != "", nil
		case a[1] == "-o":
			return a[0] != "" || a[2] != "", nil
		case a[0] == "(" && a[2] == ")":
			return a[1] != "", nil
		}
	}
	ok, err := t.or()
	if err == nil && len(t.args) > 0 {
		err = fmt.Errorf("extra argument '%s'", t.args[0])
	}
	return ok, err
}

func (t *testParser) peek() string {
	if len(t.args) == 0 {
		return ""
	}
	return t.args[0]
}

func (t *testParser) or() (bool, error) {
	v, err := t.and()
	for err == nil && t.peek() == "-o" && len(t.args) > 1 {
		t.args = t.args[1:]
		var w bool
		w, err = t.and()
		v = v || w
	}
	return v, err
}

func (t *testParser) and() (bool, error) {
	v, err := t.term()
	for err == nil && t.peek() == "-a" && len(t.args) > 1 {
		t.args = t.args[1:]
		var w bool
		w, err = t.term()
		v = v && w
	}
	return v, err
}

func (t *testParser) term() (bool, error) {
	if t.depth++; t.depth > maxNesting {
		return false, errors.New("expression is nested too deeply")
	}
	defer func() { t.depth-- }()
	if len(t.args) == 0 {
		return false, errors.New("argument expected")
	}
	a := t.args
	switch {
	case len(a) >= 3 && isBinaryTest(a[1]):
		t.args = a[3:]
		return t.binary(a[0], a[1], a[2])
	case a[0] == "!":
		t.args = a[1:]
		v, err := t.term()
		return !v, err
	case a[0] == "(":
		t.args = a[1:]
		v, err := t.or()
		if err == nil && t.peek() != ")" {
			err = errors.New("')' expected")
		}
		if err != nil {
			return false, err
		}
		t.args = t.args[1:]
		return v, nil
	case len(a) >= 2 && isUnaryTest(a[0]):
		t.args = a[2:]
		return t.unary(a[0], a[1])
	}
	t.args = a[1:]
	return a[0] != "", nil
}

func isUnaryTest(op string) bool {
	return len(op) == 2 && op[0] == '-' && strings.IndexByte("bcdefgGhknOLprsStuwxz", op[1]) >= 0
}

func isBinaryTest(op string) bool {
	switch op {
	case "=", "==", "!=", "<", ">", "-eq", "-ne", "-lt", "-le", "-gt", "-ge", "-nt", "-ot", "-ef":
		return true
	}
	return false
}

func (t *testParser) unary(op, arg string) (bool, error) {
	path := t.c.path(arg)
	switch op {
	case "-n":
		return arg != "", nil
	case "-z":
		return arg == "", nil
	case "-t":
		n, err := strconv.Atoi(arg)
		if err != nil {
			return false, fmt.Errorf("%s: integer expression expected", arg)
		}
		streams := []any{t.c.stdio.In, t.c.stdio.Out, t.c.stdio.Err}
		return n >= 0 && n < 3 && isTerminal(streams[n]), nil
	case "-h", "-L":
		st, err := os.Lstat(path)
		return err == nil && st.Mode()&fs.ModeSymlink != 0, nil
	case "-r":
		return accessible(path, 4), nil
	case "-w":
		return accessible(path, 2), nil
	case "-x":
		return accessible(path, 1), nil
	}
	st, err := os.Stat(path)
	if arg == "" || err != nil {
		return false, nil
	}
	m := st.Mode()
	switch op {
	case "-b":
		return m&fs.ModeDevice != 0 && m&fs.ModeCharDevice == 0, nil
	case "-c":
		return m&fs.ModeCharDevice != 0, nil
	case "-d":
		return m.IsDir(), nil
	case "-f":
		return m.IsRegular(), nil
	case "-g":
		return m&fs.ModeSetgid != 0, nil
	case "-k":
		return m&fs.ModeSticky != 0, nil
	case "-p":
		return m&fs.ModeNamedPipe != 0, nil
	case "-s":
		return st.Size() > 0, nil
	case "-S":
		return m&fs.ModeSocket != 0, nil
	case "-u":
		return m&fs.ModeSetuid != 0, nil
	case "-O":
		return int(statOf(st).uid) == os.Geteuid(), nil
	case "-G":
		return int(statOf(st).gid) == os.Getegid(), nil
	}
	return true, nil // -e
}

func (t *testParser) binary(a, op, b string) (bool, error) {
	switch op {
	case "=", "==":
		return a == b, nil
	case "!=":
		return a != b, nil
	case "<":
		return a < b, nil
	case ">":
		return a > b, nil
	case "-nt", "-ot", "-ef":
		return t.files(a, op, b), nil
	}
	x, err := testInteger(a)
	if err != nil {
		return false, err
	}
	y, err := testInteger(b)
	if err != nil {
		return false, err
	}
	switch op {
	case "-eq":
		return x == y, nil
	case "-ne":
		return x != y, nil
	case "-lt":
		return x < y, nil
	case "-le":
		return x <= y, nil
	case "-gt":
		return x > y, nil
	}
	return x >= y, nil
}

func (t *testParser) files(a, op, b string) bool {
	x, err1 := os.Stat(t.c.path(a))
	y, err2 := os.Stat(t.c.path(b))
	switch op {
	case "-nt":
		return err1 == nil && (err2 != nil || x.ModTime().After(y.ModTime()))
	case "-ot":
		return err2 == nil && (err1 != nil || x.ModTime().Before(y.ModTime()))
	}
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

func testInteger(s string) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: integer expression expected", s)
	}
	return n, nil
}
