package qemu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

const (
	greeting = `{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":"x"},"capabilities":["oob"]}}` + "\r\n"
	patience = 20 * time.Second // for what takes microseconds, on a loaded machine
)

// peer plays QEMU: it sends first, then answers each command by what answer returns.
func peer(t *testing.T, first string, answer func(cmd string, id uint64) string) *net.UnixConn {
	t.Helper()
	ours, theirs, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.FileConn(theirs)
	if err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	t.Cleanup(func() { _, _ = conn.Close(), ours.Close() })
	go func() {
		defer func() { _ = conn.Close() }()
		if _, err := io.WriteString(conn, first); err != nil {
			return
		}
		sc := bufio.NewScanner(conn)
		for sc.Scan() {
			var m struct {
				Execute string `json:"execute"`
				ID      uint64 `json:"id"`
			}
			if json.Unmarshal(sc.Bytes(), &m) != nil {
				return
			}
			reply := answer(m.Execute, m.ID)
			if reply == "" {
				return
			}
			if _, err := io.WriteString(conn, reply+"\n"); err != nil {
				return
			}
		}
	}()
	return ours
}

func ok(_ string, id uint64) string { return fmt.Sprintf(`{"return":{},"id":%d}`, id) }

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestQMPAnswersAndEvents(t *testing.T) {
	events := make(chan string, 4)
	conn := peer(t, greeting, func(cmd string, id uint64) string {
		switch cmd {
		case "bad":
			return fmt.Sprintf(`{"error":{"class":"GenericError","desc":"no \u001b[31m such"},"id":%d}`, id)
		case "noisy": // an event, a stranger's answer and one without id come first
			return `{"event":"SHUTDOWN","data":{"reason":"x"},"timestamp":{}}` + "\n" +
				`{"return":{},"id":99999}` + "\n" + `{"return":{}}` + "\n" + fmt.Sprintf(`{"return":{"n":7},"id":%d}`, id)
		}
		return ok(cmd, id)
	})
	q, err := openQMP(within(t, patience), conn, func(name string, data json.RawMessage) { events <- name + string(data) })
	if err != nil {
		t.Fatal(err)
	}
	got, err := q.execute(within(t, patience), "noisy", nil)
	if err != nil || string(got) != `{"n":7}` {
		t.Errorf("noisy: %s, %v", got, err)
	}
	if e := <-events; e != `SHUTDOWN{"reason":"x"}` {
		t.Errorf("event %q", e)
	}
	_, err = q.execute(within(t, patience), "bad", nil)
	var refused *qmpError
	if !errors.As(err, &refused) || strings.ContainsRune(err.Error(), 0x1b) {
		t.Errorf("bad: %v", err)
	}
}

// What a broken or taken-over QEMU may say (threats.md A241): bounded, and a vmm.qmp error.
func TestQMPHostile(t *testing.T) {
	tests := []struct{ name, says string }{
		{"no greeting", `{"return":{}}` + "\n"},
		{"not JSON", greeting + "hello\n"},
		{"an array", greeting + "[]\n"},
		{"a line without end", greeting + strings.Repeat("x", maxMessage+1)},
		{"deep nesting", greeting + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + "\n"},
		{"an event flood", greeting + strings.Repeat(`{"event":"X"}`+"\n", 10*maxEventRate)},
		{"an id that is no number", greeting + `{"return":{},"id":"1"}` + "\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			conn := peer(t, tt.says, ok)
			q, err := openQMP(within(t, patience), conn, func(string, json.RawMessage) {})
			if err == nil {
				<-q.done
				err = q.broken()
			}
			if machine.CodeOf(err) != "vmm.qmp" {
				t.Errorf("got %v, want a vmm.qmp error", err)
			}
		})
	}
}

func TestQMPDeadlines(t *testing.T) {
	t.Run("no greeting", func(t *testing.T) {
		conn := peer(t, "", ok)
		if _, err := openQMP(within(t, 20*time.Millisecond), conn, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want a deadline", err)
		}
	})
	t.Run("no answer", func(t *testing.T) {
		conn := peer(t, greeting, func(cmd string, id uint64) string {
			if cmd == "stuck" {
				return " "
			}
			return ok(cmd, id)
		})
		q, err := openQMP(within(t, patience), conn, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := q.execute(within(t, 20*time.Millisecond), "stuck", nil); !errors.Is(err, context.DeadlineExceeded) && machine.CodeOf(err) != "vmm.qmp" {
			t.Errorf("got %v, want a deadline", err)
		}
	})
	t.Run("gone", func(t *testing.T) {
		conn := peer(t, greeting, func(cmd string, id uint64) string {
			if cmd == "quit" {
				return ""
			}
			return ok(cmd, id)
		})
		q, err := openQMP(within(t, patience), conn, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := q.execute(within(t, patience), "quit", nil); !errors.Is(err, errQMPClosed) {
			t.Errorf("got %v, want errQMPClosed", err)
		}
		if err := q.broken(); err != nil {
			t.Errorf("an end is not a broken protocol: %v", err)
		}
	})
}

func FuzzParseMessage(f *testing.F) {
	for _, s := range []string{
		greeting, `{"return":{},"id":1}`, `{"error":{"class":"a","desc":"b"},"id":2}`,
		`{"event":"VSERPORT_CHANGE","data":{"open":true,"id":"agentport"},"timestamp":{"seconds":1,"microseconds":2}}`,
		strings.Repeat("[", 100), `{"id":"\"]}`, `"\`, "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := parseMessage(line)
		if err == nil && m.Error != nil && strings.ContainsAny(m.Error.Error(), "\x00\x1b\n") {
			t.Errorf("an error text with control characters: %q", m.Error.Error())
		}
		// As the reader sees it, whatever the framing.
		r := bufio.NewReaderSize(bytes.NewReader(line), 16)
		for {
			if _, err := readLine(r); err != nil {
				break
			}
		}
		v := newVM(discardOutput(), nil)
		v.event(m.Event, m.Data)
	})
}
