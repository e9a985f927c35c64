package userland

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"mvdan.cc/sh/v3/pattern"
)

// findParser reads find's expression: or-lists of and-lists of primaries.
type findParser struct {
	f         *finder
	args      []string
	hasAction bool
	depth     int
}

func (p *findParser) parse() (findExpr, error) {
	if len(p.args) == 0 {
		return printName, nil
	}
	expr, err := p.or()
	if err != nil {
		return nil, err
	}
	if len(p.args) > 0 {
		return nil, fmt.Errorf("unexpected '%s'", p.args[0])
	}
	if !p.hasAction {
		test := expr
		expr = func(f *finder, file found) bool { return test(f, file) && printName(f, file) }
	}
	return expr, nil
}

func printName(f *finder, file found) bool {
	f.c.out.WriteString(file.name + "\n")
	return true
}

func (p *findParser) peek() string {
	if len(p.args) == 0 {
		return ""
	}
	return p.args[0]
}

func (p *findParser) or() (findExpr, error) {
	left, err := p.and()
	for err == nil && (p.peek() == "-o" || p.peek() == "-or" || p.peek() == ",") {
		op := p.args[0]
		p.args = p.args[1:]
		a := left
		var b findExpr
		if b, err = p.and(); err != nil {
			break
		}
		if op == "," {
			left = func(f *finder, file found) bool { a(f, file); return b(f, file) }
		} else {
			left = func(f *finder, file found) bool { return a(f, file) || b(f, file) }
		}
	}
	return left, err
}

func (p *findParser) and() (findExpr, error) {
	left, err := p.not()
	for err == nil {
		switch p.peek() {
		case "-a", "-and":
			p.args = p.args[1:]
		case "", "-o", "-or", ",", ")":
			return left, nil
		}
		a := left
		var b findExpr
		if b, err = p.not(); err == nil {
			left = func(f *finder, file found) bool { return a(f, file) && b(f, file) }
		}
	}
	return left, err
}

// maxNesting bounds parentheses and negations in an expression.
const maxNesting = 200

func (p *findParser) not() (findExpr, error) {
	if p.depth++; p.depth > maxNesting {
		return nil, errors.New("expression is nested too deeply")
	}
	defer func() { p.depth-- }()
	switch p.peek() {
	case "!", "-not":
		p.args = p.args[1:]
		e, err := p.not()
		if err != nil {
			return nil, err
		}
		return func(f *finder, file found) bool { return !e(f, file) }, nil
	case "(":
		p.args = p.args[1:]
		e, err := p.or()
		if err == nil && p.peek() != ")" {
			err = errors.New("missing ')'")
		}
		if err != nil {
			return nil, err
		}
		p.args = p.args[1:]
		return e, nil
	case "", ")":
		return nil, errors.New("an expression is missing")
	}
	return p.primary()
}

func (p *findParser) value(name string) (string, error) {
	if len(p.args) == 0 {
		return "", fmt.Errorf("missing argument to '%s'", name)
	}
	v := p.args[0]
	p.args = p.args[1:]
	return v, nil
}

func always(*finder, found) bool { return true }

// primary reads one test or action.
func (p *findParser) primary() (findExpr, error) {
	name := p.args[0]
	p.args = p.args[1:]
	if e, ok := p.plain(name); ok {
		return e, nil
	}
	if strings.HasPrefix(name, "-exec") || strings.HasPrefix(name, "-ok") {
		return p.exec(name)
	}
	if !takesValue(name) {
		return nil, fmt.Errorf("unknown predicate '%s'", name)
	}
	v, err := p.value(name)
	if err != nil {
		return nil, err
	}
	e, err := p.withValue(name, v)
	if err != nil {
		return nil, fmt.Errorf("%s: invalid argument '%s'", name, v)
	}
	return e, nil
}

// plain gives the primaries without a value.
func (p *findParser) plain(name string) (findExpr, bool) {
	switch name {
	case "-true":
		return always, true
	case "-false":
		return func(*finder, found) bool { return false }, true
	case "-depth", "-d":
		p.f.depthFirst = true
		return always, true
	case "-xdev", "-mount":
		p.f.oneDevice = true
		return always, true
	case "-follow":
		p.f.follow = 'L'
		return always, true
	case "-noleaf", "-ignore_readdir_race", "-warn", "-nowarn":
		return always, true
	case "-prune":
		return func(f *finder, _ found) bool { f.prune = true; return true }, true
	case "-empty":
		return isEmpty, true
	case "-print":
		p.hasAction = true
		return printName, true
	case "-print0":
		p.hasAction = true
		return func(f *finder, file found) bool { f.c.out.WriteString(file.name + "\x00"); return true }, true
	case "-quit":
		p.hasAction = true
		return func(f *finder, _ found) bool { f.quit = true; return true }, true
	case "-ls":
		p.hasAction = true
		return func(f *finder, file found) bool {
			s := statOf(file.info)
			f.c.printf("%9d %6d %s %3d %-8s %-8s %8d %s %s\n", s.ino, s.blocks/2, modeString(file.info.Mode()), s.nlink,
				loadUsers().name(s.uid), loadGroups().name(s.gid), file.info.Size(), file.info.ModTime().Format("Jan _2 15:04"), file.name)
			return true
		}, true
	case "-delete":
		p.hasAction, p.f.depthFirst = true, true
		return deleteFound, true
	case "-executable":
		return func(f *finder, file found) bool { return accessible(f.c.path(file.name), 1) }, true
	case "-writable":
		return func(f *finder, file found) bool { return accessible(f.c.path(file.name), 2) }, true
	case "-readable":
		return func(f *finder, file found) bool { return accessible(f.c.path(file.name), 4) }, true
	case "-nouser":
		return func(_ *finder, file found) bool {
			id := statOf(file.info).uid
			return loadUsers().name(id) == strconv.Itoa(int(id))
		}, true
	}
	return nil, false
}

