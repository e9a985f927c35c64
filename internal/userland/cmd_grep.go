package userland

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// grepper is one run of grep.
type grepper struct {
	c                                          *call
	o                                          options
	match                                      func(line []byte) []int // of the first match, or nil
	invert, quiet, count, names, without, only bool
	number, withName, text                     bool
	before, after                              int
	limit                                      int64 // -m, or -1
	delim                                      byte
	include, exclude, excludeDir               []func(string) bool
	found                                      bool
	trouble                                    bool
}

func runGrep(c *call) int {
	c.trouble = exitUsage
	o, args, ok := c.parse("EFGPe:f:ivnrRqcolLhHwxszabA:B:C:m:\x01:\x02:\x03:\x04::0123456789", longOptions{
		"extended-regexp": 'E', "fixed-strings": 'F', "basic-regexp": 'G', "perl-regexp": 'P', "regexp": 'e', "file": 'f', "ignore-case": 'i',
		"invert-match": 'v', "line-number": 'n', "recursive": 'r', "quiet": 'q', "silent": 'q', "count": 'c', "only-matching": 'o',
		"files-with-matches": 'l', "files-without-match": 'L', "no-filename": 'h', "with-filename": 'H', "word-regexp": 'w',
		"line-regexp": 'x', "no-messages": 's', "null-data": 'z', "text": 'a', "after-context": 'A', "before-context": 'B',
		"context": 'C', "max-count": 'm', "include": '\x01', "exclude": '\x02', "exclude-dir": '\x03', "color": '\x04', "colour": '\x04',
	})
	if !ok {
		return exitUsage
	}
	g := &grepper{
		c: c, o: o, invert: o.has('v'), quiet: o.has('q'), count: o.has('c'), names: o.has('l'), without: o.has('L'),
		only: o.has('o'), number: o.has('n'), text: o.has('a'), limit: -1, delim: '\n',
	}
	if o.has('z') {
		g.delim = 0
	}
	args, err := g.compile(args)
	if err == nil {
		err = g.limits()
	}
	if err != nil {
		c.errorf("%s", err)
		return exitUsage
	}
	recursive := o.has('r', 'R')
	if len(args) == 0 {
		args = []string{"-"}
		if recursive {
			args = []string{"."}
		}
	}
	g.withName = (len(args) > 1 || recursive) && o.last('h', 'H') != 'h' || o.last('h', 'H') == 'H'
	c.out.buffered()
	for _, name := range args {
		if c.stopped() || (g.found && g.quiet) {
			break
		}
		if recursive && name != "-" {
			g.tree(name, 0)
		} else {
			g.file(name)
		}
	}
	switch {
	case g.found && g.quiet:
		return exitOK
	case g.trouble:
		return exitUsage
	case g.found:
		return exitOK
	}
	return exitFailure
}

// limits reads the numeric and glob options.
func (g *grepper) limits() error {
	for _, opt := range g.o {
		var err error
		var n int64
		switch opt.flag {
		case 'A', 'B', 'C', 'm':
			if n, err = strconv.ParseInt(opt.value, 10, 32); err != nil || (n < 0 && opt.flag != 'm') {
				return errors.New(opt.value + ": invalid context length argument")
			}
		case '\x01', '\x02', '\x03':
			var match func(string) bool
			if match, err = globMatcher(opt.value, false); err != nil {
				return err
			}
			list := map[rune]*[]func(string) bool{'\x01': &g.include, '\x02': &g.exclude, '\x03': &g.excludeDir}[opt.flag]
			*list = append(*list, match)
		}
		switch opt.flag {
		case 'A':
			g.after = int(n)
		case 'B':
			g.before = int(n)
		case 'C':
			g.after, g.before = int(n), int(n)
		case 'm':
			g.limit = n
		default:
			if opt.flag >= '0' && opt.flag <= '9' {
				g.after = min(g.after*10+int(opt.flag-'0'), 1<<20)
				g.before = g.after
			}
		}
	}
	return nil
}

// compile takes the patterns and returns what is left: the files.
func (g *grepper) compile(args []string) ([]string, error) {
	var patterns []string
	given := false
	for _, opt := range g.o {
		switch opt.flag {
		case 'e':
			patterns, given = append(patterns, strings.Split(opt.value, "\n")...), true
		case 'f':
			given = true
			r, err := g.c.open(opt.value)
			if err != nil {
				return nil, errors.New(opt.value + ": " + reason(err))
			}
			data, err := io.ReadAll(io.LimitReader(r, 64<<20))
			r.Close()
			if err != nil {
				return nil, err
			}
			if text := strings.TrimSuffix(string(data), "\n"); text != "" || len(data) > 0 {
				patterns = append(patterns, strings.Split(text, "\n")...)
			}
		}
	}
	if !given {
		if len(args) == 0 {
			return nil, errors.New("no pattern given; see grep --help")
		}
		patterns, args = strings.Split(args[0], "\n"), args[1:]
	}
	if len(patterns) == 0 { // an empty -f file matches nothing
		g.match = func([]byte) []int { return nil }
		return args, nil
	}
	return args, g.matcher(patterns)
}

