package supervisor

import (
	"errors"
	"os"
	"testing"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// An error never points below where there is nothing.
func TestNothingPrintedIsNotBelow(t *testing.T) {
	s := &supervisor{opts: Options{Places: paths.Machine{Dir: t.TempDir()}}}
	if err := os.MkdirAll(s.opts.Places.Logs(), 0o700); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.logs, err = openLogs(s.opts.Places); err != nil {
		t.Fatal(err)
	}
	defer s.logs.close()
	for _, c := range [][2]string{{"", "longer; " + printedNothing}, {"hello\n", "longer; " + printedBelow}} {
		text, want := c[0], c[1]
		if _, err := s.logs.consoleOut().Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		got := s.withConsole(machine.Errorf("x", "longer; "+printedBelow, "late"))
		if me, ok := errors.AsType[*machine.Error](got); !ok || me.Remedy != want {
			t.Errorf("%q: %#v", text, got)
		}
	}
}
