package ui

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

// safeBuffer lets a test read what a display's goroutine writes.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestProgressPlain(t *testing.T) {
	var out safeBuffer
	p := NewProgress(&out, ProgressPlain, false, 0)
	p.Step("one\x1b")
	p.Step("one\x1b")
	p.Done("one\x1b")
	p.Step("two")
	p.Print("note")
	p.Stop()
	p.Step("three")
	p.Stop()
	if got, want := out.String(), "[  0.00s] one\\x1b\n[  0.00s] two\nnote\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestProgressSilent: none, and auto away from a terminal, show no steps; other lines still
// come through.
func TestProgressSilent(t *testing.T) {
	for _, mode := range []ProgressMode{ProgressNone, ProgressAuto} {
		var out safeBuffer
		p := NewProgress(&out, mode, false, 0)
		p.Step("one")
		p.Print("note")
		p.Stop()
		if out.String() != "note\n" {
			t.Errorf("%s: %q", mode, out.String())
		}
	}
}

// TestProgressLive: the line is rewritten in place, fits the terminal, and is gone before any
// other text and at the end.
func TestProgressLive(t *testing.T) {
	var out safeBuffer
	p := NewProgress(&out, ProgressAuto, true, 20)
	defer p.Stop()
	now := time.Now()
	p.mu.Lock()
	p.now = func() time.Time { now = now.Add(time.Second); return now }
	p.mu.Unlock()
	p.Step("a step with a long name")
	p.draw()
	p.Print("note")
	p.Bytes(50, 200)
	p.draw()
	p.Stop()
	const erase = "\r\x1b[K"
	got := out.String()
	for part := range strings.SplitSeq(got, erase) {
		line, _, _ := strings.Cut(part, "\n")
		if Width(line) > 19 {
			t.Errorf("%q is wider than the terminal", line)
		}
	}
	if !strings.Contains(got, erase+"note\n") || !strings.HasSuffix(got, erase) {
		t.Errorf("the line is not erased: %q", got)
	}
}

func TestConfirm(t *testing.T) {
	for in, want := range map[string]bool{"y\n": true, " YES \n": true, "n\n": false, "": false, "\n": false, "yep\n": false, "y": true} {
		var out strings.Builder
		got, err := Confirm(strings.NewReader(in), &out, "Delete?")
		if err != nil || got != want || out.String() != "Delete? [y/N] " {
			t.Errorf("%q: %v, %v, %q", in, got, err, out.String())
		}
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m", 47 * time.Hour: "47h", 50 * time.Hour: "2d",
	} {
		if got := Age(d); got != want {
			t.Errorf("Age(%v) = %q, want %q", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		1234 * time.Nanosecond: "1µs", 12345 * time.Microsecond: "12.3ms", 123456 * time.Microsecond: "123ms", 4567 * time.Millisecond: "4.57s", 75 * time.Second: "1m15s",
	} {
		if got := Took(d); got != want {
			t.Errorf("Took(%v) = %q, want %q", d, got, want)
		}
	}
}
