package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Event is one line of `go test -json` (go doc cmd/test2json).
type Event struct {
	Action      string
	Package     string
	ImportPath  string // of build events
	Test        string
	Elapsed     float64 // seconds
	Output      string
	FailedBuild string
}

// readEvents sends each event; a line that is not JSON (the go command sometimes prints one
// to stdout) becomes an output event without a package.
func readEvents(r io.Reader, to chan<- Event) error {
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			var e Event
			if json.Unmarshal(line, &e) != nil {
				e = Event{Action: "output", Output: string(line)}
			}
			to <- e
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// test is one test or subtest as far as it is known.
type test struct {
	output   []string
	status   string // "", "pass", "fail", "skip"
	elapsed  float64
	children []string
	started  time.Time
}

// stoppedLate reports whether a fuzz target "failed" only because the go command lost a race at
// the end of -fuzztime, having found nothing: https://go.dev/issue/75804, in Go before 1.27.
func (t *test) stoppedLate() bool {
	late := false
	for _, s := range t.output {
		s = strings.TrimSpace(s)
		switch {
		case s == "context deadline exceeded":
			late = true
		case s != "" && !strings.HasPrefix(s, "fuzz: ") && !strings.HasPrefix(s, "--- FAIL: Fuzz") && !strings.HasPrefix(s, "=== "):
			return false // it says something else as well
		}
	}
	return late
}

// pkg is one package's run.
type pkg struct {
	tests  map[string]*test
	order  []string
	output []string // of no particular test
	late   bool     // a fuzz target only stopped late
}

// lines is where a report writes; tests replace it.
type lines interface{ line(string) }

type printer struct{}

func (printer) line(s string) { fmt.Println(s) }

// report collects events and says one line per package.
type report struct {
	out    lines
	pkgs   map[string]*pkg
	builds map[string][]string // output of failed builds by import path
	stray  []string
	late   bool // go test's exit code is not to be believed, see stoppedLate
	res    Result
}

func newReport(out lines) *report {
	return &report{out: out, pkgs: map[string]*pkg{}, builds: map[string][]string{}}
}

// follow handles events until the channel closes, and says what is still running when
// nothing was said for a while.
func (r *report) follow(events <-chan Event, quiet time.Duration) {
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return
			}
			if r.handle(e) {
				timer.Reset(quiet)
			}
		case <-timer.C:
			for _, s := range r.running() {
				r.out.line("...  " + s)
			}
			timer.Reset(quiet)
		}
	}
}

// running names the tests that have begun and not ended, longest first, deepest only.
func (r *report) running() []string {
	var out []string
	for name, p := range r.pkgs {
		for _, tn := range p.order {
			t := p.tests[tn]
			if t.status == "" && !slices.ContainsFunc(t.children, func(c string) bool { return p.tests[c].status == "" }) {
				out = append(out, fmt.Sprintf("still running: %s %s (%s)", name, tn, seconds(time.Since(t.started))))
			}
		}
	}
	slices.Sort(out)
	return out
}

// handle takes one event in and reports whether it ended a package.
func (r *report) handle(e Event) bool {
	switch e.Action {
	case "build-output":
		r.builds[e.ImportPath] = append(r.builds[e.ImportPath], e.Output)
		return false
	case "build-fail":
		return false
	}
	if e.Package == "" {
		r.stray = append(r.stray, e.Output)
		return false
	}
	p := r.pkgs[e.Package]
	if p == nil {
		p = &pkg{tests: map[string]*test{}}
		r.pkgs[e.Package] = p
	}
	if e.Test == "" {
		return r.packageEvent(p, e)
	}
	t := p.tests[e.Test]
	if t == nil {
		t = &test{started: time.Now()}
		p.tests[e.Test] = t
		p.order = append(p.order, e.Test)
		if i := strings.LastIndexByte(e.Test, '/'); i > 0 && p.tests[e.Test[:i]] != nil {
			parent := p.tests[e.Test[:i]]
			parent.children = append(parent.children, e.Test)
		}
	}
	switch e.Action {
	case "output":
		t.output = append(t.output, e.Output)
	case "pass", "fail", "skip":
		t.status, t.elapsed = e.Action, e.Elapsed
		if e.Action == "fail" && t.stoppedLate() {
			t.status, p.late, r.late = "pass", true, true
		}
	}
	return false
}

