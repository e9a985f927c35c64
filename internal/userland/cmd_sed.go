package userland

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// sedRun is one run of sed over one group of files.
type sedRun struct {
	c        *call
	commands []*sedCommand
	quiet    bool
	delim    byte
	out      *output
	in       *sedInput
	writers  map[string]*os.File

	pattern, hold string
	missingEnd    bool // the last line of the input has no newline
	owesEnd       bool // it was printed without one
	appended      []sedAppend
	last          *regexp.Regexp
	substituted   bool
	line          int
	quit          bool
	status        int
}

// sedAppend is output that waits for the end of the cycle.
type sedAppend struct {
	text string
	file string
}

var errNoExpression = errors.New("no previous regular expression")

func runSed(c *call) int {
	o, args, ok := c.parse("nEre:f:i::szu\x01", longOptions{
		"quiet": 'n', "silent": 'n', "regexp-extended": 'E', "expression": 'e', "file": 'f', "in-place": 'i', "separate": 's',
		"null-data": 'z', "unbuffered": 'u', "posix": '\x01',
	})
	if !ok {
		return exitFailure
	}
	script, args, err := c.sedScript(o, args)
	if err != nil {
		return c.errorf("%s", err)
	}
	syntax := basicRE
	if o.has('E', 'r') {
		syntax = extendedRE
	}
	if _, err := parseSed(script, syntax); err != nil {
		return c.errorf("-e expression: %s", err)
	}
	if len(args) == 0 {
		args = []string{"-"}
	}
	newRun := func(out *output) *sedRun {
		commands, _ := parseSed(script, syntax) // fresh ranges; it parsed above
		s := &sedRun{c: c, commands: commands, quiet: o.has('n') || strings.HasPrefix(script, "#n\n"), delim: '\n', out: out, writers: map[string]*os.File{}}
		if o.has('z') {
			s.delim = 0
		}
		return s
	}
	suffix, inPlace := o.get('i')
	if !inPlace && !o.has('s') {
		c.out.buffered()
		return newRun(c.out).files(args)
	}
	status := exitOK
	for _, name := range args {
		if !inPlace {
			status = max(status, newRun(c.out).files([]string{name}))
			continue
		}
		s, err := c.sedInPlace(name, suffix, newRun)
		if err != nil {
			s = c.fail(name, err)
		}
		status = max(status, s)
	}
	return status
}

// sedScript joins the script's pieces.
func (c *call) sedScript(o options, args []string) (script string, rest []string, err error) {
	var parts []string
	for _, opt := range o {
		switch opt.flag {
		case 'e':
			parts = append(parts, opt.value)
		case 'f':
			r, err := c.open(opt.value)
			if err != nil {
				return "", nil, errors.New("couldn't open file " + opt.value + ": " + reason(err))
			}
			data, err := io.ReadAll(io.LimitReader(r, maxScript))
			r.Close()
			if err != nil {
				return "", nil, err
			}
			parts = append(parts, strings.TrimSuffix(string(data), "\n"))
		}
	}
	if len(parts) == 0 {
		if len(args) == 0 {
			return "", nil, errors.New("no script given; see sed --help")
		}
		return args[0], args[1:], nil
	}
	return strings.Join(parts, "\n"), args, nil
}

