package cli

import (
	"os"
	"sync"
	"syscall"

	"golang.org/x/term"

	"github.com/mvmctl/mvmctl/internal/engine"
)

// terminal reports whether a stream is a terminal.
func (a *app) terminal(stream any) bool {
	if a.io.Terminal != nil {
		return a.io.Terminal(stream)
	}
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// sizeOf returns the columns and rows of the terminal behind a stream, 0 when there is none.
func (a *app) sizeOf(stream any) (cols, rows int) {
	f, ok := stream.(*os.File)
	if !ok {
		return 0, 0
	}
	cols, rows, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0, 0
	}
	return cols, rows
}

// width returns the columns that tables may take: those of the terminal, all they need
// elsewhere.
func (a *app) width() int {
	if !a.terminal(a.io.Out) {
		return 0
	}
	cols, _ := a.sizeOf(a.io.Out)
	return cols
}

// restoreTerminal puts the terminal back as it was. It may be called at any time and twice.
func (a *app) restoreTerminal() {
	a.mu.Lock()
	todo, stop := a.restore, a.progress
	a.restore, a.progress = nil, nil
	a.mu.Unlock()
	for _, f := range todo {
		f()
	}
	if stop != nil {
		stop()
	}
}

// session is the caller's terminal while a guest command has it.
type session struct {
	a       *app
	tty     bool
	resize  chan engine.Size
	signals chan string
	once    sync.Once
}

// newSession prepares a session. With pass, signals go to the guest command: the first of each
// kind is delivered, the next one cancels. On a terminal none does: the keys that make signals
// reach the guest as bytes, and what still arrives is meant for us (a shell ignores SIGTERM).
func (a *app) newSession(tty, pass bool) *session {
	s := &session{a: a, tty: tty}
	if tty {
		s.resize = make(chan engine.Size, 1)
	}
	if pass && !tty {
		s.signals = make(chan string, 4)
	}
	return s
}

// streams returns the caller's ends.
func (s *session) streams() engine.Streams {
	out := engine.Streams{Stdin: s.a.io.In, Stdout: s.a.out, Stderr: s.a.io.Err, TTY: s.tty, Resize: s.resize, Signals: s.signals}
	if s.tty {
		out.Term, _ = s.a.env("TERM")
		out.Size = s.size()
	}
	return out
}

func (s *session) size() engine.Size {
	for _, stream := range []any{s.a.io.Out, s.a.io.In} {
		if cols, rows := s.a.sizeOf(stream); cols > 0 && rows > 0 {
			return engine.Size{Rows: uint16(min(rows, 1<<16-1)), Cols: uint16(min(cols, 1<<16-1))}
		}
	}
	return engine.Size{Rows: 24, Cols: 80} // a window of 0×0, or -t without a terminal
}

// begin gives the terminal to the guest: raw mode, and signals where they belong. It does
// nothing the second time.
func (s *session) begin() {
	s.once.Do(func() {
		s.a.mu.Lock()
		defer s.a.mu.Unlock()
		s.a.grab = s.take
		f, isFile := s.a.io.In.(*os.File)
		if !s.tty || !isFile || !s.a.terminal(f) {
			return
		}
		fd := int(f.Fd())
		old, err := term.MakeRaw(fd)
		if err != nil {
			return // not a terminal after all; the guest still gets one
		}
		s.a.restore = append(s.a.restore, func() { _ = term.Restore(fd, old) })
	})
}

// end takes the terminal back.
func (s *session) end() {
	s.a.mu.Lock()
	s.a.grab = nil
	s.a.mu.Unlock()
	s.a.restoreTerminal()
}

// take handles a signal on the guest's behalf and reports whether it did.
func (s *session) take(sig os.Signal) bool {
	if sig == syscall.SIGWINCH {
		if s.resize != nil {
			s.newest(s.size())
		}
		return true
	}
	n, ok := sig.(syscall.Signal)
	if !ok || s.signals == nil || n == syscall.SIGPIPE || n == syscall.SIGHUP {
		return false
	}
	select {
	case s.signals <- signalName(n):
		s.mayCancel(n)
		return true
	default:
		return false
	}
}

// mayCancel lets a signal of the same kind cancel the command the next time: the guest command
// may ignore it, or be gone.
func (s *session) mayCancel(n syscall.Signal) {
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	before := s.a.grab
	s.a.grab = func(sig os.Signal) bool {
		if sig == n {
			return false
		}
		return before(sig)
	}
}

// newest delivers the latest size and forgets an older one that nobody has read.
func (s *session) newest(size engine.Size) {
	select {
	case <-s.resize:
	default:
	}
	select {
	case s.resize <- size:
	default:
	}
}
