package drivertest

import (
	"encoding/json"
	"strings"

	"github.com/mvmctl/mvmctl/internal/driver"
)

// Facts say what a run of the suite was about.
type Facts struct {
	Driver       string              `json:"driver"`
	Capabilities driver.Capabilities `json:"capabilities"`
}

const factsMark = "backend: "

// line is how a run prints its facts, for FactsIn.
func (f Facts) line() string {
	data, err := json.Marshal(f)
	if err != nil { // strings, numbers and lists cannot fail
		return factsMark + err.Error()
	}
	return factsMark + string(data)
}

// FactsIn finds in a line of a test's output the facts that the suite has printed.
func FactsIn(line string) (Facts, bool) {
	var f Facts
	_, text, found := strings.Cut(line, factsMark+"{")
	if !found || json.Unmarshal([]byte("{"+text), &f) != nil || f.Driver == "" {
		return Facts{}, false
	}
	return f, true
}
