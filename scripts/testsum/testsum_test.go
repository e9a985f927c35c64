package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type collected []string

func (c *collected) line(s string) { *c = append(*c, s) }

// feed runs events, written as "action package test output", through a report.
func feed(events ...Event) (Result, string) {
	var out collected
	rep := newReport(&out)
	for _, e := range events {
		rep.handle(e)
	}
	return rep.result("unit"), strings.Join(out, "\n")
}

func TestReportCountsLeaves(t *testing.T) {
	r, out := feed(
		Event{Action: "run", Package: "p", Test: "TestTable"},
		Event{Action: "run", Package: "p", Test: "TestTable/a"},
		Event{Action: "run", Package: "p", Test: "TestTable/b"},
		Event{Action: "output", Package: "p", Test: "TestTable/b", Output: "=== RUN   TestTable/b\n"},
		Event{Action: "output", Package: "p", Test: "TestTable/b", Output: "    x_test.go:7: got 1, want 2\n"},
		Event{Action: "pass", Package: "p", Test: "TestTable/a", Elapsed: 2},
		Event{Action: "fail", Package: "p", Test: "TestTable/b"},
		Event{Action: "fail", Package: "p", Test: "TestTable"},
		Event{Action: "run", Package: "p", Test: "TestKVM"},
		Event{Action: "output", Package: "p", Test: "TestKVM", Output: "    x_test.go:9: no usable /dev/kvm\n"},
		Event{Action: "output", Package: "p", Test: "TestKVM", Output: "--- SKIP: TestKVM (0.00s)\n"},
		Event{Action: "skip", Package: "p", Test: "TestKVM"},
		Event{Action: "fail", Package: "p", Elapsed: 3},
	)
	want := Result{
		Name: "unit", Passed: 1,
		Failed: []string{"p TestTable/b"},
		Skips:  []Skip{{"p TestKVM", "no usable /dev/kvm"}},
		Slow:   []Timed{{"p TestTable/a", 2 * time.Second}},
	}
	if d := cmp.Diff(want, r); d != "" {
		t.Error(d)
	}
	if !strings.Contains(out, "got 1, want 2") || strings.Contains(out, "=== RUN") {
		t.Errorf("the failure reads badly:\n%s", out)
	}
}

func TestReportFailures(t *testing.T) {
	cases := []struct {
		name   string
		events []Event
		failed []string
	}{
		{"parent fails in its own body", []Event{
			{Action: "run", Package: "p", Test: "T"},
			{Action: "run", Package: "p", Test: "T/a"},
			{Action: "pass", Package: "p", Test: "T/a"},
			{Action: "fail", Package: "p", Test: "T"},
			{Action: "fail", Package: "p"},
		}, []string{"p T"}},
		{"process dies in a test", []Event{
			{Action: "run", Package: "p", Test: "T"},
			{Action: "output", Package: "p", Test: "T", Output: "panic: boom\n"},
			{Action: "fail", Package: "p"},
		}, []string{"p T"}},
		{"package fails outside its tests", []Event{
			{Action: "run", Package: "p", Test: "T"},
			{Action: "pass", Package: "p", Test: "T"},
			{Action: "fail", Package: "p"},
		}, []string{"p: the package failed outside its tests"}},
		{"package does not build", []Event{
			{Action: "build-output", ImportPath: "p [p.test]", Output: "x.go:1: syntax error\n"},
			{Action: "fail", Package: "p", FailedBuild: "p [p.test]"},
		}, []string{"p: it does not build"}},
		{"go test dies", []Event{{Action: "run", Package: "p", Test: "T"}}, []string{"p: it did not end"}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			r, out := feed(tc.events...)
			if !slices.Equal(r.Failed, tc.failed) {
				t.Errorf("failed %q, want %q", r.Failed, tc.failed)
			}
			for _, e := range tc.events {
				if e.Output != "" && !strings.Contains(out, strings.TrimSpace(e.Output)) {
					t.Errorf("%q is not shown:\n%s", e.Output, out)
				}
			}
		})
	}
}

func TestFuzzThatOnlyStoppedLate(t *testing.T) {
	events := func(output ...string) []Event {
		out := []Event{{Action: "run", Package: "p", Test: "FuzzX"}}
		for _, o := range append([]string{"=== RUN   FuzzX\n", "fuzz: elapsed: 3s, execs: 9 (3/sec)\n", "--- FAIL: FuzzX (3.1s)\n"}, output...) {
			out = append(out, Event{Action: "output", Package: "p", Test: "FuzzX", Output: o})
		}
		return append(out, Event{Action: "fail", Package: "p", Test: "FuzzX"}, Event{Action: "fail", Package: "p"})
	}
	if r, _ := feed(events("    context deadline exceeded\n")...); len(r.Failed) != 0 || r.Passed != 1 {
		t.Errorf("a late stop counts as %+v", r)
	}
	found := events("    context deadline exceeded\n", "    Failing input written to testdata/fuzz/FuzzX/1\n")
	if r, out := feed(found...); len(r.Failed) != 1 || !strings.Contains(out, "Failing input") {
		t.Errorf("a finding counts as %+v:\n%s", r, out)
	}
	other := events("    context deadline exceeded\n")
	other = append(other[:len(other)-1],
		Event{Action: "run", Package: "p", Test: "TestY"}, Event{Action: "fail", Package: "p", Test: "TestY"}, Event{Action: "fail", Package: "p"})
	if r, _ := feed(other...); len(r.Failed) != 1 || r.Failed[0] != "p TestY" {
		t.Errorf("another failure beside it counts as %+v", r)
	}
}

