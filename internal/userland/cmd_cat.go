package userland

import (
	"bufio"
	"errors"
	"io"
	"strconv"
)

func runCat(c *call) int {
	o, names, ok := c.parse("nbsETvAetu", longOptions{
		"number": 'n', "number-nonblank": 'b', "squeeze-blank": 's', "show-ends": 'E',
		"show-tabs": 'T', "show-nonprinting": 'v', "show-all": 'A',
	})
	if !ok {
		return exitFailure
	}
	if len(o) == 0 || (len(o) == 1 && o.has('u')) {
		return c.eachInput(names, func(_ string, r io.Reader) error {
			_, err := c.copyData(c.out, r)
			return err
		})
	}
	c.out.buffered()
	f := catFilter{
		out: c.out, number: o.has('n') && !o.has('b'), numberText: o.has('b'), squeeze: o.has('s'),
		ends: o.has('E', 'A', 'e'), tabs: o.has('T', 'A', 't'), visible: o.has('v', 'A', 'e', 't'), atStart: true,
	}
	return c.eachInput(names, func(_ string, r io.Reader) error { return f.copy(r) })
}

// catFilter is cat with options; its state carries over from file to file.
type catFilter struct {
	out                                              *output
	number, numberText, squeeze, ends, tabs, visible bool

	line    int
	atStart bool
	blanks  int
}

func (f *catFilter) copy(r io.Reader) error {
	in := bufio.NewReaderSize(r, bufSize)
	for {
		b, err := in.ReadByte()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f.byte(b); err != nil {
			return err
		}
	}
}

func (f *catFilter) byte(b byte) error {
	if f.atStart {
		if b == '\n' {
			if f.blanks++; f.squeeze && f.blanks > 1 {
				return nil
			}
		} else {
			f.blanks = 0
		}
		if f.number || (f.numberText && b != '\n') {
			f.line++
			n := strconv.Itoa(f.line)
			for range 6 - len(n) {
				f.out.WriteByte(' ')
			}
			f.out.WriteString(n + "\t")
		}
	}
	f.atStart = b == '\n'
	switch {
	case b == '\n' && f.ends:
		f.out.WriteString("$\n")
	case b == '\t' && f.tabs:
		f.out.WriteString("^I")
	case f.visible && b != '\n' && b != '\t':
		f.out.WriteString(visible(b))
	default:
		f.out.WriteByte(b)
	}
	return f.out.err
}

// visible is the notation of cat -v.
func visible(b byte) string {
	s := ""
	if b >= 128 {
		s, b = "M-", b-128
	}
	switch {
	case b < 32:
		return s + "^" + string(rune(b+64))
	case b == 127:
		return s + "^?"
	}
	return s + string(rune(b))
}
