package agent

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// texts returns the log's entries as "text", with "…" for a line that goes on.
func texts(l *Log) []string {
	out := []string{}
	for after := uint64(0); ; {
		entries, _ := l.since(after, 100)
		if len(entries) == 0 {
			return out
		}
		for _, e := range entries {
			s := e.Text
			if e.Partial {
				s += "…"
			}
			if e.End {
				s += "END"
			}
			out = append(out, s)
			after = e.Seq
		}
	}
}

func TestLogWriterSplitsLines(t *testing.T) {
	long := strings.Repeat("é", agentproto.MaxLogLine/2-1) + "xé" // the limit falls into the last rune
	for _, tt := range []struct {
		name   string
		writes []string
		want   []string
	}{
		{"lines", []string{"a\nb\n"}, []string{"a", "b"}},
		{"empty lines", []string{"\n\na\n"}, []string{"", "", "a"}},
		{"in pieces", []string{"a", "b", "c\nd", "\n"}, []string{"abc", "d"}},
		{"an unfinished last line", []string{"a\nb"}, []string{"a", "b"}},
		{"a terminal's line ends", []string{"a\r\nb\r", "\n"}, []string{"a", "b"}},
		{"invalid UTF-8", []string{"a\xff\xfeb\n"}, []string{"a\uFFFDb"}},
		{"control characters stay", []string{"\x1b[31mred\x00\n"}, []string{"\x1b[31mred\x00"}},
		{"exactly the limit", []string{strings.Repeat("x", agentproto.MaxLogLine) + "\n"}, []string{strings.Repeat("x", agentproto.MaxLogLine)}},
		{"over the limit", []string{strings.Repeat("x", agentproto.MaxLogLine) + "yz\n"}, []string{strings.Repeat("x", agentproto.MaxLogLine) + "…", "yz"}},
		{"a rune at the limit", []string{long + "\n"}, []string{long[:len(long)-2] + "…", "é"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := NewLog()
			w := l.Writer("main", "out")
			for _, s := range tt.writes {
				if n, err := io.WriteString(w, s); n != len(s) || err != nil {
					t.Errorf("Write: %d, %v", n, err)
				}
			}
			w.(io.Closer).Close()
			if d := cmp.Diff(tt.want, texts(l)); d != "" {
				t.Error(d)
			}
		})
	}
}

// However bytes are cut into writes, the lines are the same, bounded and valid.
func FuzzLogWriter(f *testing.F) {
	f.Add([]byte("a\nb\r\n\xffé"), uint16(1))
	f.Add(bytes.Repeat([]byte("é\xc3"), 10000), uint16(4095))
	f.Fuzz(func(t *testing.T, data []byte, chunk uint16) {
		l := NewLog()
		w := l.Writer("main", "out")
		for rest := data; len(rest) > 0; {
			n := min(len(rest), int(chunk)+1)
			w.Write(rest[:n])
			rest = rest[n:]
		}
		w.(io.Closer).Close()
		entries, _ := l.since(0, 1<<20)
		var got strings.Builder
		for _, e := range entries {
			if len(e.Text) > agentproto.MaxLogLine || !utf8.ValidString(e.Text) || strings.Contains(e.Text, "\n") {
				t.Fatalf("entry of %d bytes", len(e.Text))
			}
			got.WriteString(e.Text)
			if !e.Partial {
				got.WriteByte('\n')
			}
		}
		if len(entries) > 0 && entries[0].Seq == 1 && utf8.Valid(data) {
			want := strings.ReplaceAll(string(data), "\r\n", "\n")
			if want = strings.TrimSuffix(want, "\n") + "\n"; strings.TrimSuffix(got.String(), "\n") != strings.TrimSuffix(want, "\n") && !strings.HasSuffix(string(data), "\n\n") {
				t.Fatalf("%q, want %q", got.String(), want)
			}
		}
	})
}

func TestLogShowsAnUnfinishedLineInTime(t *testing.T) {
	l := NewLog()
	w := l.Writer("main", "out")
	defer w.(io.Closer).Close()
	io.WriteString(w, "password: ")
	_, changed := l.since(0, 10)
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Fatal("a prompt stays unseen")
	}
	io.WriteString(w, "x\n")
	if d := cmp.Diff([]string{"password: …", "x"}, texts(l)); d != "" {
		t.Error(d)
	}
}

func TestLogKeepsTheNewestAndCountsTheRest(t *testing.T) {
	l := NewLog()
	const n = 40_000
	for i := range n {
		l.Add("main", "out", fmt.Sprintf("line %d %s", i, strings.Repeat("x", 50)))
	}
	entries, _ := l.since(0, n)
	size := 0
	for _, e := range entries {
		size += len(e.Text) + logOverhead
	}
	if size > logBudget || size < logBudget-2*(logOverhead+100) {
		t.Errorf("%d entries of %d bytes are kept", len(entries), size)
	}
	if last := entries[len(entries)-1]; last.Seq != n || !strings.HasPrefix(last.Text, fmt.Sprint("line ", n-1)) {
		t.Errorf("the last is %d %q", last.Seq, last.Text)
	}
	if first := entries[0]; first.Dropped != first.Seq-1 || first.Dropped != uint64(n-len(entries)) {
		t.Errorf("the first is %d and says %d were dropped", first.Seq, first.Dropped)
	}
	// A reader that keeps up loses nothing.
	l.Add("main", "out", "more")
	if more, _ := l.since(n, 10); len(more) != 1 || more[0].Dropped != 0 {
		t.Errorf("%+v", more)
	}
	// One that is ahead, from before an agent restart, gets nothing and does no harm.
	if none, _ := l.since(1<<63, 10); len(none) != 0 {
		t.Errorf("%+v", none)
	}
}

func TestLogEndIsTheLast(t *testing.T) {
	l := NewLog()
	l.Add("main", "out", "a")
	l.End()
	l.Add("main", "out", "too late")
	l.End()
	if d := cmp.Diff([]string{"a", "END"}, texts(l)); d != "" {
		t.Error(d)
	}
}

func TestEventsKeepTheNewest(t *testing.T) {
	ev := NewEvents()
	for i := range 3000 {
		ev.Add(agentproto.Event{Type: "service", Name: fmt.Sprint(i), Message: strings.Repeat("é", 5000)})
	}
	got, lost, _ := ev.ring.since(0, 5000)
	if len(got) != maxEvents || lost != 3000-maxEvents || got[len(got)-1].Name != "2999" || got[0].Seq != lost+1 {
		t.Errorf("%d events, %d lost", len(got), lost)
	}
	if m := got[0].Message; len(m) > maxEventMessage || !utf8.ValidString(m) {
		t.Errorf("message of %d bytes", len(m))
	}
}

// Many writers and readers at once: each reader sees each number once, in order.
func TestRingUnderLoad(t *testing.T) {
	l := NewLog()
	var writers, readers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range 2000 {
				l.Add("main", "out", fmt.Sprint(w, i))
			}
		})
	}
	for range 3 {
		readers.Go(func() {
			after, seen := uint64(0), uint64(0)
			for {
				entries, changed := l.since(after, 7)
				for _, e := range entries {
					if e.Seq != after+1+e.Dropped {
						t.Errorf("%d after %d with %d dropped", e.Seq, after, e.Dropped)
						return
					}
					after = e.Seq
					seen += 1 + e.Dropped
					if e.End {
						if seen != 8001 {
							t.Errorf("%d entries in all", seen)
						}
						return
					}
				}
				if len(entries) == 0 {
					<-changed
				}
			}
		})
	}
	writers.Wait()
	l.End()
	readers.Wait()
}
