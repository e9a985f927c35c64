package engine

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

func newTestEngine(t *testing.T, drivers ...driver.Driver) *Engine {
	t.Helper()
	dir := t.TempDir()
	return New(Parts{
		Paths:   paths.Paths{Cache: dir + "/cache", State: dir + "/state", Runtime: dir + "/run"},
		Drivers: drivers, Explicit: map[string]bool{"double": true}, Log: slog.New(slog.DiscardHandler),
	})
}

// probed is a driver of which only the answer to Probe matters.
type probed struct {
	driver.Driver
	name  string
	level driver.Isolation
	err   error
}

func (p probed) Name() string { return p.name }

func (p probed) Probe(context.Context) (driver.Capabilities, error) {
	return driver.Capabilities{Isolation: p.level, Notes: []string{"note of " + p.name}}, p.err
}

func missing(what string) error {
	return &machine.Error{Code: "backend.missing", Message: what + " is missing", Remedy: "install " + what, Err: driver.ErrUnavailable}
}

func TestChoosingABackend(t *testing.T) {
	jail := probed{name: "jail", level: driver.IsolationVMJail}
	absent := probed{name: "absent", err: missing("absent")}
	broken := probed{name: "broken", err: errors.New("boom")}
	emulated := probed{name: "emulated", level: driver.IsolationEmulated}
	double := probed{name: "double", level: driver.IsolationNone}
	for name, tt := range map[string]struct {
		drivers       []driver.Driver
		want, require string
		chosen, code  string
		note          string
	}{
		"the first that can":           {drivers: []driver.Driver{absent, emulated}, chosen: "emulated", note: "absent is missing"},
		"the best comes first":         {drivers: []driver.Driver{jail, emulated}, chosen: "jail"},
		"the one asked for":            {drivers: []driver.Driver{jail, emulated}, want: "emulated", chosen: "emulated"},
		"asked for but absent":         {drivers: []driver.Driver{jail, absent}, want: "absent", code: "backend.missing"},
		"unknown":                      {drivers: []driver.Driver{jail}, want: "nope", code: "backend.unknown"},
		"explicit only is never found": {drivers: []driver.Driver{double, absent}, code: "backend.missing"},
		"explicit when asked for":      {drivers: []driver.Driver{double}, want: "double", chosen: "double"},
		"none at all":                  {drivers: []driver.Driver{absent, absent}, code: "backend.none"},
		"required level":               {drivers: []driver.Driver{emulated, jail}, require: "vm", chosen: "jail"},
		"required level not there":     {drivers: []driver.Driver{emulated}, require: "vm", code: "policy.isolation"},
		"required but forced weaker":   {drivers: []driver.Driver{jail, emulated}, want: "emulated", require: "vm", code: "policy.isolation"},
		"unknown level":                {drivers: []driver.Driver{jail}, require: "strong", code: "input.isolation"},
		"level none cannot be asked":   {drivers: []driver.Driver{jail}, require: "none", code: "input.isolation"},
		"a broken one stops":           {drivers: []driver.Driver{broken}, want: "broken", code: ""},
	} {
		t.Run(name, func(t *testing.T) {
			d, caps, err := newTestEngine(t, tt.drivers...).choose(context.Background(), tt.want, tt.require)
			if tt.chosen == "" {
				if err == nil || machine.CodeOf(err) != tt.code {
					t.Fatalf("%v, want code %q", err, tt.code)
				}
				return
			}
			if err != nil || d.Name() != tt.chosen {
				t.Fatalf("%v, %v; want %s", d, err, tt.chosen)
			}
			if notes := strings.Join(caps.Notes, "; "); !strings.Contains(notes, tt.note) {
				t.Errorf("notes %q lack %q", notes, tt.note)
			}
		})
	}
}