func (r *report) packageEvent(p *pkg, e Event) bool {
	switch e.Action {
	case "output":
		p.output = append(p.output, e.Output)
		return false
	case "pass", "fail", "skip":
	default:
		return false
	}
	if p.late {
		e.Action = "pass" // unless another test failed, which count sees
	}
	passed, failed, skipped := r.count(p, e)
	if failed > 0 {
		e.Action = "fail"
	}
	switch {
	case e.Action == "fail":
		r.out.line(fmt.Sprintf("FAIL %s (%.1f s): %d passed, %d failed, %d skipped", e.Package, e.Elapsed, passed, failed, skipped))
		r.explain(p, e)
	case passed+skipped > 0:
		cached := ""
		if strings.Contains(strings.Join(p.output, ""), "(cached)") {
			cached = ", cached"
		}
		text := fmt.Sprintf("ok   %s (%.1f s%s): %d passed", e.Package, e.Elapsed, cached, passed)
		if skipped > 0 {
			text += fmt.Sprintf(", %d skipped", skipped)
		}
		r.out.line(text)
	}
	delete(r.pkgs, e.Package)
	return true
}

// count adds a package's tests to the result. Leaves are counted; a test with subtests counts
// by itself only if it failed or skipped in its own body.
func (r *report) count(p *pkg, e Event) (passed, failed, skipped int) {
	for _, name := range p.order {
		t := p.tests[name]
		full := e.Package + " " + name
		if t.status == "" && e.Action == "fail" {
			t.status = "fail" // the process died in it
		}
		has := func(status string) bool {
			return slices.ContainsFunc(t.children, func(c string) bool { return p.tests[c].status == status })
		}
		switch {
		case t.status == "fail" && !has("fail") && !has(""):
			failed++
			r.res.Failed = append(r.res.Failed, full)
		case t.status == "skip":
			skipped++
			r.res.Skips = append(r.res.Skips, Skip{full, skipReason(t.output)})
		case t.status == "pass" && len(t.children) == 0:
			passed++
			r.res.Slow = append(r.res.Slow, Timed{full, time.Duration(t.elapsed * float64(time.Second))})
		}
	}
	r.res.Slow = slowest(r.res.Slow)
	r.res.Passed += passed
	if e.Action == "fail" && failed == 0 {
		failed++
		why := "the package failed outside its tests"
		if e.FailedBuild != "" {
			why = "it does not build"
		}
		r.res.Failed = append(r.res.Failed, e.Package+": "+why)
	}
	return passed, failed, skipped
}

// explain prints the output of what failed in a package.
func (r *report) explain(p *pkg, e Event) {
	if e.FailedBuild != "" {
		r.out.line(indent(strings.Join(r.builds[e.FailedBuild], "")))
	}
	for _, name := range p.order {
		if t := p.tests[name]; t.status == "fail" {
			r.out.line(indent(strings.Join(slices.DeleteFunc(t.output, isNoise), "")))
		}
	}
	r.out.line(indent(strings.Join(slices.DeleteFunc(p.output, isNoise), "")))
}

// isNoise reports lines of the test runner that a reader of a failure does not need.
func isNoise(s string) bool {
	for _, prefix := range []string{"=== RUN", "=== PAUSE", "=== CONT", "=== NAME", "PASS\n", "FAIL\t", "FAIL\n", "ok  \t"} {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}

// skipReason is what a skipped test said, without file and line.
func skipReason(output []string) string {
	where := regexp.MustCompile(`^\S+\.go:\d+: `)
	var said []string
	for _, s := range output {
		s = strings.TrimSpace(s)
		if s == "" || strings.HasPrefix(s, "=== ") || strings.HasPrefix(s, "--- ") {
			continue
		}
		said = append(said, where.ReplaceAllString(s, ""))
	}
	if len(said) == 0 {
		return "no reason given"
	}
	return said[len(said)-1]
}

// result returns the figures once all events are in.
func (r *report) result(name string) Result {
	for pkgName := range r.pkgs { // begun and never ended: go test itself died
		r.res.Failed = append(r.res.Failed, pkgName+": it did not end")
	}
	if len(r.res.Failed) > 0 && len(r.stray) > 0 {
		r.out.line(indent(strings.Join(r.stray, "")))
	}
	r.res.Name = name
	return r.res
}
