package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/internal/driver/drivertest"
)

// suiteRun is one run of the suite: one column of the table.
type suiteRun struct {
	key    string // package and test that ran it
	facts  drivertest.Facts
	known  bool              // facts were seen
	result map[string]string // "pass", "fail", "skip", by the suite's name of the test
	reason map[string]string // of a skip
	whole  string            // why nothing of it ran
}

// event is what we need of a line of `go test -json` (go doc test2json).
type event struct {
	Action, Package, Test, Output string
}

// nameInOutput is how go test writes a name with spaces.
func nameInOutput(name string) string { return strings.ReplaceAll(name, " ", "_") }

// reasonLine is how a skip says why: "    file.go:12: reason".
var reasonLine = regexp.MustCompile(`^\s+\w+\.go:\d+: (.*)$`)

// read finds the runs of the suite in the events of go test. A test is one of the suite by its
// name, whatever ran it.
func read(r io.Reader) ([]*suiteRun, error) {
	names := map[string]string{}
	for _, n := range drivertest.Names() {
		names[nameInOutput(n)] = n
	}
	byKey := map[string]*suiteRun{}
	of := func(pkg, test string) *suiteRun {
		key := pkg + " " + test
		if byKey[key] == nil {
			byKey[key] = &suiteRun{key: key, result: map[string]string{}, reason: map[string]string{}}
		}
		return byKey[key]
	}
	said := map[string]string{} // the last words of a test
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Test == "" {
			continue // what the go command says itself
		}
		parent, last := e.Test, ""
		if i := strings.LastIndex(e.Test, "/"); i >= 0 {
			parent, last = e.Test[:i], e.Test[i+1:]
		}
		name, ours := names[last]
		switch {
		case e.Action == "output":
			if m := reasonLine.FindStringSubmatch(strings.TrimRight(e.Output, "\n")); m != nil {
				said[e.Package+" "+e.Test] = m[1]
			}
			if f, ok := drivertest.FactsIn(e.Output); ok {
				run := of(e.Package, e.Test)
				run.facts, run.known = f, true
			}
		case ours && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip"):
			run := of(e.Package, parent)
			run.result[name], run.reason[name] = e.Action, said[e.Package+" "+e.Test]
		case e.Action == "skip" && strings.Contains(e.Test, "Conformance"):
			of(e.Package, e.Test).whole = said[e.Package+" "+e.Test]
		}
	}
	var out []*suiteRun
	for _, run := range byKey {
		if run.known && len(run.result) > 0 || run.whole != "" {
			out = append(out, run)
		}
	}
	slices.SortFunc(out, func(a, b *suiteRun) int { return strings.Compare(a.title()+a.key, b.title()+b.key) })
	return out, lines.Err()
}

func (r *suiteRun) failed() bool {
	for _, result := range r.result {
		if result == "fail" {
			return true
		}
	}
	return false
}

// title names the column: the driver, how it ran, and whether the VMM was a double.
func (r *suiteRun) title() string {
	_, test, _ := strings.Cut(r.key, " ")
	if !r.known {
		pkg, _, _ := strings.Cut(r.key, " ")
		return pkg[strings.LastIndex(pkg, "/")+1:] + ", " + test
	}
	c := r.facts.Capabilities
	title := r.facts.Driver
	if c.Accelerator != "" {
		title += ", " + c.Accelerator
	}
	if c.Accelerator == "kvm" || c.Isolation == "vm+jail" {
		title += ", " + string(c.Isolation)
	}
	if strings.Contains(test, "Double") {
		title += ", double"
	}
	return title
}

// render draws two tables: what the backends are, and what the suite said of each.
func render(runs []*suiteRun) string {
	var ran, not []*suiteRun
	for _, r := range runs {
		if len(r.result) > 0 {
			ran = append(ran, r)
		} else {
			not = append(not, r)
		}
	}
	var b strings.Builder
	b.WriteString("| | version | isolation | channel | lacks |\n| --- | --- | --- | --- | --- |\n")
	for _, r := range ran {
		c := r.facts.Capabilities
		var lacks []string
		for _, f := range c.Lacks {
			lacks = append(lacks, string(f))
		}
		fmt.Fprintf(&b, "| %s | %s | `%s` | %s | %s |\n", r.title(), cell(c.Version), c.Isolation, c.Transport, strings.Join(lacks, ", "))
	}
	b.WriteString("\n| test |")
	for _, r := range ran {
		b.WriteString(" " + r.title() + " |")
	}
	b.WriteString("\n| --- |" + strings.Repeat(" --- |", len(ran)) + "\n")
	var notes []string
	for _, name := range drivertest.Names() {
		b.WriteString("| " + name + " |")
		for _, r := range ran {
			switch r.result[name] {
			case "pass":
				b.WriteString(" yes |")
			case "fail":
				b.WriteString(" **no** |")
			case "skip":
				reason := cell(r.reason[name])
				i := slices.Index(notes, reason)
				if i < 0 {
					i, notes = len(notes), append(notes, reason)
				}
				fmt.Fprintf(&b, " (%d) |", i+1)
			default:
				b.WriteString(" not run |")
			}
		}
		b.WriteString("\n")
	}
	for i, n := range notes {
		if i == 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "%d. %s\n", i+1, n)
	}
	for i, r := range not {
		if i == 0 {
			b.WriteString("\nNot on the machine that made this table:\n\n")
		}
		fmt.Fprintf(&b, "- %s: %s\n", r.title(), cell(r.whole))
	}
	return b.String()
}

// cell makes a text fit into a table.
func cell(s string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ").Replace(strings.TrimSpace(s))
}

// The marks around what is generated.
const (
	beginMark = "<!-- made by `just backends`: -->\n"
	endMark   = "<!-- until here -->\n"
)

// rewrite puts the tables between the marks of the page.
func rewrite(page []byte, tables string) ([]byte, error) {
	before, rest, ok := bytes.Cut(page, []byte(beginMark))
	_, after, ok2 := bytes.Cut(rest, []byte(endMark))
	if !ok || !ok2 {
		return nil, errors.New("the page has not both marks")
	}
	return slices.Concat(before, []byte(beginMark+"\n"+tables+"\n"+endMark), after), nil
}