func (g *grepper) matcher(patterns []string) error {
	syntax := basicRE
	switch kind := g.o.last('E', 'F', 'G', 'P'); {
	case kind == 'F':
		syntax = fixedRE
	case kind == 'E', kind == 'P', kind == 0 && g.c.cmd.name == "egrep":
		syntax = extendedRE
	case kind == 0 && g.c.cmd.name == "fgrep":
		syntax = fixedRE
	}
	fold := g.o.has('i')
	if syntax == fixedRE && len(patterns) == 1 && !fold && !g.o.has('w', 'x') {
		needle := []byte(patterns[0])
		g.match = func(line []byte) []int {
			i := bytes.Index(line, needle)
			if i < 0 {
				return nil
			}
			return []int{i, i + len(needle)}
		}
		return nil
	}
	alternatives := make([]string, len(patterns))
	for i, p := range patterns {
		text := p
		if g.o.last('E', 'F', 'G', 'P') != 'P' { // Go's own syntax is nearest to Perl's
			var err error
			if text, err = translateRE(p, syntax); err != nil {
				return err
			}
		}
		alternatives[i] = "(?:" + text + ")"
	}
	text := strings.Join(alternatives, "|")
	if g.o.has('x') {
		text = "^(?:" + text + ")$"
	}
	flags := "(?s)"
	if fold {
		flags = "(?is)"
	}
	re, err := regexp.Compile(flags + text)
	if err != nil {
		return regexpError(err)
	}
	re.Longest()
	g.match = re.FindIndex
	if g.o.has('w') {
		g.match = func(line []byte) []int { return wordMatch(re, line) }
	}
	return nil
}

// wordMatch finds a match with no word characters around it.
func wordMatch(re *regexp.Regexp, line []byte) []int {
	isWord := func(i int) bool {
		return i >= 0 && i < len(line) && (line[i] == '_' || line[i] >= '0' && line[i] <= '9' || line[i]|0x20 >= 'a' && line[i]|0x20 <= 'z' || line[i] >= 0x80)
	}
	for from := 0; from <= len(line); {
		m := re.FindIndex(line[from:])
		if m == nil {
			return nil
		}
		start, end := from+m[0], from+m[1]
		// A shorter match at the same place may do where the longest does not.
		for end > start && (isWord(start-1) || isWord(end)) {
			shorter := re.FindIndex(line[start : end-1])
			if shorter == nil || shorter[0] != 0 {
				break
			}
			end = start + shorter[1]
		}
		if end > start && !isWord(start-1) && !isWord(end) {
			return []int{start, end}
		}
		from = start + 1
	}
	return nil
}

func (g *grepper) fail(name string, err error) {
	g.trouble = true
	if !g.o.has('s') {
		g.c.fail(name, err)
	}
}

func (g *grepper) tree(name string, depth int) {
	if g.c.stopped() || depth > maxDepth || (g.found && g.quiet) {
		return
	}
	info, err := os.Lstat(g.c.path(name))
	if err == nil && info.Mode()&fs.ModeSymlink != 0 && (depth == 0 || g.o.has('R')) {
		info, err = os.Stat(g.c.path(name))
	}
	if err != nil {
		g.fail(name, err)
		return
	}
	base := filepath.Base(name)
	switch {
	case info.IsDir():
		if depth > 0 && matchesAny(g.excludeDir, base) {
			return
		}
		list, err := os.ReadDir(g.c.path(name))
		if err != nil {
			g.fail(name, err)
		}
		for _, d := range list {
			child := strings.TrimSuffix(name, "/") + "/" + d.Name()
			if name == "." && depth == 0 && !slices.Contains(g.c.args, ".") {
				child = d.Name() // "grep -r x" names files without "./"
			}
			g.tree(child, depth+1)
		}
	case info.Mode().IsRegular() || depth == 0:
		if (len(g.include) > 0 && !matchesAny(g.include, base)) || matchesAny(g.exclude, base) {
			return
		}
		g.file(name)
	}
}

func matchesAny(list []func(string) bool, name string) bool {
	for _, match := range list {
		if match(name) {
			return true
		}
	}
	return false
}

