package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Result is what one step came to.
type Result struct {
	Name    string        `json:"name"`
	Elapsed time.Duration `json:"elapsed"`
	Passed  int           `json:"passed"`
	Failed  []string      `json:"failed"`
	Skips   []Skip        `json:"skips"`
	Slow    []Timed       `json:"slow"`
}

// Skip is one test that did not run, with its reason.
type Skip struct {
	Test   string `json:"test"`
	Reason string `json:"reason"`
}

// Timed is one test with its duration.
type Timed struct {
	Test    string        `json:"test"`
	Elapsed time.Duration `json:"elapsed"`
}

// save writes a result under a name that sorts after the earlier ones.
func save(dir string, r Result) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, fmt.Sprintf("%020d-*.json", time.Now().UnixNano()))
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func load(dir string) ([]Result, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	out := make([]Result, len(names))
	for i, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(data, &out[i]); err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
	}
	return out, nil
}

// printTotal writes the summary of all steps and reports whether anything failed.
func printTotal(w io.Writer, dir string) (bool, error) {
	results, err := load(dir)
	if err != nil {
		return false, err
	}
	var passed int
	var failed []string
	var skips []Skip
	var slow []Timed
	for _, r := range results {
		passed += r.Passed
		failed = append(failed, r.Failed...)
		skips = append(skips, r.Skips...)
		slow = append(slow, r.Slow...)
	}

	fmt.Fprintln(w, "\nSteps")
	for _, r := range results {
		fmt.Fprintf(w, "  %8s  %s\n", seconds(r.Elapsed), r.describe())
	}
	if slow = slowest(slow); len(slow) > 0 {
		fmt.Fprintln(w, "\nSlowest tests")
		for _, s := range slow {
			fmt.Fprintf(w, "  %8s  %s\n", seconds(s.Elapsed), s.Test)
		}
	}
	if len(skips) > 0 {
		fmt.Fprintln(w, "\nSkipped")
		printSkips(w, skips)
	}
	if len(failed) > 0 {
		fmt.Fprintln(w, "\nFailed")
		for _, f := range failed {
			fmt.Fprintf(w, "  %s\n", f)
		}
	}
	fmt.Fprintf(w, "\n%d passed, %d failed, %d skipped\n", passed, len(failed), len(skips))
	return len(failed) > 0, nil
}

// printSkips groups by reason: one missing thing often skips many tests.
func printSkips(w io.Writer, skips []Skip) {
	byReason := map[string][]string{}
	var reasons []string
	for _, s := range skips {
		if byReason[s.Reason] == nil {
			reasons = append(reasons, s.Reason)
		}
		byReason[s.Reason] = append(byReason[s.Reason], s.Test)
	}
	for _, reason := range reasons {
		fmt.Fprintf(w, "  %d × %s\n", len(byReason[reason]), reason)
		for _, test := range byReason[reason] {
			fmt.Fprintf(w, "        %s\n", test)
		}
	}
}

func (r Result) describe() string {
	if r.Passed+len(r.Failed) == 0 && len(r.Skips) > 0 {
		return r.Name + ": skipped"
	}
	s := r.Name
	if len(r.Failed) > 0 {
		s += ": FAILED"
	}
	if r.Passed > 0 || len(r.Skips) > 0 {
		s += fmt.Sprintf(" (%d passed, %d skipped)", r.Passed, len(r.Skips))
	}
	return s
}

// slowest returns the ten slowest tests of a second or more.
func slowest(all []Timed) []Timed {
	all = slices.DeleteFunc(slices.Clone(all), func(t Timed) bool { return t.Elapsed < time.Second })
	slices.SortFunc(all, func(a, b Timed) int { return int(b.Elapsed - a.Elapsed) })
	return all[:min(len(all), 10)]
}

func seconds(d time.Duration) string {
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// indent makes foreign output stand out from ours.
func indent(s string) string {
	s = strings.TrimRight(s, "\n")
	if s == "" {
		return ""
	}
	return "     " + strings.ReplaceAll(s, "\n", "\n     ") + "\n"
}
