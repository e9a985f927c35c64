package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

func reader(path string, o LogOptions, emit func(LogLine) error) *logReader {
	return &logReader{path: path, parse: parserOf(o), emit: emit}
}

func texts(lines *[]string) func(LogLine) error {
	return func(l LogLine) error { *lines = append(*lines, l.Text); return nil }
}

func TestHistoryReadsBothFilesOfARotationInOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	for name, content := range map[string]string{path + ".1": "one\ntwo\n", path: "three\nfour\nunfinished"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for tail, want := range map[int][]string{-1: {"one", "two", "three", "four"}, 2: {"three", "four"}, 3: {"two", "three", "four"}, 0: nil, 99: {"one", "two", "three", "four"}} {
		var got []string
		if err := reader(path, LogOptions{Source: LogConsole}, texts(&got)).history(tail); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("tail %d (-want +got):\n%s", tail, d)
		}
	}
}

func TestNoLogYetIsNoError(t *testing.T) {
	var got []string
	if err := reader(filepath.Join(t.TempDir(), "none"), LogOptions{}, texts(&got)).history(-1); err != nil || got != nil {
		t.Errorf("%v, %v", got, err)
	}
}

// What a guest writes cannot drive the reader's terminal, except the main program's own output.
func TestForeignTextIsEscaped(t *testing.T) {
	evil := "\x1b]0;title\x07\x1b[31mred\u202e"
	entry := func(source string) string {
		b, _ := json.Marshal(agentproto.LogEntry{Source: source, Stream: "out", Text: evil})
		return string(b)
	}
	guest := parserOf(LogOptions{Source: LogGuest})
	if l, ok := guest(entry("main")); !ok || l.Text != evil {
		t.Errorf("main: %q", l.Text)
	}
	if l, ok := guest(entry("web")); !ok || strings.ContainsAny(l.Text, "\x1b\x07") {
		t.Errorf("service: %q", l.Text)
	}
	if l, ok := parserOf(LogOptions{Source: LogConsole})(evil + "\r"); !ok || strings.ContainsAny(l.Text, "\x1b\x07\r") {
		t.Errorf("console: %q", l.Text)
	}
	if l, ok := guest("not json \x1b"); !ok || strings.Contains(l.Text, "\x1b") {
		t.Errorf("damaged line: %q", l.Text)
	}
}

func TestSinceLeavesOlderLinesOut(t *testing.T) {
	now := time.Now()
	parse := parserOf(LogOptions{Since: now})
	for age, want := range map[time.Duration]bool{time.Second: false, -time.Second: true} {
		b, _ := json.Marshal(agentproto.LogEntry{Time: now.Add(-age), Source: "agent", Text: "x"})
		if _, ok := parse(string(b)); ok != want {
			t.Errorf("a line of %s ago: %v, want %v", age, ok, want)
		}
	}
}

// Following delivers every line once, over rotations, and ends when the machine does.
func TestFollowOverRotations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	write := func(name, text string) {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = f.WriteString(text)
		_ = f.Close()
	}
	write(path, "line 0\n")
	dead := make(chan struct{})
	seen := make(chan string, 1000)
	r := reader(path, LogOptions{Source: LogConsole}, func(l LogLine) error { seen <- l.Text; return nil })
	if err := r.history(-1); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- r.follow(context.Background(), func(context.Context) error { <-dead; return nil })
	}()
	if got := <-seen; got != "line 0" {
		t.Fatalf("got %q", got)
	}
	for i := 1; i <= 30; i++ {
		if i%10 == 0 {
			if err := os.Rename(path, path+".1"); err != nil {
				t.Fatal(err)
			}
		}
		write(path, fmt.Sprintf("line %d\n", i))
		if got, want := <-seen, fmt.Sprintf("line %d", i); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	write(path, "last\n")
	close(dead)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := <-seen; got != "last" || len(seen) != 0 {
		t.Errorf("got %q and %d more", got, len(seen))
	}
}

func TestUnknownSource(t *testing.T) {
	if _, err := logFile(newTestEngine(t).Paths.Machine("m", ""), "kernel"); err == nil {
		t.Error("accepted")
	}
}