// sedInPlace edits a file: the result replaces it at once, or not at all.
func (c *call) sedInPlace(name, suffix string, newRun func(*output) *sedRun) (int, error) {
	path, err := canonical(c.absolute(name), canonExisting)
	if err != nil {
		return 0, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, errors.New("couldn't edit: not a regular file")
	}
	tmp, err := os.CreateTemp(path[:strings.LastIndexByte(path, '/')+1], "sed")
	if err != nil {
		return 0, err
	}
	defer os.Remove(tmp.Name()) // after the rename there is nothing left
	defer tmp.Close()
	w := &output{ctx: c.ctx, w: tmp}
	w.buffered()
	status := newRun(w).files([]string{name})
	if err := w.Flush(); err != nil {
		return 0, err
	}
	if c.ctx.Err() != nil {
		return exitFailure, nil
	}
	s := statOf(info)
	// Ownership cannot always be kept, as with any program that replaces files.
	_ = tmp.Chown(int(s.uid), int(s.gid))
	if err := tmp.Chmod(info.Mode()); err != nil {
		return 0, err
	}
	if suffix != "" {
		backup := name + suffix
		if strings.Contains(suffix, "*") {
			backup = strings.ReplaceAll(suffix, "*", name)
		}
		if err := os.Rename(path, c.path(backup)); err != nil {
			return 0, err
		}
	}
	return status, os.Rename(tmp.Name(), path)
}

// sedInput reads lines across files and knows which one is the last.
type sedInput struct {
	c       *call
	names   []string
	r       *bufio.Reader
	name    string
	file    io.Closer
	delim   byte
	next    string
	hasNext bool
	nextEnd bool // the read-ahead line had no delimiter
	status  int
}

// fill reads one line ahead.
func (in *sedInput) fill() {
	for !in.hasNext {
		if in.r == nil {
			if len(in.names) == 0 {
				return
			}
			name := in.names[0]
			in.names = in.names[1:]
			f, err := in.c.open(name)
			if err != nil {
				in.c.errorf("can't read %s: %s", name, reason(err))
				in.status = exitUsage
				continue
			}
			in.r, in.name, in.file = bufio.NewReaderSize(f, bufSize), name, f
		}
		line, err := readLine(in.r, in.delim)
		if len(line) > 0 || err == nil {
			in.next, in.hasNext, in.nextEnd = string(line), true, err != nil
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				in.c.errorf("read error on %s: %s", in.name, reason(err))
				in.status = exitUsage
			}
			in.file.Close()
			in.r = nil
		}
	}
}

// take returns the next line.
func (in *sedInput) take() (line string, noEnd, ok bool) {
	in.fill()
	if !in.hasNext {
		return "", false, false
	}
	in.hasNext = false
	return in.next, in.nextEnd, true
}

func (in *sedInput) atEnd() bool {
	in.fill()
	return !in.hasNext
}

func (s *sedRun) files(names []string) int {
	s.in = &sedInput{c: s.c, names: names, delim: s.delim}
	defer func() {
		for _, f := range s.writers {
			f.Close()
		}
	}()
	for !s.quit && !s.c.stopped() && s.read() {
		if err := s.cycle(); err != nil {
			return s.c.errorf("%s", err)
		}
	}
	if s.in.r != nil {
		s.in.file.Close()
	}
	return max(s.status, s.in.status)
}

// read takes the next line into the pattern space.
func (s *sedRun) read() bool {
	line, noEnd, ok := s.in.take()
	if !ok {
		return false
	}
	s.pattern, s.missingEnd = line, noEnd
	s.line++
	return true
}

// emit writes output. What follows a line that had no newline begins with one.
func (s *sedRun) emit(text string) {
	if s.owesEnd {
		s.out.Write([]byte{s.delim})
		s.owesEnd = false
	}
	s.out.WriteString(text)
}

func (s *sedRun) print(text string) {
	if s.missingEnd && s.in.atEnd() {
		s.emit(text)
		s.owesEnd = true
		return
	}
	s.emit(text + string(rune(s.delim)))
}

// flush writes what a, i and r have queued.
func (s *sedRun) flush() {
	for _, a := range s.appended {
		if a.file == "" {
			s.emit(a.text)
			continue
		}
		if f, err := s.c.open(a.file); err == nil { // a missing file is no error (POSIX)
			s.emit("")
			_, _ = copyBuffer(s.c.ctx, s.out, f) // likewise; the output keeps its error
			f.Close()
		}
	}
	s.appended = nil
}