func isEmpty(f *finder, file found) bool {
	if file.info.Mode().IsRegular() {
		return file.info.Size() == 0
	}
	if !file.info.IsDir() {
		return false
	}
	d, err := os.Open(f.c.path(file.name))
	if err != nil {
		return false
	}
	defer d.Close()
	names, _ := d.Readdirnames(1)
	return len(names) == 0
}

func deleteFound(f *finder, file found) bool {
	if file.name == "." || file.name == ".." {
		return true
	}
	if err := os.Remove(f.c.path(file.name)); err != nil {
		f.status = f.c.fail(file.name, err)
		return false
	}
	return true
}

func takesValue(name string) bool {
	switch name {
	case "-name", "-iname", "-path", "-ipath", "-wholename", "-lname", "-regex", "-iregex", "-type", "-perm", "-size",
		"-mtime", "-atime", "-ctime", "-mmin", "-amin", "-cmin", "-newer", "-user", "-group", "-uid", "-gid", "-links",
		"-inum", "-maxdepth", "-mindepth", "-printf", "-regextype", "-samefile":
		return true
	}
	return false
}

func (p *findParser) withValue(name, v string) (findExpr, error) {
	switch name {
	case "-maxdepth", "-mindepth":
		n, err := strconv.ParseUint(v, 10, 16)
		if name == "-maxdepth" {
			p.f.maxDepth = min(int(n), maxDepth)
		} else {
			p.f.minDepth = int(n)
		}
		return always, err
	case "-regextype":
		return always, nil
	case "-name", "-iname":
		return globExpr(v, name[1] == 'i', func(_ *finder, file found) string { return filepath.Base(file.name) })
	case "-path", "-ipath", "-wholename":
		return globExpr(v, name[1] == 'i', func(_ *finder, file found) string { return file.name })
	case "-lname":
		return globExpr(v, false, func(f *finder, file found) string {
			target, err := os.Readlink(f.c.path(file.name))
			if err != nil {
				return "\x00"
			}
			return target
		})
	case "-regex", "-iregex":
		flags := ""
		if name[1] == 'i' {
			flags = "i"
		}
		re, err := regexp.Compile("(?s" + flags + ")^(?:" + v + ")$")
		return func(_ *finder, file found) bool { return re.MatchString(file.name) }, err
	case "-type":
		return typeExpr(v)
	case "-perm":
		return permExpr(v)
	case "-printf":
		p.hasAction = true
		return func(f *finder, file found) bool { f.c.out.WriteString(f.format(v, file)); return true }, nil
	case "-newer", "-samefile":
		st, err := os.Stat(p.f.c.path(v))
		if err != nil {
			return nil, err
		}
		if name == "-samefile" {
			return func(_ *finder, file found) bool { return os.SameFile(st, file.info) }, nil
		}
		return func(_ *finder, file found) bool { return file.info.ModTime().After(st.ModTime()) }, nil
	case "-user":
		uid, _, bad := parseOwner(v)
		return func(_ *finder, file found) bool { return int(statOf(file.info).uid) == uid }, badOwner(bad)
	case "-group":
		_, gid, bad := parseOwner(":" + v)
		return func(_ *finder, file found) bool { return int(statOf(file.info).gid) == gid }, badOwner(bad)
	}
	return p.numeric(name, v)
}

func badOwner(message string) error {
	if message == "" {
		return nil
	}
	return errors.New(message)
}

