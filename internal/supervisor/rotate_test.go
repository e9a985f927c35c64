package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// A guest that floods its console fills neither the disk nor our memory, and the newest lines
// are the ones that stay.
func TestAFloodedLogStaysBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	const limit = 64 << 10
	r, err := openRotating(path, limit)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 999) + "\n"
	for i := range 1000 {
		if _, err := fmt.Fprintf(r, "%06d%s", i, line); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, p := range []string{path, path + ".1"} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", p, info.Mode())
		}
		total += info.Size()
	}
	if total > 2*limit {
		t.Errorf("%d bytes on disk, limit twice %d", total, limit)
	}
	if data, _ := os.ReadFile(path); !bytes.Contains(data, []byte("000999x")) {
		t.Error("the newest line is not in the newest file")
	}
	if _, err := r.Write([]byte("late")); err != nil {
		t.Errorf("writing after Close: %v", err)
	}
}

func TestALogGoesOnAcrossOpenings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vmm.log")
	for range 2 {
		r, err := openRotating(path, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = r.Write([]byte("start\n"))
		_ = r.Close()
	}
	if data, _ := os.ReadFile(path); string(data) != "start\nstart\n" {
		t.Errorf("%q", data)
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	tl := &tail{max: 10}
	var wg sync.WaitGroup
	for _, s := range []string{"abc", "defghijk", "", "lmnopqrstuvwxyz0123456789", "!"} {
		_, _ = tl.Write([]byte(s))
	}
	if got := string(tl.bytes()); got != "123456789!" {
		t.Errorf("%q", got)
	}
	for range 4 { // the race detector looks on
		wg.Go(func() {
			for range 100 {
				_, _ = tl.Write([]byte("zz"))
				_ = tl.bytes()
			}
		})
	}
	wg.Wait()
}

func TestTheEndOfAConsoleIsSafeToShow(t *testing.T) {
	in := "one\r\n\n\x1b[2Jtwo\x07\n  \n" + "three \xff\u202e\n" + "four"
	want := "one\n·[2Jtwo·\nthree \uFFFD·\nfour"
	if got := lastLines([]byte(in), 10); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := lastLines([]byte(in), 2); got != "three \uFFFD·\nfour" {
		t.Errorf("two lines: %q", got)
	}
	if got := lastLines(nil, 2); got != "" {
		t.Errorf("nothing: %q", got)
	}
}