// cycle runs the script on the pattern space, again while D restarts it.
func (s *sedRun) cycle() error {
	for {
		restart, print, err := s.script()
		if err != nil {
			return err
		}
		if print && !s.quiet {
			s.print(s.pattern)
		}
		s.flush()
		if !restart {
			return nil
		}
		if s.c.stopped() {
			return nil
		}
	}
}

// script runs the commands once. restart asks for another run without reading
// a line; print says that the cycle ends in the usual way.
func (s *sedRun) script() (restart, print bool, err error) {
	s.substituted = false
	for pc := 0; pc < len(s.commands); pc++ {
		c := s.commands[pc]
		hit, err := s.selects(c)
		if err != nil {
			return false, false, err
		}
		if hit == c.negate {
			if c.verb == '{' {
				pc = c.target - 1
			}
			continue
		}
		switch c.verb {
		case 'b':
			pc = c.target - 1
		case 't', 'T':
			if s.substituted == (c.verb == 't') {
				pc = c.target - 1
			}
			s.substituted = false
		case 'd':
			return false, false, nil
		case 'D':
			_, rest, more := strings.Cut(s.pattern, "\n")
			if !more {
				return false, false, nil
			}
			s.pattern = rest
			return true, false, nil
		case 'c':
			if c.addr[1] == nil || c.negate || !c.inRange {
				s.emit(c.text)
			}
			return false, false, nil
		case 'n':
			if s.in.atEnd() {
				s.quit = true
				return false, true, nil // GNU prints at the end, POSIX does not
			}
			if !s.quiet {
				s.print(s.pattern)
			}
			s.flush()
			s.read()
		case 'N':
			if s.in.atEnd() {
				s.quit = true
				return false, true, nil
			}
			old := s.pattern
			s.flush()
			s.read()
			s.pattern = old + "\n" + s.pattern
		case 'q', 'Q':
			s.quit, s.status = true, c.status
			return false, c.verb == 'q', nil
		default:
			if err := s.simple(c); err != nil {
				return false, false, err
			}
		}
		if s.c.stopped() {
			return false, false, nil
		}
	}
	return false, true, nil
}

// simple runs the commands that only change or print the spaces.
func (s *sedRun) simple(c *sedCommand) error {
	switch c.verb {
	case 's':
		return s.substitute(c)
	case 'y':
		s.pattern = strings.Map(func(r rune) rune {
			if to, ok := c.table[r]; ok {
				return to
			}
			return r
		}, s.pattern)
	case 'p':
		s.print(s.pattern)
	case 'P':
		first, _, _ := strings.Cut(s.pattern, "\n")
		s.emit(first + string(rune(s.delim)))
	case '=':
		s.emit(strconv.Itoa(s.line) + "\n")
	case 'l':
		s.emit(sedVisible(s.pattern) + "$\n")
	case 'a':
		s.appended = append(s.appended, sedAppend{text: c.text})
	case 'r':
		s.appended = append(s.appended, sedAppend{file: c.text})
	case 'i':
		s.emit(c.text)
	case 'w':
		return s.write(c.text)
	case 'h':
		s.hold = s.pattern
	case 'H':
		s.hold += "\n" + s.pattern
	case 'g':
		s.pattern = s.hold
	case 'G':
		s.pattern += "\n" + s.hold
	case 'x':
		s.pattern, s.hold = s.hold, s.pattern
	case 'z':
		s.pattern = ""
	}
	if len(s.pattern)+len(s.hold) > maxHeld {
		return errTooLarge
	}
	return nil
}

func (s *sedRun) write(name string) error {
	f := s.writers[name]
	if f == nil {
		switch name {
		case "/dev/stdout":
			s.print(s.pattern)
			return nil
		case "/dev/stderr":
			fmt.Fprintln(s.c.err, s.pattern)
			return nil
		}
		var err error
		if f, err = os.Create(s.c.path(name)); err != nil {
			return errors.New("couldn't open file " + name + ": " + reason(err))
		}
		s.writers[name] = f
	}
	_, err := f.WriteString(s.pattern + "\n")
	return err
}
