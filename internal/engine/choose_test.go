package engine

import (
	"context"
	"errors"
	"fmt"
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
		Drivers: drivers, Explicit: map[string]bool{"double": true}, Elsewhere: map[string]string{"distant": "another system"},
		Aliases: map[string]string{"nickname": "emulated"}, Log: slog.New(slog.DiscardHandler),
	})
}

// probed is a driver of which only the answer to Probe matters.
type probed struct {
	driver.Driver
	name  string
	level driver.Isolation
	lacks []driver.Feature
	err   error
}

func (p probed) Name() string { return p.name }

func (p probed) Probe(context.Context) (driver.Capabilities, error) {
	return driver.Capabilities{Isolation: p.level, Lacks: p.lacks, Notes: []string{"note of " + p.name}}, p.err
}

func missing(what string) error {
	return &machine.Error{Code: "backend.missing", Message: what + " is missing", Remedy: "install " + what, Err: driver.ErrUnavailable}
}

func TestChoosingABackend(t *testing.T) {
	jail := probed{name: "jail", level: driver.IsolationVMJail}
	absent := probed{name: "absent", err: missing("absent")}
	broken := probed{name: "broken", err: errors.New("boom")}
	emulated := probed{name: "emulated", level: driver.IsolationEmulated}
	container := probed{name: "container", level: driver.IsolationContainer, lacks: []driver.Feature{driver.FeatureInit}}
	double := probed{name: "double", level: driver.IsolationNone}
	for name, tt := range map[string]struct {
		drivers       []driver.Driver
		want, require string
		needs         []driver.Feature
		chosen, code  string
		note, says    string
	}{
		"the first that can":           {drivers: []driver.Driver{absent, emulated}, chosen: "emulated", note: "absent is missing"},
		"the best comes first":         {drivers: []driver.Driver{jail, emulated}, chosen: "jail"},
		"emulation comes last":         {drivers: []driver.Driver{emulated, container}, chosen: "container", note: "note of emulated"},
		"why not the better one":       {drivers: []driver.Driver{absent, emulated}, chosen: "emulated", note: "to have it: install absent"},
		"what the machine needs":       {drivers: []driver.Driver{container, emulated}, needs: []driver.Feature{driver.FeatureInit}, chosen: "emulated", note: "container has no --init, which"},
		"what it does not need":        {drivers: []driver.Driver{container, emulated}, needs: []driver.Feature{driver.FeatureVolumes}, chosen: "container"},
		"asked for, lacking something": {drivers: []driver.Driver{container, emulated}, want: "container", needs: []driver.Feature{driver.FeatureInit}, chosen: "container"}, // which says so itself
		"lacking and required":         {drivers: []driver.Driver{container, emulated}, require: "container", needs: []driver.Feature{driver.FeatureInit}, code: "policy.isolation"},
		"emulation is enough":          {drivers: []driver.Driver{emulated, container}, require: "emulated", chosen: "container"},
		"the one asked for":            {drivers: []driver.Driver{jail, emulated}, want: "emulated", chosen: "emulated"},
		"the one asked for, by alias":  {drivers: []driver.Driver{jail, emulated}, want: "nickname", chosen: "emulated"},
		"asked for but absent":         {drivers: []driver.Driver{jail, absent}, want: "absent", code: "backend.missing"},
		"unknown":                      {drivers: []driver.Driver{jail}, want: "nope", code: "backend.unknown"},
		"of another system":            {drivers: []driver.Driver{jail}, want: "distant", code: "backend.unknown", says: "for another system"},
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
			d, caps, err := newTestEngine(t, tt.drivers...).choose(context.Background(), tt.want, tt.require, tt.needs)
			if tt.chosen == "" {
				if err == nil || machine.CodeOf(err) != tt.code || !strings.Contains(err.Error(), tt.says) {
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

// fetchable is a driver that can get what it lacks, and lacks something else afterwards.
type fetchable struct {
	probed
	calls *int
	then  error
}

func (f fetchable) Install(context.Context) error { *f.calls++; return nil }

func (f fetchable) Probe(ctx context.Context) (driver.Capabilities, error) {
	if f.err != nil && *f.calls > 0 {
		return driver.Capabilities{}, f.then
	}
	return f.probed.Probe(ctx)
}

func TestInstallingABackend(t *testing.T) {
	calls := 0
	e := newTestEngine(t, fetchable{probed{name: "absent", err: missing("absent")}, &calls, nil}, fetchable{probed{name: "here"}, &calls, nil}, probed{name: "other", err: missing("other")})
	stopped := probed{name: "stopped", err: fmt.Errorf("%w, %w", driver.Unavailable("x.stopped", "start it", "it is stopped"), driver.ErrInstallable)}
	broken := probed{name: "broken", err: driver.Unavailable("x.broken", "look at it", "it is broken")}
	e.Drivers = append(e.Drivers, fetchable{stopped, &calls, nil}, fetchable{broken, &calls, nil})
	for i, b := range e.Backends(t.Context()) {
		if b.Fetchable != (i == 0 || i == 3) {
			t.Errorf("%s: fetchable %v", b.Name, b.Fetchable)
		}
	}
	if err := e.InstallBackend(t.Context(), "absent"); err != nil || calls != 1 {
		t.Errorf("%v, %d calls", err, calls)
	}
	for _, name := range []string{"other", "nope", ""} {
		if err := e.InstallBackend(t.Context(), name); err == nil || calls != 1 {
			t.Errorf("%q: %v, %d calls", name, err, calls)
		}
	}
	// What was fetched has to run: a release on a host whose KVM boots nothing is not done.
	calls = 0
	e = newTestEngine(t, fetchable{probed{name: "absent", err: missing("absent")}, &calls, driver.Unavailable("backend.kvm", "switch it on", "a test guest did not boot")})
	err := e.InstallBackend(t.Context(), "absent")
	me, ok := errors.AsType[*machine.Error](err)
	if !ok || me.Code != "backend.install" || me.Remedy != "switch it on" || !strings.Contains(me.Error(), "was fetched, but it runs no machine here: a test guest did not boot") || calls != 1 {
		t.Errorf("fetched, and it does not boot: %v after %d calls", err, calls)
	}
}

func TestWhichBackendsAreBetter(t *testing.T) {
	jail := probed{name: "jail", level: driver.IsolationVMJail}
	absent := probed{name: "absent", err: missing("absent")}
	late := probed{name: "late", err: missing("late")}
	emulated := probed{name: "emulated", level: driver.IsolationEmulated}
	container := probed{name: "container", level: driver.IsolationContainer}
	double := probed{name: "double", level: driver.IsolationNone}
	for name, tt := range map[string]struct {
		drivers []driver.Driver
		chosen  string
		better  string
	}{
		"the first":                 {[]driver.Driver{jail, absent, emulated, double}, "jail", ""},
		"one before it is not here": {[]driver.Driver{absent, jail, late}, "jail", "absent"},
		"emulation is the last":     {[]driver.Driver{absent, emulated, late, double}, "emulated", "absent late"},
		"emulation is not better":   {[]driver.Driver{absent, emulated, container, late}, "container", "absent"},
		"none":                      {[]driver.Driver{absent, double}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var chosen string
			var better []string
			for _, b := range newTestEngine(t, tt.drivers...).Backends(t.Context()) {
				if b.Chosen {
					chosen += b.Name
				}
				if b.Better {
					better = append(better, b.Name)
				}
			}
			if chosen != tt.chosen || strings.Join(better, " ") != tt.better {
				t.Errorf("chosen %q, better %v", chosen, better)
			}
		})
	}
}

// startsRunners is a driver of flakes' own runners.
type startsRunners struct{ probed }

func (startsRunners) Means(name string) bool { return name == "runner" || name == "jail" }

// What a user calls a backend is known to the engine alone.
func TestBackendNames(t *testing.T) {
	e := newTestEngine(t, probed{name: "jail"}, probed{name: "emulated"}, startsRunners{probed{name: "runner"}})
	if got := strings.Join(e.BackendNames(), " "); got != "jail emulated runner" {
		t.Errorf("names %q", got)
	}
	for said, name := range map[string]string{"nickname": "emulated", "jail": "jail", "": "", "nope": "nope"} {
		if got := e.BackendName(said); got != name {
			t.Errorf("%q is %q, want %q", said, got, name)
		}
	}
	for name, want := range map[string]bool{"jail": true, "runner": true, "emulated": false, "": false} {
		if got := e.StartsRunners(name); got != want {
			t.Errorf("%q starts runners: %v", name, got)
		}
	}
}