// numeric gives the tests that compare a number: N, +N for more, -N for less.
func (p *findParser) numeric(name, v string) (findExpr, error) {
	sign := byte(0)
	if v != "" && (v[0] == '+' || v[0] == '-') {
		sign, v = v[0], v[1:]
	}
	unit := int64(512)
	if name == "-size" && v != "" {
		if i := strings.IndexByte("bcwkMG", v[len(v)-1]); i >= 0 {
			unit, v = []int64{512, 1, 2, 1 << 10, 1 << 20, 1 << 30}[i], v[:len(v)-1]
		}
	}
	want, err := strconv.ParseInt(v, 10, 48)
	if err != nil {
		return nil, err
	}
	holds := func(have int64) bool {
		switch sign {
		case '+':
			return have > want
		case '-':
			return have < want
		}
		return have == want
	}
	age := func(t time.Time, unit time.Duration) bool {
		return holds(int64(math.Floor(float64(p.f.now.Sub(t)) / float64(unit))))
	}
	const day = 24 * time.Hour
	return func(_ *finder, file found) bool {
		s := statOf(file.info)
		switch name {
		case "-size":
			return holds((file.info.Size() + unit - 1) / unit)
		case "-mtime":
			return age(file.info.ModTime(), day)
		case "-atime":
			return age(s.atime, day)
		case "-ctime":
			return age(s.ctime, day)
		case "-mmin":
			return age(file.info.ModTime(), time.Minute)
		case "-amin":
			return age(s.atime, time.Minute)
		case "-cmin":
			return age(s.ctime, time.Minute)
		case "-uid":
			return holds(int64(s.uid))
		case "-gid":
			return holds(int64(s.gid))
		case "-links":
			return holds(int64(s.nlink))
		}
		return holds(int64(s.ino)) // -inum
	}, nil
}

// globExpr matches a text against a shell pattern; unlike file name expansion
// "*" also matches "/" and a leading dot.
func globExpr(glob string, fold bool, text func(*finder, found) string) (findExpr, error) {
	match, err := globMatcher(glob, fold)
	if err != nil {
		return nil, err
	}
	return func(f *finder, file found) bool { return match(text(f, file)) }, nil
}

func globMatcher(glob string, fold bool) (func(string) bool, error) {
	if !strings.ContainsAny(glob, `*?[\`) && !fold {
		return func(s string) bool { return s == glob }, nil
	}
	expr, err := pattern.Regexp(glob, pattern.EntireString)
	if err != nil {
		return nil, err
	}
	if fold {
		expr = "(?i)" + expr
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, err
	}
	return re.MatchString, nil
}

func typeExpr(v string) (findExpr, error) {
	letters := strings.ReplaceAll(v, ",", "")
	if letters == "" || strings.Trim(letters, "fdlpscb") != "" {
		return nil, errors.New("unknown type")
	}
	letters = strings.ReplaceAll(letters, "f", "-")
	return func(_ *finder, file found) bool {
		return strings.IndexByte(letters, typeLetter(file.info.Mode())) >= 0
	}, nil
}

// permExpr is -perm MODE (exactly), -MODE (all of them) and /MODE (any).
func permExpr(v string) (findExpr, error) {
	kind := byte(0)
	if v != "" && (v[0] == '-' || v[0] == '/') {
		kind, v = v[0], v[1:]
	}
	m, err := parseMode(v)
	if err != nil {
		return nil, err
	}
	want := m.apply(0, false, 0)
	return func(_ *finder, file found) bool {
		have := unixMode(file.info.Mode())
		switch kind {
		case '-':
			return have&want == want
		case '/':
			return have&want != 0 || want == 0
		}
		return have == want
	}, nil
}

// exec reads -exec and -ok, which go on to ";" or, for -exec, to "{} +".
func (p *findParser) exec(name string) (findExpr, error) {
	if name != "-exec" && name != "-ok" && name != "-execdir" && name != "-okdir" {
		return nil, fmt.Errorf("unknown predicate '%s'", name)
	}
	p.hasAction = true
	inDir := strings.HasSuffix(name, "dir")
	for i, arg := range p.args {
		if arg == "+" && i > 1 && p.args[i-1] == "{}" && name == "-exec" {
			b := &findBatch{argv: p.args[:i-1]}
			p.f.batches = append(p.f.batches, b)
			p.args = p.args[i+1:]
			return func(f *finder, file found) bool { b.add(f, file.name); return true }, nil
		}
		if arg != ";" {
			continue
		}
		if i == 0 {
			break
		}
		argv := p.args[:i]
		p.args = p.args[i+1:]
		return func(f *finder, file found) bool {
			return f.executeOne(argv, file, strings.HasPrefix(name, "-ok"), inDir)
		}, nil
	}
	return nil, fmt.Errorf("missing argument to '%s'", name)
}

func (f *finder) executeOne(argv []string, file found, ask, inDir bool) bool {
	name, dir := file.name, f.c.dir
	if inDir {
		name, dir = "./"+filepath.Base(file.name), filepath.Dir(f.c.path(file.name))
	}
	args := make([]string, len(argv))
	for i, a := range argv {
		args[i] = strings.ReplaceAll(a, "{}", name)
	}
	if ask {
		f.c.out.Flush()
		if !f.c.ask("< %s ... %s > ? ", args[0], file.name) {
			return false
		}
	}
	return f.execute(args, dir) == exitOK
}
