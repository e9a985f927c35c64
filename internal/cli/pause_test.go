package cli

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// Machines are named, or --all that the command is for are meant.
func TestPauseAndResume(t *testing.T) {
	still := view("still", machine.StatePaused)
	for args, want := range map[string]string{
		"pause web evil web": "pause evil, pause web",
		"pause --all":        "pause web",
		"resume --all":       "resume still",
		"unpause still":      "resume still",
	} {
		var mu sync.Mutex
		var asked []string
		a := call{eng: &scripted{views: append(someMachines(), still), pausing: func(what string) error {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, what)
			return nil
		}}}.run(t, strings.Fields(args)...)
		slices.Sort(asked)
		if got := strings.Join(asked, ", "); a.code != 0 || got != want || len(strings.Fields(a.out)) != len(asked) {
			t.Errorf("%s: exit code %d, asked %q, want %q; it printed %q, %q", args, a.code, got, want, a.out, a.err)
		}
	}
	for _, args := range []string{"pause", "pause --all web", "resume -x"} {
		if a := (call{eng: &scripted{}}).run(t, strings.Fields(args)...); a.code != machine.ExitUsage {
			t.Errorf("%s: exit code %d", args, a.code)
		}
	}
}
