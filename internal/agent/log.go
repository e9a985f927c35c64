package agent

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestproc"
)

const (
	logBudget   = 1 << 20 // bytes that the log keeps
	logOverhead = 128     // bytes an entry costs besides its text
	// partialAfter is how long an unfinished line may wait for its end, so that a prompt or a
	// row of progress dots is seen.
	partialAfter = 200 * time.Millisecond
)

// Log keeps the newest lines of the guest's programs, about 1 MiB of them, until the host
// has read them. Writers never wait for readers: when nobody reads, the oldest lines go, and
// the next reader is told how many.
type Log struct{ ring *ring[agentproto.LogEntry] }

// NewLog returns an empty log.
func NewLog() *Log {
	return &Log{newRing(logBudget, func(e agentproto.LogEntry) int { return len(e.Text) + logOverhead })}
}

// Add appends one line; text holds no newline. A text over agentproto.MaxLogLine becomes
// several entries.
func (l *Log) Add(source, stream, text string) { l.add(source, stream, text, false) }

func (l *Log) add(source, stream, text string, partial bool) {
	text = strings.ToValidUTF8(text, string(utf8.RuneError))
	for {
		head, more := text, false
		if len(text) > agentproto.MaxLogLine {
			cut := runeCut(text, agentproto.MaxLogLine)
			head, text, more = text[:cut], text[cut:], true
		}
		l.ring.add(func(seq uint64) agentproto.LogEntry {
			return agentproto.LogEntry{
				Seq: seq, Time: time.Now().UTC(), Source: source, Stream: stream,
				Text: head, Partial: more || partial,
			}
		})
		if !more {
			return
		}
	}
}

// End appends the last entry: whatever comes later is not kept.
func (l *Log) End() {
	l.ring.finish(func(seq uint64) agentproto.LogEntry {
		return agentproto.LogEntry{Seq: seq, Time: time.Now().UTC(), Source: "agent", Stream: "out", End: true}
	})
}

// since is ring.since with the loss noted in the first entry.
func (l *Log) since(after uint64, limit int) ([]agentproto.LogEntry, <-chan struct{}) {
	entries, lost, changed := l.ring.since(after, limit)
	if len(entries) > 0 {
		entries[0].Dropped = lost
	}
	return entries, changed
}

// Writer returns a writer that appends what a program prints, line by line, with source and
// stream ("out" or "err") in each entry. Its writes never block and never fail. It is safe
// for concurrent use and is an io.Closer: Close appends an unfinished last line.
func (l *Log) Writer(source, stream string) io.Writer {
	return &logWriter{log: l, source: source, stream: stream}
}

type logWriter struct {
	log            *Log
	source, stream string

	mu    sync.Mutex
	line  []byte // an unfinished line, at most MaxLogLine bytes
	timer *time.Timer
}

// Write implements io.Writer.
func (w *logWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			break
		}
		w.extend(p[:i])
		w.emit(bytes.TrimSuffix(w.line, []byte("\r")), false)
		w.line = w.line[:0]
		p = p[i+1:]
	}
	w.extend(p)
	switch {
	case len(w.line) == 0 && w.timer != nil:
		w.timer.Stop()
	case len(w.line) > 0 && w.timer == nil:
		w.timer = time.AfterFunc(partialAfter, func() {
			guestproc.Guard(func(text string) { w.log.Add("agent", "err", text) }, w.flushPartial)
		})
	case len(w.line) > 0:
		w.timer.Reset(partialAfter)
	}
	return n, nil
}

// extend adds p to the unfinished line and emits what is over the limit.
func (w *logWriter) extend(p []byte) {
	for len(w.line)+len(p) > agentproto.MaxLogLine {
		room := agentproto.MaxLogLine - len(w.line)
		w.line = append(w.line, p[:room]...)
		p = p[room:]
		w.partial(runeCut(w.line, len(w.line)))
	}
	w.line = append(w.line, p...)
}

// partial emits the first n bytes of the unfinished line.
func (w *logWriter) partial(n int) {
	w.emit(w.line[:n], true)
	w.line = append(w.line[:0], w.line[n:]...)
}

func (w *logWriter) flushPartial() {
	w.mu.Lock()
	defer w.mu.Unlock()
	// A rune, or a CR before its LF, may still be incomplete.
	n := runeCut(w.line, len(w.line))
	if n > 0 && w.line[n-1] == '\r' {
		n--
	}
	if n > 0 {
		w.partial(n)
	}
}

func (w *logWriter) emit(line []byte, partial bool) {
	w.log.add(w.source, w.stream, string(line), partial)
}

// Close appends an unfinished last line.
func (w *logWriter) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
	if len(w.line) > 0 {
		w.emit(w.line, false)
		w.line = nil
	}
	return nil
}

var _ io.WriteCloser = (*logWriter)(nil)

// runeCut returns the largest cut ≤ limit that does not split a rune at the end of s[:limit].
func runeCut[S []byte | string](s S, limit int) int {
	if limit > len(s) {
		limit = len(s)
	}
	for back := 1; back <= utf8.UTFMax && back <= limit; back++ {
		b := s[limit-back]
		if !utf8.RuneStart(b) {
			continue
		}
		if b >= utf8.RuneSelf && !utf8.FullRune([]byte(s[limit-back:limit])) && back < limit {
			return limit - back
		}
		break
	}
	return limit
}
