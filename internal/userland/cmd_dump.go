package userland

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// dumper prints bytes in lines of 16.
type dumper struct {
	c       *call
	address func(n int64) string
	lines   []func(row []byte) string // one printed line per row and format
	all     bool                      // repeated rows too
	always  bool                      // the last address even of no data
	skip    int64
	limit   int64 // or -1
}

// dump reads the operands as one stream, as od and hexdump do.
func (d *dumper) dump(names []string) int {
	d.c.out.buffered()
	at := d.skip
	row, last := make([]byte, 0, 16), []byte(nil)
	starred := false
	emit := func() {
		if !d.all && last != nil && len(row) == 16 && bytes.Equal(row, last) {
			if !starred {
				d.c.out.WriteString("*\n")
			}
			starred = true
		} else {
			starred = false
			for i, format := range d.lines {
				prefix := d.address(at)
				if i > 0 {
					prefix = strings.Repeat(" ", len(prefix))
				}
				d.c.out.WriteString(prefix + format(row) + "\n")
			}
			last = append(last[:0], row...)
		}
		at += int64(len(row))
		row = row[:0]
	}
	skip, left := d.skip, d.limit
	buf := make([]byte, bufSize)
	status := d.c.eachInput(names, func(_ string, r io.Reader) error {
		for left != 0 {
			n, err := r.Read(buf)
			data := buf[:n]
			drop := min(skip, int64(n))
			skip, data = skip-drop, data[drop:]
			if left >= 0 {
				data = data[:min(left, int64(len(data)))]
				left -= int64(len(data))
			}
			for len(data) > 0 && !d.c.stopped() {
				k := min(16-len(row), len(data))
				row, data = append(row, data[:k]...), data[k:]
				if len(row) == 16 {
					emit()
				}
			}
			if errors.Is(err, io.EOF) || d.c.stopped() {
				return nil
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if len(row) > 0 {
		emit()
	}
	if end := strings.TrimRight(d.address(at), " "); end != "" && (at > 0 || d.always) {
		d.c.out.WriteString(end + "\n")
	}
	return status
}

// words formats a row as numbers of size bytes in the machine's order.
func words(size int, verb string, width int, signed bool) func([]byte) string {
	return func(row []byte) string {
		var b strings.Builder
		for i := 0; i < len(row); i += size {
			var full [8]byte
			copy(full[:], row[i:min(len(row), i+size)])
			v := binary.NativeEndian.Uint64(full[:])
			if signed {
				shift := 64 - 8*size
				fmt.Fprintf(&b, " %*d", width, int64(v<<shift)>>shift)
			} else {
				fmt.Fprintf(&b, " %"+verb, v)
			}
		}
		return b.String()
	}
}

// odType gives the format for one -t letter and size.
func odType(kind byte, size int) (func([]byte) string, bool) {
	octal := map[int]int{1: 3, 2: 6, 4: 11, 8: 22}
	decimal := map[int]int{1: 4, 2: 6, 4: 11, 8: 20}
	unsigned := map[int]int{1: 3, 2: 5, 4: 10, 8: 20}
	if octal[size] == 0 {
		return nil, false
	}
	switch kind {
	case 'o':
		return words(size, fmt.Sprintf("0%do", octal[size]), 0, false), true
	case 'x':
		return words(size, fmt.Sprintf("0%dx", 2*size), 0, false), true
	case 'u':
		return words(size, fmt.Sprintf("%dd", unsigned[size]), 0, false), true
	case 'd':
		return words(size, "", decimal[size], true), true
	case 'c', 'a':
		return odChars, true
	}
	return nil, false
}

func odChars(row []byte) string {
	var b strings.Builder
	for _, c := range row {
		switch i := strings.IndexByte("\x00\a\b\f\n\r\t\v", c); {
		case i >= 0:
			fmt.Fprintf(&b, "  \\%c", "0abfnrtv"[i])
		case c >= ' ' && c < 0x7f:
			fmt.Fprintf(&b, "   %c", c)
		default:
			fmt.Fprintf(&b, " %03o", c)
		}
	}
	return b.String()
}

func runOD(c *call) int {
	o, names, ok := c.parse("A:t:cxdobsN:j:vw::", longOptions{
		"address-radix": 'A', "format": 't', "read-bytes": 'N', "skip-bytes": 'j', "output-duplicates": 'v', "width": 'w',
	})
	if !ok {
		return exitFailure
	}
	d := &dumper{c: c, all: o.has('v'), always: true, limit: -1}
	radix, _ := o.get('A')
	switch radix {
	case "", "o":
		d.address = func(n int64) string { return fmt.Sprintf("%07o", n) }
	case "x":
		d.address = func(n int64) string { return fmt.Sprintf("%06x", n) }
	case "d":
		d.address = func(n int64) string { return fmt.Sprintf("%07d", n) }
	case "n":
		d.address = func(int64) string { return "" }
	default:
		return c.errorf("invalid output address radix '%s'", radix)
	}
	for _, opt := range o {
		kind := byte(opt.flag)
		size := map[rune]int{'c': 1, 'x': 2, 'd': 2, 'o': 2, 'b': 1, 's': 2}[opt.flag]
		switch opt.flag {
		case 'c', 'x', 'o':
		case 'b':
			kind = 'o'
		case 'd':
			kind = 'u'
		case 's':
			kind = 'd'
		case 't':
			if opt.value == "" {
				return c.errorf("invalid type string ''")
			}
			kind, size = opt.value[0], 4
			if kind == 'c' || kind == 'a' {
				size = 1
			}
			if text := strings.TrimSuffix(opt.value[1:], "z"); text != "" {
				size = atoi(strings.NewReplacer("C", "1", "S", "2", "I", "4", "L", "8").Replace(text))
			}
		case 'N', 'j':
			n, ok := parseCount(opt.value)
			if !ok {
				return c.errorf("invalid number '%s'", opt.value)
			}
			if opt.flag == 'N' {
				d.limit = n
			} else {
				d.skip = n
			}
			continue
		default:
			continue
		}
		format, ok := odType(kind, size)
		if !ok {
			return c.errorf("invalid type string '%s'", opt.value)
		}
		d.lines = append(d.lines, format)
	}
	if len(d.lines) == 0 {
		format, _ := odType('o', 2)
		d.lines = append(d.lines, format)
	}
	return d.dump(names)
}

func runHexdump(c *call) int {
	o, names, ok := c.parse("Cn:s:v", nil)
	if !ok {
		return exitFailure
	}
	d := &dumper{c: c, all: o.has('v'), limit: -1, address: func(n int64) string { return fmt.Sprintf("%07x", n) }}
	for flag, target := range map[rune]*int64{'n': &d.limit, 's': &d.skip} {
		if text, ok := o.get(flag); ok {
			n, err := strconv.ParseInt(text, 0, 64)
			if err != nil || n < 0 {
				return c.errorf("%s: invalid number", text)
			}
			*target = n
		}
	}
	pairs := words(2, "04x", 0, false)
	d.lines = append(d.lines, func(row []byte) string { return fmt.Sprintf("%-40s", pairs(row)) })
	if o.has('C') {
		d.address = func(n int64) string { return fmt.Sprintf("%08x", n) }
		d.lines = []func([]byte) string{canonicalRow}
	}
	return d.dump(names)
}

// canonicalRow is a row of hexdump -C.
func canonicalRow(row []byte) string {
	var b strings.Builder
	for i := range 16 {
		if i%8 == 0 {
			b.WriteByte(' ')
		}
		if i < len(row) {
			fmt.Fprintf(&b, " %02x", row[i])
		} else {
			b.WriteString("   ")
		}
	}
	b.WriteString("  |")
	for _, c := range row {
		if c < ' ' || c > '~' {
			c = '.'
		}
		b.WriteByte(c)
	}
	return b.String() + "|"
}