func TestTotal(t *testing.T) {
	dir := t.TempDir()
	for _, r := range []Result{
		{Name: "unit", Passed: 3, Skips: []Skip{{"p A", "no KVM"}}},
		{Name: "lint", Skips: []Skip{{"lint", "golangci-lint is not installed"}}},
		{Name: "e2e", Passed: 2, Failed: []string{"p B"}, Skips: []Skip{{"p C", "no KVM"}}},
	} {
		if err := save(dir, r); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	failed, err := printTotal(&out, dir)
	if err != nil || !failed {
		t.Errorf("failed %v, error %v", failed, err)
	}
	got := strings.Split(strings.TrimSpace(out.String()), "\n")
	if last := got[len(got)-1]; last != "5 passed, 1 failed, 3 skipped" {
		t.Errorf("last line %q", last)
	}
	for _, want := range []string{"2 × no KVM", "p A", "p C", "1 × golangci-lint is not installed", "e2e: FAILED", "lint: skipped"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing:\n%s", want, out.String())
		}
	}
}

func TestRunningNamesTheDeepest(t *testing.T) {
	var out collected
	rep := newReport(&out)
	rep.handle(Event{Action: "run", Package: "p", Test: "T"})
	rep.handle(Event{Action: "run", Package: "p", Test: "T/slow"})
	if got := rep.running(); len(got) != 1 || !strings.Contains(got[0], "p T/slow") {
		t.Errorf("running %q", got)
	}
}

func TestTagged(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("plain_test.go", "package x\nfunc TestPlain(t *T) {}\n")
	write("not_test.go", "//go:build !points\n\npackage x\nfunc TestNot(t *T) {}\n")
	write("with_test.go", "//go:build unix && points\n\npackage x\nfunc TestWith(t *T) {}\nfunc Testing() {}\n")
	write("other_test.go", "//go:build points && plan9\n\npackage x\nfunc TestPlan9(t *T) {}\n")
	var out strings.Builder
	if err := printTagged(&out, "points", []string{dir}); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("-run\n^(TestWith)$\n./%s\n", dir); out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

// TestStepEndsItsChildren: an interrupt ends what the step started, grandchildren included.
func TestStepEndsItsChildren(t *testing.T) {
	dir := t.TempDir()
	pidFile := filepath.Join(dir, "pid")
	if err := syscall.Mkfifo(pidFile, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	pid := make(chan int, 1)
	go func() {
		data, _ := os.ReadFile(pidFile) // blocks until the grandchild exists
		var n int
		_, _ = fmt.Sscan(string(data), &n)
		pid <- n
		cancel()
	}()
	failed, err := runStep(ctx, dir, "stuck", []string{"sh", "-c", `sleep 1000 & echo $! > "$0"; wait`, pidFile})
	if err != nil || !failed {
		t.Errorf("failed %v, error %v", failed, err)
	}
	n := <-pid
	if n <= 1 {
		t.Fatalf("the grandchild's pid is %d", n)
	}
	deadline := time.Now().Add(5 * time.Second)
	for alive(n) {
		if time.Now().After(deadline) {
			t.Fatalf("grandchild %d is still alive", n)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestShorten(t *testing.T) {
	if got := shorten("a\nb\nc\nd\ne\n", 4); got != "a\nb\n… 1 lines left out …\nd\ne" {
		t.Errorf("got %q", got)
	}
	if got := shorten("a\nb\n", 4); got != "a\nb\n" {
		t.Errorf("got %q", got)
	}
}

// alive reports whether a process exists and is no zombie.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true // no /proc here: the signal got through
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z")
}

// TestEventsFromGoTest: what the go command prints today is what we read.
func TestEventsFromGoTest(t *testing.T) {
	var e Event
	if err := json.Unmarshal([]byte(`{"Time":"2026-01-01T00:00:00Z","Action":"fail","Package":"p","Test":"T","Elapsed":0.5,"FailedBuild":"p"}`), &e); err != nil {
		t.Fatal(err)
	}
	if want := (Event{Action: "fail", Package: "p", Test: "T", Elapsed: 0.5, FailedBuild: "p"}); e != want {
		t.Errorf("got %+v", e)
	}
}
