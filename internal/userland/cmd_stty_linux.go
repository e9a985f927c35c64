package userland

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ttyFlag is one switch of a terminal's line discipline (termios(3)).
type ttyFlag struct {
	name  string
	field func(*unix.Termios) *uint32
	bit   uint32
	sane  saneState
}

// saneState is what stty sane does to a flag, as GNU's does.
type saneState int

const (
	kept saneState = iota
	on
	off
)

func inputFlags(t *unix.Termios) *uint32   { return &t.Iflag }
func outputFlags(t *unix.Termios) *uint32  { return &t.Oflag }
func controlFlags(t *unix.Termios) *uint32 { return &t.Cflag }
func localFlags(t *unix.Termios) *uint32   { return &t.Lflag }

// ttyFlags are in the order in which stty -a prints them.
func ttyFlags() []ttyFlag {
	return []ttyFlag{
		{"parenb", controlFlags, unix.PARENB, kept},
		{"cstopb", controlFlags, unix.CSTOPB, kept},
		{"cread", controlFlags, unix.CREAD, on},
		{"hupcl", controlFlags, unix.HUPCL, kept},
		{"clocal", controlFlags, unix.CLOCAL, kept},
		{"ignbrk", inputFlags, unix.IGNBRK, off},
		{"brkint", inputFlags, unix.BRKINT, on},
		{"ignpar", inputFlags, unix.IGNPAR, kept},
		{"istrip", inputFlags, unix.ISTRIP, kept},
		{"inlcr", inputFlags, unix.INLCR, off},
		{"igncr", inputFlags, unix.IGNCR, off},
		{"icrnl", inputFlags, unix.ICRNL, on},
		{"ixon", inputFlags, unix.IXON, kept},
		{"ixoff", inputFlags, unix.IXOFF, off},
		{"imaxbel", inputFlags, unix.IMAXBEL, on},
		{"iutf8", inputFlags, unix.IUTF8, kept},
		{"opost", outputFlags, unix.OPOST, on},
		{"onlcr", outputFlags, unix.ONLCR, on},
		{"ocrnl", outputFlags, unix.OCRNL, off},
		{"isig", localFlags, unix.ISIG, on},
		{"icanon", localFlags, unix.ICANON, on},
		{"iexten", localFlags, unix.IEXTEN, on},
		{"echo", localFlags, unix.ECHO, on},
		{"echoe", localFlags, unix.ECHOE, on},
		{"echok", localFlags, unix.ECHOK, on},
		{"echonl", localFlags, unix.ECHONL, off},
		{"echoctl", localFlags, unix.ECHOCTL, on},
		{"echoke", localFlags, unix.ECHOKE, on},
		{"noflsh", localFlags, unix.NOFLSH, off},
		{"tostop", localFlags, unix.TOSTOP, off},
	}
}

// ttyKey is one special character; sane is what it is by default.
type ttyKey struct {
	name  string
	index int
	sane  uint8
}

func ttyKeys() []ttyKey {
	return []ttyKey{
		{"intr", unix.VINTR, 3},
		{"quit", unix.VQUIT, 28},
		{"erase", unix.VERASE, 127},
		{"kill", unix.VKILL, 21},
		{"eof", unix.VEOF, 4},
		{"start", unix.VSTART, 17},
		{"stop", unix.VSTOP, 19},
		{"susp", unix.VSUSP, 26},
		{"werase", unix.VWERASE, 23},
		{"lnext", unix.VLNEXT, 22},
	}
}

