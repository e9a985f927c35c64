package engine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/fsnotify/fsnotify"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// maxLine bounds a line that Logs delivers, in bytes; a longer one comes in pieces.
const maxLine = 64 << 10

// Logs delivers a machine's log lines, oldest first, and with Follow goes on until the machine
// has ended or ctx does. It reads the files, so that a dead machine's logs are there too.
func (e *Engine) Logs(ctx context.Context, name string, o LogOptions, emit func(LogLine) error) error {
	rec, err := e.Records.Load(name)
	if err != nil {
		return err
	}
	file, err := logFile(e.places(rec), o.Source)
	if err != nil {
		return err
	}
	f := &logReader{path: file, parse: parserOf(o), emit: emit}
	defer f.close()
	if err := f.history(o.Tail); err != nil || !o.Follow {
		return err
	}
	return f.follow(ctx, func(ctx context.Context) error { return e.Locks.WaitDead(ctx, name) })
}

func logFile(p paths.Machine, source LogSource) (string, error) {
	switch source {
	case LogGuest, "":
		return p.GuestLog(), nil
	case LogConsole:
		return p.ConsoleLog(), nil
	case LogVMM:
		return p.VMMLog(), nil
	case LogSupervisor:
		return p.SupervisorLog(), nil
	}
	return "", machine.Usagef("input.source", "use guest, console, vmm or supervisor", "%q is not a log source", string(source))
}

// parserOf makes a LogLine of a line of the file; false leaves it out.
func parserOf(o LogOptions) func(string) (LogLine, bool) {
	if o.Source != LogGuest && o.Source != "" {
		source := string(o.Source)
		return func(text string) (LogLine, bool) {
			return LogLine{Source: source, Text: machine.Printable(strings.TrimRight(text, "\r"))}, true
		}
	}
	return func(text string) (LogLine, bool) {
		var en agentproto.LogEntry
		if err := json.Unmarshal([]byte(text), &en); err != nil {
			return LogLine{Source: "mvmctl", Text: machine.Printable(text)}, true // our own note about lost bytes
		}
		if !o.Since.IsZero() && en.Time.Before(o.Since) {
			return LogLine{}, false
		}
		l := LogLine{Time: en.Time, Source: en.Source, Stream: en.Stream, Text: en.Text}
		if en.Source != "main" {
			l.Text = machine.Printable(en.Text)
		}
		return l, true
	}
}

// logReader reads a log file that is rotated: PATH is the newest, PATH.1 the one before.
type logReader struct {
	path  string
	parse func(string) (LogLine, bool)
	emit  func(LogLine) error
	f     *os.File
	r     *bufio.Reader
	rest  string // an unfinished last line
}

func (l *logReader) close() {
	if l.f != nil {
		_ = l.f.Close()
		l.f = nil
	}
}

// history delivers what is there: the last tail lines, or all when tail is negative.
func (l *logReader) history(tail int) error {
	final := l.emit
	var ring []LogLine // the last tail lines, oldest at next
	next := 0
	if tail >= 0 {
		l.emit = func(line LogLine) error {
			switch {
			case len(ring) < tail:
				ring = append(ring, line)
			case tail > 0:
				ring[next] = line
				next = (next + 1) % tail
			}
			return nil
		}
	}
	defer func() { l.emit = final }()
	if old, err := os.Open(l.path + ".1"); err == nil {
		l.f, l.r = old, bufio.NewReaderSize(old, maxLine)
		err = l.drain()
		l.close()
		if err != nil {
			return err
		}
	}
	if err := l.open(); err != nil {
		return err
	}
	if err := l.drain(); err != nil {
		return err
	}
	for i := range ring {
		if err := final(ring[(next+i)%len(ring)]); err != nil {
			return err
		}
	}
	return nil
}

func (l *logReader) open() error {
	f, err := os.Open(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	l.close()
	l.f, l.r = f, bufio.NewReaderSize(f, maxLine)
	return nil
}

// drain delivers all whole lines up to the end of the open file.
func (l *logReader) drain() error {
	if l.f == nil {
		return nil
	}
	for {
		piece, err := l.r.ReadSlice('\n')
		l.rest += string(piece)
		whole := err == nil || len(l.rest) >= maxLine*16
		if whole {
			text := strings.TrimSuffix(l.rest, "\n")
			l.rest = ""
			if line, ok := l.parse(text); ok {
				if err := l.emit(line); err != nil {
					return err
				}
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// follow delivers new lines as they are written, until dead returns or ctx ends. It is woken by
// the file system's events.
func (l *logReader) follow(ctx context.Context, dead func(context.Context) error) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return machine.Errorf("logs.watch", "leave out --follow", "watching the log: %w", err)
	}
	defer func() { _ = w.Close() }()
	if err := w.Add(filepath.Dir(l.path)); err != nil {
		return machine.Errorf("logs.watch", "leave out --follow", "watching the log: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		if dead(ctx) == nil {
			close(ended)
		}
	}()
	for {
		if err := l.catchUp(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ended:
			return l.catchUp()
		case _, ok := <-w.Events:
			if !ok {
				return nil
			}
		case err := <-w.Errors:
			return machine.Errorf("logs.watch", "try again", "watching the log: %w", err)
		}
	}
}

// catchUp delivers what has been written since, over a rotation too.
func (l *logReader) catchUp() error {
	if err := l.drain(); err != nil {
		return err
	}
	now, err := os.Stat(l.path)
	if err != nil {
		return nil //nolint:nilerr // between two files of a rotation, or the machine is being removed
	}
	if l.f != nil {
		have, err := l.f.Stat()
		if err == nil && os.SameFile(have, now) {
			return nil
		}
		if err := l.drain(); err != nil { // what came between the two looks
			return err
		}
	}
	if err := l.open(); err != nil {
		return err
	}
	return l.drain()
}