func (g *grepper) file(name string) {
	r, err := g.c.open(name)
	if err != nil {
		g.fail(name, err)
		return
	}
	defer r.Close()
	if name == "-" {
		name = "(standard input)"
	}
	s := &grepFile{grepper: g, name: name}
	if err := s.search(r); err != nil {
		g.fail(name, err)
	}
}

// grepFile is the search of one file.
type grepFile struct {
	*grepper
	name     string
	binary   bool
	line     int64
	matches  int64
	history  [][]byte // lines for -B
	trailing int      // lines still to print for -A
	lastOut  int64    // number of the last line printed
}

// search goes through the lines.
func (s *grepFile) search(r io.Reader) error {
	in := bufio.NewReaderSize(r, bufSize)
	if head, _ := in.Peek(32 << 10); !s.text && s.delim == '\n' && bytes.IndexByte(head, 0) >= 0 {
		s.binary = true
	}
	for s.limit < 0 || s.matches < s.limit {
		line, err := readLine(in, s.delim)
		if len(line) > 0 || err == nil {
			s.line++
			if s.one(line) {
				break
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if s.c.stopped() {
			return nil
		}
	}
	s.summary()
	return nil
}

// readLine reads to the delimiter, which is not part of the result. The slice
// is valid until the next read. With io.EOF and no bytes there is no line.
func readLine(in *bufio.Reader, delim byte) ([]byte, error) {
	line, err := in.ReadSlice(delim)
	if errors.Is(err, bufio.ErrBufferFull) {
		long := append([]byte(nil), line...)
		for errors.Is(err, bufio.ErrBufferFull) {
			line, err = in.ReadSlice(delim)
			long = append(long, line...)
		}
		line = long
	}
	if err == nil {
		line = line[:len(line)-1]
	}
	return line, err
}

// one handles a line and returns true when the rest of the file does not matter.
func (s *grepFile) one(line []byte) (done bool) {
	m := s.match(line)
	if (m != nil) == s.invert {
		s.context(line)
		return false
	}
	s.matches++
	if !s.without {
		s.found = true
	}
	switch {
	case s.quiet:
		return true
	case s.names || s.without:
		return true
	case s.count:
		return false
	case s.binary:
		s.c.errorf("%s: binary file matches", s.name)
		return true
	case s.only:
		if !s.invert {
			s.parts(line, m)
		}
		return false
	}
	s.gap()
	for i, h := range s.history {
		s.print(h, s.line-int64(len(s.history)-i), '-')
	}
	s.history = s.history[:0]
	s.print(line, s.line, ':')
	s.trailing = s.after
	return false
}

// context keeps or prints a line that does not match.
func (s *grepFile) context(line []byte) {
	if s.trailing > 0 {
		s.trailing--
		s.print(line, s.line, '-')
		return
	}
	if s.before > 0 {
		if len(s.history) == s.before {
			s.history = append(s.history[:0], s.history[1:]...)
		}
		s.history = append(s.history, bytes.Clone(line))
	}
}

// gap separates groups of context.
func (s *grepFile) gap() {
	first := s.line - int64(len(s.history))
	if s.before+s.after > 0 && s.lastOut > 0 && first > s.lastOut+1 {
		s.c.out.WriteString("--\n")
	}
}

// parts prints every match of a line (-o).
func (s *grepFile) parts(line []byte, m []int) {
	from := 0
	for m != nil {
		if m[1] > m[0] {
			s.print(line[from+m[0]:from+m[1]], s.line, ':')
			from += m[1]
		} else {
			from += m[0] + 1
		}
		if from > len(line) {
			return
		}
		m = s.match(line[from:])
	}
}

func (s *grepFile) print(line []byte, number int64, mark byte) {
	if s.withName {
		s.c.out.WriteString(s.name)
		s.c.out.WriteByte(mark)
	}
	if s.number {
		s.c.out.WriteString(strconv.FormatInt(number, 10))
		s.c.out.WriteByte(mark)
	}
	s.c.out.Write(line)
	s.c.out.WriteByte(s.delim)
	s.lastOut = number
}

// summary prints what -c, -l and -L want to know at the end.
func (s *grepFile) summary() {
	switch {
	case s.quiet:
	case s.names:
		if s.matches > 0 {
			s.c.printf("%s\n", s.name)
		}
	case s.without:
		if s.matches == 0 {
			s.found = true
			s.c.printf("%s\n", s.name)
		}
	case s.count:
		if s.withName {
			s.c.out.WriteString(s.name + ":")
		}
		s.c.printf("%d\n", s.matches)
	}
}