// runStty shows and changes the terminal on standard input.
func runStty(c *call) int {
	args := c.args
	f, isFile := plainReader(c.in).(*os.File)
	if len(args) > 1 && args[0] == "-F" {
		opened, err := os.OpenFile(c.path(args[1]), os.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err != nil {
			return c.fail(args[1], err)
		}
		defer opened.Close()
		f, isFile, args = opened, true, args[2:]
	}
	if !isFile || !isTerminal(f) {
		return c.errorf("standard input: Inappropriate ioctl for device")
	}
	fd := int(f.Fd())
	t, err := unix.IoctlGetTermios(fd, ioctlGetTermios)
	if err != nil {
		return c.fail("standard input", err)
	}
	size, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
	if err != nil {
		return c.fail("standard input", err)
	}
	switch {
	case len(args) == 0:
		c.showTTY(t, size, false)
	case slices.Equal(args, []string{"-a"}):
		c.showTTY(t, size, true)
	case slices.Equal(args, []string{"size"}):
		c.printf("%d %d\n", size.Row, size.Col)
	case slices.Equal(args, []string{"-g"}):
		c.printf("%s\n", saveTTY(t))
	default:
		return c.changeTTY(fd, t, size, args)
	}
	return exitOK
}

func (c *call) showTTY(t *unix.Termios, size *unix.Winsize, all bool) {
	speed := "38400" // a terminal without a line has this one
	if t.Cflag&unix.CBAUD == unix.B115200 {
		speed = "115200"
	}
	if all {
		c.printf("speed %s baud; rows %d; columns %d; line = %d;\n", speed, size.Row, size.Col, t.Line)
	} else {
		c.printf("speed %s baud; line = %d;\n", speed, t.Line)
	}
	var words []string
	for _, k := range ttyKeys() {
		if all || t.Cc[k.index] != k.sane {
			words = append(words, k.name+" = "+keyName(t.Cc[k.index])+";")
		}
	}
	if len(words) > 0 {
		c.printf("%s\n", strings.Join(words, " "))
		words = nil
	}
	for _, f := range ttyFlags() {
		set := *f.field(t)&f.bit != 0
		switch {
		case !all && (f.sane == kept || set == (f.sane == on)):
		case set:
			words = append(words, f.name)
		default:
			words = append(words, "-"+f.name)
		}
	}
	if len(words) > 0 {
		c.printf("%s\n", strings.Join(words, " "))
	}
}

func keyName(b uint8) string {
	switch {
	case b == 0:
		return "<undef>"
	case b == 127:
		return "^?"
	case b < ' ':
		return "^" + string(rune(b+'@'))
	}
	return string(rune(b))
}

// parseKey reads what keyName writes, a bare character, or undef.
func parseKey(s string) (uint8, bool) {
	switch {
	case s == "undef" || s == "^-" || s == "<undef>":
		return 0, true
	case s == "^?":
		return 127, true
	case len(s) == 2 && s[0] == '^':
		return strings.ToUpper(s)[1] & 31, true
	}
	if len(s) != 1 {
		return 0, false
	}
	return s[0], true
}

// saveTTY is stty -g: the settings as one word, for a later stty.
func saveTTY(t *unix.Termios) string {
	words := []string{}
	for _, v := range []uint32{t.Iflag, t.Oflag, t.Cflag, t.Lflag} {
		words = append(words, strconv.FormatUint(uint64(v), 16))
	}
	for _, v := range t.Cc {
		words = append(words, strconv.FormatUint(uint64(v), 16))
	}
	return strings.Join(words, ":")
}

// loadTTY takes the settings of saveTTY; false: s is none.
func loadTTY(t *unix.Termios, s string) bool {
	words := strings.Split(s, ":")
	if len(words) != 4+len(t.Cc) {
		return false
	}
	var values []uint64
	for i, w := range words {
		bits := 32
		if i >= 4 {
			bits = 8
		}
		v, err := strconv.ParseUint(w, 16, bits)
		if err != nil {
			return false
		}
		values = append(values, v)
	}
	t.Iflag, t.Oflag, t.Cflag, t.Lflag = uint32(values[0]), uint32(values[1]), uint32(values[2]), uint32(values[3])
	for i := range t.Cc {
		t.Cc[i] = uint8(values[4+i])
	}
	return true
}

func (c *call) changeTTY(fd int, t *unix.Termios, size *unix.Winsize, args []string) int {
	old, resized := *t, false
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		if setTTYWord(t, word) || loadTTY(t, word) {
			continue
		}
		taken, err := setTTYValue(t, size, word, args)
		if err != nil {
			return c.errorf("%s", err)
		}
		resized = resized || taken && slices.Contains([]string{"rows", "cols", "columns"}, word)
		args = args[1:]
	}
	if *t != old {
		if err := unix.IoctlSetTermios(fd, unix.TCSETSW, t); err != nil {
			return c.fail("standard input", err)
		}
	}
	if resized {
		if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size); err != nil {
			return c.fail("standard input", err)
		}
	}
	return exitOK
}

// setTTYWord changes what one word says by itself; false: it does not.
func setTTYWord(t *unix.Termios, word string) bool {
	name, minus := strings.CutPrefix(word, "-")
	set := func(to bool, names ...string) bool {
		for _, f := range ttyFlags() {
			if !slices.Contains(names, f.name) {
				continue
			}
			*f.field(t) &^= f.bit
			if to {
				*f.field(t) |= f.bit
			}
		}
		return true
	}
	switch {
	case word == "sane":
		for _, f := range ttyFlags() {
			if f.sane != kept {
				set(f.sane == on, f.name)
			}
		}
		for _, k := range ttyKeys() {
			t.Cc[k.index] = k.sane
		}
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
		return true
	case word == "raw" || word == "-cooked":
		t.Iflag = 0
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
		return set(false, "opost", "isig", "icanon")
	case name == "raw" || name == "cooked":
		// Without istrip, which POSIX names too: it breaks every text that is not ASCII.
		return set(true, "brkint", "ignpar", "icrnl", "ixon", "opost", "isig", "icanon")
	case name == "cbreak":
		return set(minus, "icanon")
	case slices.ContainsFunc(ttyFlags(), func(f ttyFlag) bool { return f.name == name }):
		return set(!minus, name)
	}
	return false
}

// setTTYValue changes what a word and the one after it say.
func setTTYValue(t *unix.Termios, size *unix.Winsize, word string, rest []string) (taken bool, err error) {
	number := map[string]func(int){
		"rows": func(n int) { size.Row = uint16(n) }, "cols": func(n int) { size.Col = uint16(n) }, "columns": func(n int) { size.Col = uint16(n) },
		"min": func(n int) { t.Cc[unix.VMIN] = uint8(n) }, "time": func(n int) { t.Cc[unix.VTIME] = uint8(n) },
	}[word]
	at := slices.IndexFunc(ttyKeys(), func(k ttyKey) bool { return k.name == word })
	switch {
	case number == nil && at < 0:
		return false, fmt.Errorf("invalid argument '%s'", word)
	case len(rest) == 0:
		return false, fmt.Errorf("missing argument to '%s'", word)
	case number != nil:
		bits := 16
		if word == "min" || word == "time" {
			bits = 8
		}
		n, err := strconv.ParseUint(rest[0], 10, bits)
		if err != nil {
			return false, fmt.Errorf("invalid integer argument: '%s'", rest[0])
		}
		number(int(n))
		return true, nil
	}
	key, ok := parseKey(rest[0])
	if !ok {
		return false, fmt.Errorf("invalid argument '%s'", rest[0])
	}
	t.Cc[ttyKeys()[at].index] = key
	return true, nil
}
