package userland

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// eachLine runs do on every line of the operands; the line has no delimiter.
func (c *call) eachLine(names []string, delim byte, do func(line []byte)) int {
	return c.eachInput(names, func(_ string, r io.Reader) error {
		in := bufio.NewReaderSize(r, bufSize)
		for {
			line, err := readLine(in, delim)
			if len(line) > 0 || err == nil {
				do(line)
			}
			if errors.Is(err, io.EOF) || c.stopped() {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
}

// cutRange is one part of a list like 1,3-5,7-.
type cutRange struct{ from, to int }

func parseCutList(s string) ([]cutRange, error) {
	var list []cutRange
	for part := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ',' || r == ' ' }) {
		a, b, isRange := strings.Cut(part, "-")
		r := cutRange{1, 1 << 30}
		var err error
		if a != "" {
			if r.from, err = strconv.Atoi(a); err != nil || r.from < 1 {
				return nil, fmt.Errorf("invalid field value '%s'", part)
			}
		}
		switch {
		case !isRange:
			r.to = r.from
		case b != "":
			if r.to, err = strconv.Atoi(b); err != nil {
				return nil, fmt.Errorf("invalid field value '%s'", part)
			}
		case a == "":
			return nil, errors.New("invalid range with no endpoint: -")
		}
		if r.to < r.from {
			return nil, errors.New("invalid decreasing range")
		}
		list = append(list, r)
	}
	if len(list) == 0 {
		return nil, errors.New("fields are numbered from 1")
	}
	return list, nil
}

// cutter is what cut keeps of a line.
type cutter struct {
	kind       rune // b, c or f
	list       []cutRange
	complement bool
	sep        string // between the fields of the input
	outSep     string // and of the output
	onlySep    bool   // lines without a separator are left out
}

func runCut(c *call) int {
	o, names, ok := c.parse("b:c:f:d:snz\x01\x02:", longOptions{
		"bytes": 'b', "characters": 'c', "fields": 'f', "delimiter": 'd', "only-delimited": 's', "complement": '\x01', "output-delimiter": '\x02', "zero-terminated": 'z',
	})
	if !ok {
		return exitFailure
	}
	k := cutter{kind: o.last('b', 'c', 'f'), complement: o.has('\x01'), onlySep: o.has('s'), sep: "\t"}
	if k.kind == 0 {
		return c.usageError("you must specify a list of bytes, characters, or fields")
	}
	text, _ := o.get(k.kind)
	var err error
	if k.list, err = parseCutList(text); err != nil {
		return c.errorf("%s", err)
	}
	if d, ok := o.get('d'); ok {
		if len([]rune(d)) > 1 {
			return c.errorf("the delimiter must be a single character")
		}
		if k.sep = d; d == "" {
			k.sep = "\x00"
		}
	}
	if k.outSep, ok = o.get('\x02'); !ok {
		k.outSep = k.sep
	}
	delim := byte('\n')
	if o.has('z') {
		delim = 0
	}
	c.out.buffered()
	return c.eachLine(names, delim, func(line []byte) {
		if out, ok := k.cut(line); ok {
			c.out.Write(out)
			c.out.WriteByte(delim)
		}
	})
}

func (k cutter) wanted(n int) bool {
	in := slices.ContainsFunc(k.list, func(r cutRange) bool { return n >= r.from && n <= r.to })
	return in != k.complement
}

// cut returns what is kept of a line; false: not even its end.
func (k cutter) cut(line []byte) (out []byte, ok bool) {
	switch k.kind {
	case 'f':
		return k.fields(line)
	case 'c':
		n := 0
		for _, r := range string(line) {
			if n++; k.wanted(n) {
				out = append(out, string(r)...)
			}
		}
	default:
		for i, b := range line {
			if k.wanted(i + 1) {
				out = append(out, b)
			}
		}
	}
	return out, true
}

func (k cutter) fields(line []byte) (out []byte, ok bool) {
	if !bytes.Contains(line, []byte(k.sep)) {
		return line, !k.onlySep
	}
	first := true
	n := 0
	for field := range bytes.SplitSeq(line, []byte(k.sep)) {
		if n++; !k.wanted(n) {
			continue
		}
		if !first {
			out = append(out, k.outSep...)
		}
		first = false
		out = append(out, field...)
	}
	return out, true
}

// runUniq drops or shows adjacent equal lines.
func runUniq(c *call) int {
	o, names, ok := c.parse("cduif:s:w:z", longOptions{
		"count": 'c', "repeated": 'd', "unique": 'u', "ignore-case": 'i', "skip-fields": 'f', "skip-chars": 's', "check-chars": 'w', "zero-terminated": 'z',
	})
	if !ok {
		return exitFailure
	}
	num := map[rune]int{'f': 0, 's': 0, 'w': 1 << 30}
	for flag := range num {
		if text, ok := o.get(flag); ok {
			n, err := strconv.Atoi(text)
			if err != nil || n < 0 {
				return c.errorf("%s: invalid number", text)
			}
			num[flag] = n
		}
	}
	key := func(line string) string {
		for range num['f'] {
			line = strings.TrimLeft(line, " \t")
			i := strings.IndexAny(line, " \t")
			if i < 0 {
				i = len(line)
			}
			line = line[i:]
		}
		line = line[min(num['s'], len(line)):]
		line = line[:min(num['w'], len(line))]
		if o.has('i') {
			line = strings.ToLower(line)
		}
		return line
	}
	if len(names) > 2 {
		return c.usageError("extra operand '%s'", names[2])
	}
	c.out.buffered()
	done := func(status int) int { return status }
	if len(names) == 2 {
		var err error
		if done, err = c.redirect(names[1]); err != nil {
			return c.fail(names[1], err)
		}
		names = names[:1]
	}
	delim := byte('\n')
	if o.has('z') {
		delim = 0
	}
	count, line, lineKey := 0, "", ""
	emit := func() {
		if count == 0 || (o.has('d') && count < 2) || (o.has('u') && count > 1) {
			return
		}
		if o.has('c') {
			c.printf("%7d ", count)
		}
		c.out.WriteString(line)
		c.out.WriteByte(delim)
	}
	status := c.eachLine(names, delim, func(b []byte) {
		s := string(b)
		k := key(s)
		if count > 0 && k == lineKey {
			count++
			return
		}
		emit()
		count, line, lineKey = 1, s, k
	})
	emit()
	return done(status)
}

// counts is what wc counts.
type counts struct {
	lines, words, chars, bytes, widest int64
	inWord                             bool
	column                             int64
}

func (n *counts) add(p []byte, words bool) {
	n.bytes += int64(len(p))
	if !words {
		n.lines += int64(bytes.Count(p, []byte{'\n'}))
		return
	}
	for _, b := range p {
		switch {
		case b == '\n':
			n.lines++
			n.widest = max(n.widest, n.column)
			n.column = 0
		case b == '\t':
			n.column += 8 - n.column%8
		case b == '\r' || b == '\f':
			n.widest = max(n.widest, n.column)
			n.column = 0
		case b >= 0x20 && b&0xc0 != 0x80:
			n.column++
		}
		if b&0xc0 != 0x80 {
			n.chars++
		}
		space := b == ' ' || b >= '\t' && b <= '\r'
		if !space && !n.inWord {
			n.words++
		}
		n.inWord = !space
	}
}

func runWC(c *call) int {
	o, names, ok := c.parse("clmwL", longOptions{"bytes": 'c', "lines": 'l', "chars": 'm', "words": 'w', "max-line-length": 'L'})
	if !ok {
		return exitFailure
	}
	if len(o) == 0 {
		o = options{{flag: 'l'}, {flag: 'w'}, {flag: 'c'}}
	}
	slow := o.has('w', 'm', 'L')
	var total counts
	width, columns := c.wcWidth(names), 0
	for _, f := range "lwmcL" {
		columns += boolInt(o.has(f))
	}
	if columns == 1 && len(names) <= 1 {
		width = 1
	}
	print := func(n counts, name string) {
		var cells []string
		for _, col := range []struct {
			flag rune
			v    int64
		}{{'l', n.lines}, {'w', n.words}, {'m', n.chars}, {'c', n.bytes}, {'L', n.widest}} {
			if o.has(col.flag) {
				cells = append(cells, fmt.Sprintf("%*d", width, col.v))
			}
		}
		if name != "" {
			cells = append(cells, name)
		}
		c.printf("%s\n", strings.Join(cells, " "))
	}
	status := c.eachInput(names, func(name string, r io.Reader) error {
		n, err := c.countInput(r, o, slow)
		total.lines += n.lines
		total.words += n.words
		total.chars += n.chars
		total.bytes += n.bytes
		total.widest = max(total.widest, n.widest)
		if len(names) == 0 {
			name = ""
		}
		print(n, name)
		return err
	})
	if len(names) > 1 {
		print(total, "total")
	}
	return status
}

func (c *call) countInput(r io.Reader, o options, slow bool) (counts, error) {
	var n counts
	if len(o) == 1 && o[0].flag == 'c' {
		if f, ok := regular(plainReader(r)); ok {
			st, err := f.Stat()
			if err == nil && st.Size() > 0 {
				pos, err := f.Seek(0, io.SeekCurrent)
				if err == nil {
					n.bytes = max(0, st.Size()-pos)
					return n, nil
				}
			}
		}
	}
	buf := make([]byte, bufSize)
	for {
		m, err := r.Read(buf)
		n.add(buf[:m], slow)
		if err != nil {
			n.widest = max(n.widest, n.column)
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return n, err
		}
	}
}

// wcWidth is the width of GNU's columns: that of the sum of all sizes, or 7
// when a size is not known before.
func (c *call) wcWidth(names []string) int {
	var sum int64
	if len(names) == 0 {
		names = []string{"-"}
	}
	for _, name := range names {
		var st os.FileInfo
		var err error
		if name == "-" {
			f, ok := regular(plainReader(c.in))
			if !ok {
				return 7
			}
			st, err = f.Stat()
		} else {
			st, err = os.Stat(c.path(name))
		}
		if err != nil {
			continue
		}
		if !st.Mode().IsRegular() {
			return 7
		}
		sum += st.Size()
	}
	return len(strconv.FormatInt(sum, 10))
}

func runPaste(c *call) int {
	o, names, ok := c.parse("d:sz", longOptions{"delimiters": 'd', "serial": 's'})
	if !ok {
		return exitFailure
	}
	seps := []rune("\t")
	if d, ok := o.get('d'); ok {
		text, _ := unescape(strings.ReplaceAll(d, `\0`, "\x00"), escapePrintf)
		if seps = []rune(text); len(seps) == 0 {
			seps = []rune{0}
		}
	}
	sep := func(i int) string {
		if r := seps[i%len(seps)]; r != 0 {
			return string(r)
		}
		return ""
	}
	if len(names) == 0 {
		names = []string{"-"}
	}
	c.out.buffered()
	if o.has('s') {
		return c.eachInput(names, func(_ string, r io.Reader) error {
			scanner := bufio.NewReaderSize(r, bufSize)
			for i := 0; ; i++ {
				line, err := readLine(scanner, '\n')
				if len(line) == 0 && err != nil {
					break
				}
				if i > 0 {
					c.out.WriteString(sep(i - 1))
				}
				c.out.Write(line)
			}
			return c.out.WriteByte('\n')
		})
	}
	return c.pasteParallel(names, sep)
}

func (c *call) pasteParallel(names []string, sep func(int) string) int {
	readers := make([]*bufio.Reader, len(names))
	var stdin *bufio.Reader
	for i, name := range names {
		r, err := c.open(name)
		if err != nil {
			return c.fail(name, err)
		}
		defer r.Close()
		if name == "-" { // several "-" share one input
			if stdin == nil {
				stdin = bufio.NewReaderSize(r, bufSize)
			}
			readers[i] = stdin
			continue
		}
		readers[i] = bufio.NewReaderSize(r, bufSize)
	}
	for !c.stopped() {
		var out []byte
		open := 0
		for i, r := range readers {
			if i > 0 {
				out = append(out, sep(i-1)...)
			}
			line, err := readLine(r, '\n')
			if len(line) > 0 || err == nil {
				open++
			}
			out = append(out, line...)
		}
		if open == 0 {
			break
		}
		c.out.Write(append(out, '\n'))
	}
	return exitOK
}
