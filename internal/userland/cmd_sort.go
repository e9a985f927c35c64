package userland

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
)

// sortKey is one -k of sort: from a place to a place of the line.
type sortKey struct {
	field, char       int // of the beginning, from 1
	endField, endChar int // endField 0: end of line; endChar 0: end of field
	flags             string
}

// sorter is one run of sort.
type sorter struct {
	keys   []sortKey
	sep    int // separating byte, or -1 for blanks
	global string
	stable bool
	unique bool
}

func runSort(c *call) int {
	c.trouble = exitUsage
	o, names, ok := c.parse("nrufbhgVdiMsczmCk:t:o:S:T:\x01:\x02::", longOptions{
		"numeric-sort": 'n', "reverse": 'r', "unique": 'u', "ignore-case": 'f', "ignore-leading-blanks": 'b', "human-numeric-sort": 'h',
		"general-numeric-sort": 'g', "version-sort": 'V', "stable": 's', "zero-terminated": 'z', "key": 'k', "field-separator": 't',
		"output": 'o', "check": '\x02', "merge": 'm', "dictionary-order": 'd', "month-sort": 'M', "parallel": '\x01', "buffer-size": 'S', "temporary-directory": 'T',
	})
	if !ok {
		return exitUsage
	}
	s := &sorter{sep: -1, stable: o.has('s'), unique: o.has('u')}
	for _, opt := range o {
		switch opt.flag {
		case 'n', 'r', 'f', 'b', 'h', 'g', 'V', 'd', 'M', 'i':
			s.global += string(opt.flag)
		case 'k':
			key, err := parseSortKey(opt.value)
			if err != nil {
				c.errorf("%s: %s", opt.value, err)
				return exitUsage
			}
			s.keys = append(s.keys, key)
		case 't':
			text := opt.value
			if text == `\0` {
				text = "\x00"
			}
			if len(text) != 1 {
				c.errorf("multi-character tab '%s'", opt.value)
				return exitUsage
			}
			s.sep = int(text[0])
		}
	}
	s.finishKeys()
	delim := byte('\n')
	if o.has('z') {
		delim = 0
	}
	var lines []string
	status := c.eachInput(names, func(_ string, r io.Reader) error {
		in := bufio.NewReaderSize(r, bufSize)
		for {
			line, err := readLine(in, delim)
			if len(line) > 0 || err == nil {
				lines = append(lines, string(line))
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
	if status != exitOK {
		return exitUsage
	}
	if o.has('c', 'C', '\x02') {
		return s.check(c, lines, names, o.has('C'))
	}
	slices.SortStableFunc(lines, s.compare)
	if s.unique {
		lines = slices.CompactFunc(lines, func(a, b string) bool { return s.compareKeys(a, b) == 0 })
	}
	return c.writeLines(lines, o, delim)
}

func (c *call) writeLines(lines []string, o options, delim byte) int {
	c.out.buffered()
	done := func(status int) int { return status }
	if name, ok := o.get('o'); ok {
		var err error
		if done, err = c.redirect(name); err != nil {
			c.fail(name, err)
			return exitUsage
		}
	}
	for _, l := range lines {
		c.out.WriteString(l)
		if err := c.out.WriteByte(delim); err != nil {
			break
		}
	}
	return done(exitOK)
}

func (s *sorter) check(c *call, lines, names []string, quiet bool) int {
	name := "-"
	if len(names) > 0 {
		name = names[0]
	}
	for i := 1; i < len(lines); i++ {
		d := s.compare(lines[i-1], lines[i])
		if d > 0 || (s.unique && s.compareKeys(lines[i-1], lines[i]) == 0) {
			if !quiet {
				c.errorf("%s:%d: disorder: %s", name, i+1, lines[i])
			}
			return exitFailure
		}
	}
	return exitOK
}

var errSortKey = errors.New("invalid field specification")

// parseSortKey reads F[.C][OPTS][,F[.C][OPTS]].
func parseSortKey(s string) (sortKey, error) {
	begin, end, hasEnd := strings.Cut(s, ",")
	var k sortKey
	var err error
	var f1, f2 string
	if k.field, k.char, f1, err = parseSortPlace(begin); err != nil || k.field == 0 {
		return k, errSortKey
	}
	if k.char == 0 {
		k.char = 1
	}
	if hasEnd {
		if k.endField, k.endChar, f2, err = parseSortPlace(end); err != nil || k.endField == 0 {
			return k, errSortKey
		}
	}
	k.flags = f1 + f2
	return k, nil
}

func parseSortPlace(s string) (field, char int, flags string, err error) {
	number := func() int {
		i := 0
		for i < len(s) && s[i] >= '0' && s[i] <= '9' {
			i++
		}
		var n int
		if n, err = strconv.Atoi(s[:i]); err != nil {
			return 0
		}
		s = s[i:]
		return n
	}
	if field = number(); err != nil {
		return 0, 0, "", errSortKey
	}
	if strings.HasPrefix(s, ".") {
		s = s[1:]
		if char = number(); err != nil {
			return 0, 0, "", errSortKey
		}
	}
	if strings.Trim(s, "bdfghiMnrV") != "" {
		return 0, 0, "", errSortKey
	}
	return field, char, s, nil
}

// finishKeys gives keys without flags the global ones, and makes the whole line
// the key when there is none.
func (s *sorter) finishKeys() {
	for i := range s.keys {
		if s.keys[i].flags == "" {
			s.keys[i].flags = s.global
		}
	}
	if len(s.keys) == 0 {
		s.keys = []sortKey{{field: 1, char: 1, flags: s.global}}
	}
}

func (s *sorter) compare(a, b string) int {
	if d := s.compareKeys(a, b); d != 0 || s.stable || s.unique {
		return d
	}
	// The last resort is the bytes of the line, reversed only by a global -r.
	d := strings.Compare(a, b)
	if strings.Contains(s.global, "r") {
		return -d
	}
	return d
}

func (s *sorter) compareKeys(a, b string) int {
	for _, k := range s.keys {
		x, y := s.extract(a, k), s.extract(b, k)
		d := compareBy(k.flags, x, y)
		if strings.Contains(k.flags, "r") {
			d = -d
		}
		if d != 0 {
			return d
		}
	}
	return 0
}

func compareBy(flags, x, y string) int {
	switch {
	case strings.ContainsAny(flags, "n"):
		return compareNumbers(x, y)
	case strings.ContainsAny(flags, "h"):
		return compareHuman(x, y)
	case strings.ContainsAny(flags, "g"):
		fx, okx := leadingFloat(x)
		fy, oky := leadingFloat(y)
		if okx != oky {
			return boolInt(okx) - boolInt(oky) // no number sorts before every number
		}
		return compare(fx, fy)
	case strings.ContainsAny(flags, "M"):
		return compare(month(x), month(y))
	case strings.ContainsAny(flags, "V"):
		return compareVersions(x, y)
	}
	if strings.Contains(flags, "b") {
		x, y = strings.TrimLeft(x, " \t"), strings.TrimLeft(y, " \t")
	}
	if strings.Contains(flags, "d") {
		x, y = dictionary(x), dictionary(y)
	}
	if strings.Contains(flags, "f") {
		x, y = strings.ToUpper(x), strings.ToUpper(y)
	}
	return strings.Compare(x, y)
}

func dictionary(s string) string {
	return strings.Map(func(r rune) rune {
		if r == ' ' || r == '\t' || r >= '0' && r <= '9' || r|0x20 >= 'a' && r|0x20 <= 'z' {
			return r
		}
		return -1
	}, s)
}

// extract gives the part of a line that a key names.
func (s *sorter) extract(line string, k sortKey) string {
	if k.field == 1 && k.char == 1 && k.endField == 0 {
		return line
	}
	start, _ := s.fieldAt(line, k.field)
	if strings.Contains(k.flags, "b") {
		start = skipBlanks(line, start)
	}
	start = min(len(line), start+k.char-1)
	if k.endField == 0 {
		return line[start:]
	}
	from, end := s.fieldAt(line, k.endField)
	if k.endChar > 0 {
		if strings.Contains(k.flags, "b") {
			from = skipBlanks(line, from)
		}
		end = min(len(line), from+k.endChar)
	}
	return line[start:max(start, end)]
}

func skipBlanks(s string, i int) int {
	for i < len(s) && (s[i] == ' ' || s[i] == '\t') {
		i++
	}
	return i
}

// fieldAt gives where field n begins and ends. Without -t a field includes the
// blanks before it.
func (s *sorter) fieldAt(line string, n int) (start, end int) {
	for i := 1; ; i++ {
		if s.sep >= 0 {
			end = len(line)
			if j := strings.IndexByte(line[start:], byte(s.sep)); j >= 0 {
				end = start + j
			}
		} else {
			end = skipBlanks(line, start)
			for end < len(line) && line[end] != ' ' && line[end] != '\t' {
				end++
			}
		}
		if i == n || end == len(line) {
			if i < n {
				start = len(line)
			}
			return start, end
		}
		start = end
		if s.sep >= 0 {
			start++
		}
	}
}

// number splits the decimal number that s starts with.
func number(s string) (negative bool, whole, frac, rest string) {
	s = strings.TrimLeft(s, " \t")
	if strings.HasPrefix(s, "-") {
		negative, s = true, s[1:]
	}
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	whole, rest = strings.TrimLeft(s[:i], "0"), s[i:]
	if strings.HasPrefix(rest, ".") {
		j := 1
		for j < len(rest) && rest[j] >= '0' && rest[j] <= '9' {
			j++
		}
		frac, rest = strings.TrimRight(rest[1:j], "0"), rest[j:]
	}
	if whole == "" && frac == "" {
		negative = false
	}
	return negative, whole, frac, rest
}

// compareNumbers compares decimal numbers of any length.
func compareNumbers(x, y string) int {
	nx, wx, fx, _ := number(x)
	ny, wy, fy, _ := number(y)
	if nx != ny {
		return boolInt(ny) - boolInt(nx)
	}
	d := compare(len(wx), len(wy))
	if d == 0 {
		d = strings.Compare(wx, wy)
	}
	if d == 0 {
		d = strings.Compare(fx, fy)
	}
	if nx {
		return -d
	}
	return d
}

// compareHuman compares sizes like 2K and 1G by unit, then by number.
func compareHuman(x, y string) int {
	unit := func(s string) int {
		negative, whole, frac, rest := number(s)
		u := 0
		if rest != "" && whole+frac != "" {
			u = max(0, bytes.IndexByte([]byte("KMGTPEZY"), rest[0]&^0x20)+1)
		}
		if negative {
			return -u
		}
		return u
	}
	if d := compare(unit(x), unit(y)); d != 0 {
		return d
	}
	return compareNumbers(x, y)
}

func leadingFloat(s string) (float64, bool) {
	s = strings.TrimLeft(s, " \t")
	for n := min(len(s), 40); n > 0; n-- {
		if v, err := strconv.ParseFloat(s[:n], 64); err == nil {
			return v, true
		}
	}
	return 0, false
}

func month(s string) int {
	s = strings.ToUpper(strings.TrimLeft(s, " \t"))
	if len(s) < 3 {
		return 0
	}
	return (strings.Index("JANFEBMARAPRMAYJUNJULAUGSEPOCTNOVDEC", s[:3]) + 3) / 3
}

// compareVersions compares runs of digits as numbers and other runs as text.
func compareVersions(x, y string) int {
	for x != "" && y != "" {
		tx, ty := leading(x, false), leading(y, false)
		if d := strings.Compare(tx, ty); d != 0 {
			return d
		}
		x, y = x[len(tx):], y[len(ty):]
		dx, dy := leading(x, true), leading(y, true)
		if d := compareNumbers(dx, dy); d != 0 {
			return d
		}
		x, y = x[len(dx):], y[len(dy):]
	}
	return compare(len(x), len(y))
}

func leading(s string, digits bool) string {
	i := 0
	for i < len(s) && (s[i] >= '0' && s[i] <= '9') == digits {
		i++
	}
	return s[:i]
}
