package linuxenv

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// sessionWith opens a session with a side in this process, and returns what ends it.
func sessionWith(t *testing.T, side Side) (s *Session, end func()) {
	t.Helper()
	theirIn, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { over <- side.Serve(context.Background(), theirIn, theirOut) }()
	s = &Session{words: &tail{}, ended: make(chan struct{}), in: in, out: out}
	r := bufio.NewReader(out)
	if s.Greeting, err = awaitGreeting(r); err != nil {
		t.Fatal(err)
	}
	if err := s.speak(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		_ = s.cc.Close()
		_ = s.hangUp()
		select {
		case err := <-over:
			if err != nil {
				t.Errorf("the other side: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("the other side does not end with its caller")
		}
	})
	t.Cleanup(end)
	return s, end
}

// answers is a side that answers requests to run something with these bytes.
func answers(data []byte) Side {
	return Side{Build: "test", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(data)
	})}
}

// frames makes bytes of pairs of a kind and a text.
func frames(t testing.TB, pairs ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	for i := 0; i < len(pairs); i += 2 {
		if err := WriteFrame(&b, pairs[i][0], []byte(pairs[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// TestRunAnswers: of what the virtual machine says about a program, only what makes sense is believed.
func TestRunAnswers(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		answer []byte
		code   int
		err    string // machine's code, or "" for none
		out    string
	}{
		"both streams":     {frames(t, "o", "out", "e", "err", "o", "put", "x", `{"code":7}`), 7, "", "output"},
		"after the end":    {frames(t, "x", `{"code":0}`, "o", "more"), 0, "", ""},
		"no end":           {frames(t, "o", "out"), 0, "lima.lost", "out"},
		"cut off":          {frames(t, "o", "out", "x", `{"code":7}`)[:12], 0, "lima.lost", "out"},
		"an unknown frame": {frames(t, "q", "out", "x", `{"code":0}`), 0, "lima.lost", ""},
		"a strange code":   {frames(t, "x", `{"code":4711}`), 0, "lima.lost", ""},
		"no JSON":          {frames(t, "x", `code 7`), 0, "lima.lost", ""},
		"an HTTP page":     {[]byte("<html>"), 0, "lima.lost", ""},
		"nothing":          {nil, 0, "lima.lost", ""},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s, _ := sessionWith(t, answers(c.answer))
			req := Program{Args: []string{"prog"}}
			var out bytes.Buffer
			req.Stdout = &out
			code, err := s.runAt(t.Context(), "/answer", req)
			if code != c.code || machine.CodeOf(err) != c.err || out.String() != c.out {
				t.Errorf("exit %d, %v, output %q", code, err, out.String())
			}
		})
	}
}

// TestTempDir: a session's folders go with it, those of one that was killed with the next that makes
// some, and those of others that live are left alone.
func TestTempDir(t *testing.T) {
	t.Parallel()
	top := filepath.Join(t.TempDir(), "tmp")
	side := Side{Build: "test", Temp: top, Handler: http.NotFoundHandler()}
	there := func(dir string) bool {
		_, err := os.Stat(dir)
		return err == nil
	}
	alive, _ := sessionWith(t, side)
	first, err := alive.TempDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	killed := filepath.Join(top, "s-killed", "d-1")
	if err := os.MkdirAll(killed, 0o700); err != nil {
		t.Fatal(err)
	}
	s, end := sessionWith(t, side)
	if !there(killed) {
		t.Fatal("it went before anybody asked for a folder")
	}
	second, err := s.TempDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	third, done, err := Env{Session: s}.TempDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if there(killed) || !there(first) || !there(second) || !there(third) || second == third {
		t.Errorf("of a dead session: %v; of living ones: %v %v %v", there(killed), there(first), there(second), there(third))
	}
	if done(); there(third) {
		t.Errorf("%s is there when it is not needed any more", third)
	}
	if end(); there(second) || !there(first) {
		t.Errorf("of an ended session: %v; of another: %v", there(second), there(first))
	}
	none, _ := sessionWith(t, Side{Build: "test", Handler: http.NotFoundHandler()})
	if dir, err := none.TempDir(t.Context()); machine.CodeOf(err) != "lima.session" {
		t.Errorf("%q, %v", dir, err)
	}
}

// TestTail keeps the end of what is said, and its last line for people.
func TestTail(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                                       "",
		"one\ntwo\n\n":                           "two",
		"a\x1b[2Jb":                              "a·[2Jb",
		strings.Repeat("x", 9000) + "\nlast":     "last",
		"first\n" + strings.Repeat("x", 9000):    strings.Repeat("x", 400) + "…",
		strings.Repeat("line\n", 2000) + "end\n": "end",
	} {
		tl := &tail{}
		if _, err := io.Copy(tl, strings.NewReader(in)); err != nil {
			t.Fatal(err)
		}
		if got := tl.last(); got != want || len(tl.buf) > maxTail {
			t.Errorf("%.20q: %q of %d bytes", in, got, len(tl.buf))
		}
	}
}

// FuzzRunAnswer: whatever the virtual machine answers, it is a code from 0 to 255 or an error.
func FuzzRunAnswer(f *testing.F) {
	f.Add(frames(f, "o", "out", "x", `{"code":7}`))
	f.Add(frames(f, "x", `{"error":"x"}`))
	f.Add([]byte("x\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &Session{words: &tail{}, ended: make(chan struct{})}
		var out, errOut bytes.Buffer
		code, err := s.follow(t.Context(), Program{Args: []string{"prog"}, Stdout: &out, Stderr: &errOut}, bytes.NewReader(data))
		if code < 0 || code > 255 || err != nil && code != 0 {
			t.Errorf("exit %d, %v", code, err)
		}
		if out.Len()+errOut.Len() > len(data) {
			t.Errorf("%d bytes of output from %d", out.Len()+errOut.Len(), len(data))
		}
		if err != nil && machine.CodeOf(err) == "" && errors.Is(err, io.EOF) {
			t.Errorf("a stream that was cut: %v", err)
		}
	})
}
