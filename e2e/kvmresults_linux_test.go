package e2e

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

// progress logs the outcomes of tests in the host when they are there: they take long.
type progress struct{ t *testing.T }

func (p progress) Write(data []byte) (int, error) {
	for line := range strings.Lines(string(data)) {
		if _, own, marked := strings.Cut(line, "\x16"); marked && strings.Contains(own, "--- ") {
			p.t.Log(strings.TrimSpace(own))
		}
	}
	return len(data), nil
}

// conform runs a conformance suite in the host; its tests become subtests of t, with their skips.
func (l *kvmLab) conform(t *testing.T, program string, env ...string) {
	t.Helper()
	run := kvmQuick
	if kvmAll() {
		run = "^TestConformance$"
	}
	if tests := kvmFilter(); tests != "" {
		run = "^TestConformance$/" + tests
	}
	begin := time.Now()
	r := l.run(t, 0, env, kvmBin+"/"+program, "-test.run="+run, "-test.v=test2json", "-test.timeout="+(kvmTime()-time.Minute).String())
	t.Logf("%s in the KVM host: %v", program, time.Since(begin).Round(time.Second))
	l.subtests(t, r, "TestConformance")
}

// subtests makes subtests of t of those of a test that ran in the host.
func (l *kvmLab) subtests(t *testing.T, r result, test string) {
	t.Helper()
	results := innerTests(r.stdout)
	if len(results) == 0 {
		t.Fatalf("it ran no test: %v", r)
	}
	for _, in := range results {
		name, sub := strings.CutPrefix(in.name, test+"/")
		if !sub {
			t.Log(in.said)
			if in.outcome == "SKIP" {
				t.Skipf("in the KVM host: %s", in.said)
			}
			continue
		}
		t.Run(name, func(t *testing.T) {
			switch in.outcome {
			case "PASS":
				t.Logf("%s %s", in.took, in.said)
			case "SKIP":
				t.Skip(in.said)
			default:
				t.Errorf("%s in the KVM host (no outcome: it did not end): %s", in.outcome, in.said)
			}
		})
	}
	if !t.Failed() && r.code != 0 {
		t.Errorf("it ended with %d: %s", r.code, lastLines([]byte(r.stdout+r.stderr), 20))
	}
}

// innerTest is one test that ran in the host.
type innerTest struct {
	name    string
	outcome string // PASS, FAIL, SKIP; "": it did not end
	took    string
	said    string
}

// innerTests reads the output of a test binary with -test.v=test2json, whose own lines begin with
// a control character that nothing else prints.
func innerTests(output string) []*innerTest {
	var all []*innerTest
	byName := map[string]*innerTest{}
	current := &innerTest{}
	get := func(name string) *innerTest {
		if byName[name] == nil {
			byName[name] = &innerTest{name: name}
			all = append(all, byName[name])
		}
		return byName[name]
	}
	for line := range strings.Lines(output) {
		before, own, marked := strings.Cut(line, "\x16")
		if !marked {
			current.said += line
			continue
		}
		current.said += before
		words := strings.TrimSpace(own)
		switch verb, rest, _ := strings.Cut(strings.TrimPrefix(words, "=== "), " "); {
		case strings.HasPrefix(words, "=== ") && (verb == "RUN" || verb == "NAME" || verb == "CONT"):
			if name := strings.TrimSpace(rest); name != "" {
				current = get(name)
			}
		case strings.HasPrefix(words, "--- "):
			outcome, rest, _ := strings.Cut(strings.TrimPrefix(words, "--- "), ": ")
			name, took, _ := strings.Cut(rest, " (")
			t := get(name)
			t.outcome, t.took = outcome, strings.TrimSuffix(took, ")")
		}
	}
	at := regexp.MustCompile(`^\w+\.go:\d+: `)
	for _, t := range all {
		t.said = strings.TrimSpace(t.said)
		if t.outcome == "SKIP" {
			t.said = at.ReplaceAllString(t.said, "") // a reason as it would stand in a run here
		}
	}
	return all
}

// TestInnerTests: what a test binary says, also in the middle of a line and without an end.
func TestInnerTests(t *testing.T) {
	const m = "\x16"
	got := innerTests(m + "=== RUN   T\n    a.go:1: facts\n" + m + "=== RUN   T/one\nno line" + m + "    --- PASS: T/one (0.50s)\n" +
		m + "=== RUN   T/two\n    a.go:2: missing: x\n" + m + "    --- SKIP: T/two (0.00s)\n" + m + "=== RUN   T/three\n--- PASS: T/three (not its own word)\npanic: x\n")
	want := []innerTest{
		{name: "T", said: "a.go:1: facts"},
		{name: "T/one", outcome: "PASS", took: "0.50s", said: "no line"},
		{name: "T/two", outcome: "SKIP", took: "0.00s", said: "missing: x"},
		{name: "T/three", said: "--- PASS: T/three (not its own word)\npanic: x"},
	}
	if len(got) != len(want) {
		t.Fatalf("%d tests, want %d", len(got), len(want))
	}
	for i, w := range want {
		if *got[i] != w {
			t.Errorf("got %+v, want %+v", *got[i], w)
		}
	}
}
