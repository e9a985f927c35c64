package vmm

import (
	"bytes"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Tail keeps the end of what was written to it, 16 KiB at most. Its zero value is ready; it is
// safe for concurrent use.
type Tail struct {
	mu  sync.Mutex
	buf []byte
}

const (
	maxTail      = 16 << 10 // bytes kept
	maxTailLines = 20       // lines shown
)

// Write implements io.Writer; it never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-maxTail):]...)
	if over := len(t.buf) - maxTail; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

// Raw returns it as it was written.
func (t *Tail) Raw() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}

// String returns the last lines, escaped for a terminal.
func (t *Tail) String() string {
	lines := strings.Split(strings.TrimSpace(t.Raw()), "\n")
	lines = lines[max(0, len(lines)-maxTailLines):]
	for i, l := range lines {
		lines[i] = Escape(strings.TrimRight(l, "\r"))
	}
	return strings.Join(lines, "\n")
}

// LastLine returns the last line of what String returned.
func LastLine(words string) string { return words[strings.LastIndexByte(words, '\n')+1:] }

// Clip shortens a text to n bytes and says so.
func Clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

// Escape makes foreign text safe to print: control characters become \xNN.
func Escape(s string) string {
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError || !unicode.IsPrint(r) && r != '\t':
			_, n := utf8.DecodeRuneInString(s[i:])
			for _, c := range []byte(s[i : i+n]) {
				b.WriteString(`\x`)
				b.WriteByte("0123456789abcdef"[c>>4])
				b.WriteByte("0123456789abcdef"[c&15])
			}
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// PanicWatch finds a kernel panic in the console's bytes as they pass by. What it finds is the
// guest's word only; it explains an end, it decides nothing. Its zero value is ready.
type PanicWatch struct {
	mu    sync.Mutex
	line  []byte
	found string
}

const panicMark = "Kernel panic - not syncing"

// Write implements io.Writer; it never fails.
func (w *PanicWatch) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(p)
	for len(p) > 0 && w.found == "" {
		piece, rest, whole := bytes.Cut(p, []byte("\n"))
		if room := 1024 - len(w.line); room > 0 {
			w.line = append(w.line, piece[:min(room, len(piece))]...)
		}
		if !whole {
			break
		}
		if i := bytes.Index(w.line, []byte(panicMark)); i >= 0 {
			w.found = Escape(strings.TrimSpace(string(w.line[i:])))
		}
		w.line, p = w.line[:0], rest
	}
	return n, nil
}

// Text returns the panic's line, or "".
func (w *PanicWatch) Text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.found
}
