package userland

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/term"
	"mvdan.cc/sh/v3/syntax"
)

// errInterrupt is what reading a line gives after Ctrl-C.
var errInterrupt = errors.New("interrupted")

// lineReader edits lines on a terminal.
type lineReader struct {
	in       *os.File
	out      io.Writer
	term     *term.Terminal
	complete *completer
}

// keys feeds the editor. It reads single bytes, so that what is typed ahead
// stays in the terminal for the command that is started next.
type keys struct {
	io.Writer
	in *os.File
}

func (k keys) Read(p []byte) (int, error) {
	const ctrlC = 3
	if len(p) == 0 {
		return 0, nil
	}
	n, err := k.in.Read(p[:1])
	if n == 1 {
		switch p[0] {
		case ctrlC:
			return 0, errInterrupt
		case '\n':
			p[0] = '\r' // what the editor takes for the end of a line
		}
	}
	return n, err
}

func newLineReader(in *os.File, out io.Writer, complete *completer) *lineReader {
	l := &lineReader{in: in, out: out, complete: complete}
	complete.print = func(text string) { _, _ = l.term.Write([]byte(text)) } // the terminal may be gone
	l.reset()
	return l
}

// reset drops a half-typed line and keeps the history.
func (l *lineReader) reset() {
	t := term.NewTerminal(keys{l.out, l.in}, "")
	if l.term != nil {
		t.History = l.term.History
	}
	t.AutoCompleteCallback = l.complete.key
	l.term = t
}

// read reads one line. It returns errInterrupt on Ctrl-C, io.EOF on Ctrl-D.
func (l *lineReader) read(prompt string) (string, error) {
	fd := int(l.in.Fd())
	state, err := term.MakeRaw(fd)
	if err != nil {
		return "", err
	}
	defer func() { _ = term.Restore(fd, state) }() // the terminal may be gone
	// Lines typed ahead are for the command that is started next, which wants
	// them to end in a newline.
	if err := keepNewlines(fd); err != nil {
		return "", err
	}
	if w, h, err := term.GetSize(fd); err == nil && w > 0 && h > 0 {
		_ = l.term.SetSize(w, h) // fails only as writing the prompt does
	}
	l.term.SetPrompt(prompt)
	line, err := l.term.ReadLine()
	switch {
	case errors.Is(err, term.ErrPasteIndicator):
		return line, nil
	case errors.Is(err, errInterrupt):
		fmt.Fprint(l.out, "^C\r\n")
		l.reset()
	case errors.Is(err, io.EOF):
		fmt.Fprint(l.out, "\r\n")
	}
	return line, err
}

// interact is the shell on a terminal.
func (s *shell) interact() int {
	in, ok := s.c.stdio.In.(*os.File)
	if !ok {
		return s.runStream("sh")
	}
	// The terminal sends these to us as well as to the command in the
	// foreground. They are caught, not ignored: children would inherit that.
	sigs := make(chan os.Signal, 8)
	signal.Notify(sigs, syscall.SIGINT, syscall.SIGQUIT)
	defer signal.Stop(sigs)

	lines := newLineReader(in, s.c.err, &completer{
		dir: func() string { return s.runner.Dir }, path: func() string { return s.variable("PATH") }, home: func() string { return s.variable("HOME") },
	})
	status := exitOK
	var text strings.Builder
	for {
		prompt := s.prompt()
		if text.Len() > 0 {
			prompt = "> "
		}
		line, err := lines.read(prompt)
		switch {
		case errors.Is(err, errInterrupt):
			text.Reset()
			status = s.setStatus(exitInterrupted)
			continue
		case err != nil:
			return s.leave(status, "sh")
		}
		text.WriteString(line + "\n")
		file, err := syntax.NewParser().Parse(strings.NewReader(text.String()), "sh")
		if err != nil && syntax.IsIncomplete(err) {
			continue
		}
		text.Reset()
		if err != nil {
			s.c.errorf("%s", err)
			status = s.setStatus(exitUsage)
			continue
		}
		var stop bool
		if status, stop = s.runLine(file, sigs, status); stop {
			return status
		}
	}
}

// runLine runs the statements of one line; SIGINT abandons the rest of it.
func (s *shell) runLine(file *syntax.File, sigs <-chan os.Signal, last int) (status int, stop bool) {
	// The context ends with an interrupt only: jobs of this line go on after it.
	ctx, cancel := context.WithCancel(s.c.ctx)
	ended := make(chan struct{})
	defer close(ended)
	for drained := false; !drained; {
		select {
		case <-sigs:
		default:
			drained = true
		}
	}
	go func() {
		for {
			select {
			case sig := <-sigs:
				if sig == syscall.SIGINT {
					cancel()
				}
			case <-ended:
				return
			}
		}
	}()
	status = last
	interrupted := func() bool { return ctx.Err() != nil && s.c.ctx.Err() == nil }
	for _, stmt := range file.Stmts {
		s.rewrite(stmt)
		err := s.runner.Run(ctx, stmt)
		if interrupted() {
			fmt.Fprintln(s.c.err)
			return s.setStatus(exitInterrupted), false
		}
		status = s.result(err)
		if s.runner.Exited() || s.c.ctx.Err() != nil {
			return status, true
		}
	}
	return status, false
}

// setStatus makes $? say how a line ended that did not run to its end.
func (s *shell) setStatus(status int) int {
	file, err := syntax.NewParser().Parse(strings.NewReader(fmt.Sprintf("(exit %d)", status)), "sh")
	if err == nil {
		_ = s.runner.Run(s.c.ctx, file.Stmts[0]) // it returns the status
	}
	return status
}

// prompt is "hostname:directory# ", with "$" for other users than root.
func (s *shell) prompt() string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	dir := s.runner.Dir
	home := s.variable("HOME")
	if home != "" && home != "/" {
		if dir == home {
			dir = "~"
		} else if rest, ok := strings.CutPrefix(dir, home+"/"); ok {
			dir = "~/" + rest
		}
	}
	mark := "$"
	if os.Geteuid() == 0 {
		mark = "#"
	}
	return escapeControl(host+":"+dir) + mark + " "
}

// variable is a variable's value between two commands.
func (s *shell) variable(name string) string {
	if v, ok := s.runner.Vars[name]; ok { // empty until the first command has run
		return v.String()
	}
	return s.c.getenv(name)
}

// escapeControl keeps a directory's name from steering the terminal.
func escapeControl(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return '?'
		}
		return r
	}, s)
}
