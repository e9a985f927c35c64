package vmm

import (
	"strings"
	"testing"
)

func TestTailKeepsTheEndEscaped(t *testing.T) {
	var w Tail
	for range 5000 {
		_, _ = w.Write([]byte("an earlier line\n"))
	}
	_, _ = w.Write([]byte(strings.Repeat("x", 3*maxTail) + "\nred \x1b[31m\xff\r\nlast\n"))
	got := w.String()
	if !strings.HasSuffix(got, "\nred \\x1b[31m\\xff\nlast") || len(got) > maxTail+64 || len(w.Raw()) > maxTail {
		t.Errorf("%d bytes, ending in %q", len(got), got[max(0, len(got)-60):])
	}
}

func TestPanicWatch(t *testing.T) {
	var w PanicWatch
	for _, piece := range []string{"[ 1.0] all is well\n[ 2.0] Kernel pa", "nic - not syncing: no ", "init\x1b found\r\n", "Kernel panic - not syncing: another\n"} {
		_, _ = w.Write([]byte(piece))
	}
	if got, want := w.Text(), `Kernel panic - not syncing: no init\x1b found`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	var flood PanicWatch
	for range 100 {
		_, _ = flood.Write(make([]byte, 1<<16))
	}
	if len(flood.line) > 1024 || flood.Text() != "" {
		t.Errorf("a line without end keeps %d bytes", len(flood.line))
	}
}
