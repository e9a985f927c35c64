package userland

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
)

// parseCount reads a count with the usual suffixes: b 512, K or KiB 1024, kB or
// KB 1000, and so on to E.
func parseCount(s string) (int64, bool) {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	n, err := strconv.ParseInt(s[:i], 10, 64)
	if err != nil {
		return 0, false
	}
	suffix := s[i:]
	switch suffix {
	case "", "c":
		return n, true
	case "w":
		return times(n, 2)
	case "b":
		return times(n, 512)
	}
	power := strings.IndexByte("KMGTPE", suffix[0]&^0x20) + 1
	base := int64(1024)
	switch {
	case power == 0:
		return 0, false
	case suffix[1:] == "B":
		base = 1000
	case suffix[1:] != "" && suffix[1:] != "iB":
		return 0, false
	}
	for range power {
		var ok bool
		if n, ok = times(n, base); !ok {
			return 0, false
		}
	}
	return n, true
}

func times(a, b int64) (int64, bool) {
	if a != 0 && a*b/a != b {
		return 0, false
	}
	return a * b, true
}

// obsoleteCount rewrites "-5" as "-n 5" in head's and tail's first argument.
func (c *call) obsoleteCount() {
	if len(c.args) == 0 || len(c.args[0]) < 2 || c.args[0][0] != '-' {
		return
	}
	if _, err := strconv.ParseUint(c.args[0][1:], 10, 62); err == nil {
		c.args = append([]string{"-n", c.args[0][1:]}, c.args[1:]...)
	}
}

func runHead(c *call) int {
	c.obsoleteCount()
	o, names, ok := c.parse("n:c:qvz", longOptions{"lines": 'n', "bytes": 'c', "quiet": 'q', "silent": 'q', "verbose": 'v', "zero-terminated": 'z'})
	if !ok {
		return exitFailure
	}
	flag := o.last('n', 'c')
	count, fromEnd := int64(10), false
	if flag != 0 {
		text, _ := o.get(flag)
		digits := strings.TrimPrefix(text, "-")
		fromEnd = digits != text
		n, ok := parseCount(digits)
		if !ok {
			return c.errorf("invalid number of %s: '%s'", map[rune]string{'n': "lines", 'c': "bytes"}[flag], text)
		}
		count = n
	}
	delim := byte('\n')
	if o.has('z') {
		delim = 0
	}
	header := c.headers(names, o)
	return c.eachInput(names, func(name string, r io.Reader) error {
		header(name)
		switch {
		case flag == 'c' && fromEnd:
			return allButBytes(c, r, count)
		case flag == 'c':
			_, err := c.copyData(c.out, io.LimitReader(r, count))
			return err
		case fromEnd:
			c.out.buffered()
			return allButLines(c, r, count, delim)
		}
		return headLines(c, r, count, delim)
	})
}

// headers returns the function that prints "==> name <==" before a file.
func (c *call) headers(names []string, o options) func(string) {
	want := (len(names) > 1 || o.has('v')) && o.last('q', 'v') != 'q'
	first := true
	return func(name string) {
		if !want {
			return
		}
		if name == "-" {
			name = "standard input"
		}
		if !first {
			c.printf("\n")
		}
		first = false
		c.printf("==> %s <==\n", name)
	}
}

// headLines copies count lines.
func headLines(c *call, r io.Reader, count int64, delim byte) error {
	buf := make([]byte, bufSize)
	for count > 0 {
		n, err := r.Read(buf)
		data := buf[:n]
		end := 0
		for end < len(data) && count > 0 {
			i := bytes.IndexByte(data[end:], delim)
			if i < 0 {
				end = len(data)
				break
			}
			end += i + 1
			count--
		}
		if _, werr := c.out.Write(data[:end]); werr != nil {
			return werr
		}
		if count == 0 {
			unread(r, int64(n-end))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unread gives bytes back to a file, so that the next command of a script that
// reads the same input sees them. Pipes lose them, as with any head.
func unread(r io.Reader, n int64) {
	if s, ok := plainReader(r).(io.Seeker); ok && n > 0 {
		_, _ = s.Seek(-n, io.SeekCurrent) // a pipe says no
	}
}

// allButBytes copies everything except the last count bytes.
func allButBytes(c *call, r io.Reader, count int64) error {
	if count > maxHeld {
		return errTooLarge
	}
	held := make([]byte, 0, min(count+bufSize, maxHeld+bufSize))
	buf := make([]byte, bufSize)
	for {
		n, err := r.Read(buf)
		held = append(held, buf[:n]...)
		if extra := int64(len(held)) - count; extra > 0 {
			if _, werr := c.out.Write(held[:extra]); werr != nil {
				return werr
			}
			held = held[:copy(held, held[extra:])]
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// maxHeld bounds in bytes what head and tail keep of a stream.
const maxHeld = 1 << 30

var errTooLarge = errors.New("count is too large")

// allButLines copies everything except the last count lines.
func allButLines(c *call, r io.Reader, count int64, delim byte) error {
	in := bufio.NewReaderSize(r, bufSize)
	var held [][]byte
	for {
		line, err := in.ReadBytes(delim)
		if len(line) > 0 {
			held = append(held, line)
			if int64(len(held)) > count {
				if _, werr := c.out.Write(held[0]); werr != nil {
					return werr
				}
				held = held[1:]
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
