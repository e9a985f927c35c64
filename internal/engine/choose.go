package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// isolationRank orders the levels: a higher one is a stronger boundary.
func isolationRank(l driver.Isolation) int {
	switch l {
	case driver.IsolationVMJail:
		return 4
	case driver.IsolationVM:
		return 3
	case driver.IsolationContainer:
		return 2
	case driver.IsolationEmulated:
		return 1
	}
	return 0
}

// choose finds the driver that a machine runs on: the one that was asked for, the one it
// remembers, or the first in order of preference that can run it. A backend that emulates the
// processor comes after all others, whatever its place. It refuses one that isolates less than
// required. The notes of what it returns say why each better backend is not used, with its remedy.
func (e *Engine) choose(ctx context.Context, want, require string, needs []driver.Feature) (driver.Driver, driver.Capabilities, error) {
	if require != "" && isolationRank(driver.Isolation(require)) == 0 {
		return nil, driver.Capabilities{}, machine.Usagef("input.isolation", "use vm+jail, vm, container or emulated", "%q is not an isolation level", require)
	}
	candidates, err := e.candidates(want)
	if err != nil {
		return nil, driver.Capabilities{}, err
	}
	var slow driver.Driver // emulates: used when there is nothing better
	var slowCaps driver.Capabilities
	var problems []string
	for _, d := range candidates {
		caps, err := d.Probe(ctx)
		if err != nil {
			if want != "" || !errors.Is(err, driver.ErrUnavailable) || len(candidates) == 1 {
				return nil, driver.Capabilities{}, err
			}
			problems = append(problems, d.Name()+": "+withRemedy(err))
			continue
		}
		if isolationRank(caps.Isolation) < isolationRank(driver.Isolation(require)) {
			problems = append(problems, fmt.Sprintf("%s isolates only at level %q", d.Name(), caps.Isolation))
			problems = append(problems, named(d, caps.Notes)...)
			continue
		}
		if lacks := lacking(caps, needs); want == "" && lacks != "" {
			problems = append(problems, fmt.Sprintf("%s has no %s, which this machine needs", d.Name(), lacks))
			continue
		}
		if want == "" && caps.Isolation == driver.IsolationEmulated {
			problems = append(problems, named(d, caps.Notes)...)
			if slow == nil {
				slow, slowCaps = d, caps
			}
			continue
		}
		caps.Notes = append(problems, caps.Notes...)
		return d, caps, nil
	}
	if slow != nil {
		slowCaps.Notes = problems
		return slow, slowCaps, nil
	}
	if require != "" {
		return nil, driver.Capabilities{}, machine.Errorf("policy.isolation", "`mvmctl doctor` says what is missing; a weaker level is --require-isolation emulated",
			"no backend of this host isolates at level %q: %s", require, strings.Join(problems, "; "))
	}
	return nil, driver.Capabilities{}, machine.Errorf("backend.none", "`mvmctl doctor` says what to install", "no backend can run machines on this host: %s", strings.Join(problems, "; "))
}

// named puts a backend's name before its notes, where they are not about the one that is used.
func named(d driver.Driver, notes []string) []string {
	var out []string
	for _, n := range notes {
		out = append(out, d.Name()+": "+n)
	}
	return out
}

// withRemedy is an error in one line with what to do about it.
func withRemedy(err error) string {
	if me, ok := errors.AsType[*machine.Error](err); ok && me.Remedy != "" {
		return err.Error() + "; to have it: " + me.Remedy
	}
	return err.Error()
}

// lacking returns the first of the needs that a backend does not have, "" for none.
func lacking(caps driver.Capabilities, needs []driver.Feature) driver.Feature {
	for _, f := range needs {
		if slices.Contains(caps.Lacks, f) {
			return f
		}
	}
	return ""
}

// needs lists what a machine needs that not every backend has.
func needs(spec machine.Spec) []driver.Feature {
	var out []driver.Feature
	if len(spec.Volumes) > 0 {
		out = append(out, driver.FeatureVolumes)
	}
	if spec.Init != "" {
		out = append(out, driver.FeatureInit)
	}
	return out
}

// BackendName is the name of the backend that a user calls so.
func (e *Engine) BackendName(said string) string {
	if name, ok := e.Aliases[said]; ok {
		return name
	}
	return said
}

func (e *Engine) candidates(want string) ([]driver.Driver, error) {
	want = e.BackendName(want)
	var names []string
	var auto []driver.Driver
	for _, d := range e.Drivers {
		if d.Name() == want {
			return []driver.Driver{d}, nil
		}
		names = append(names, d.Name())
		if !e.Explicit[d.Name()] {
			auto = append(auto, d)
		}
	}
	if system, ok := e.Elsewhere[want]; ok {
		return nil, machine.Usagef("backend.unknown", "this mvmctl has: "+strings.Join(names, ", "), "the backend %q is for %s", want, system)
	}
	if want != "" {
		return nil, machine.Usagef("backend.unknown", "this mvmctl has: "+strings.Join(names, ", "), "there is no backend %q", want)
	}
	return auto, nil
}

// BackendNames returns the names that --hypervisor takes, the preferred first. It probes nothing.
func (e *Engine) BackendNames() []string {
	var out []string
	for _, d := range e.Drivers {
		out = append(out, d.Name())
	}
	return out
}

// Backends asks every driver whether it can run here, and marks the one that `up` would use and
// those that it would use before that one. It may take some seconds the first time.
func (e *Engine) Backends(ctx context.Context) []Backend {
	var out []Backend
	chosen := -1
	for i, d := range e.Drivers {
		begin := time.Now()
		caps, err := d.Probe(ctx)
		b := Backend{
			Name: d.Name(), Available: err == nil, ByName: e.Explicit[d.Name()], Version: caps.Version, Accel: caps.Accelerator, Isolation: string(caps.Isolation),
			Transport: caps.Transport, Binary: caps.BinaryPath, Notes: caps.Notes, Lacks: caps.Lacks, ProbedInMS: time.Since(begin).Milliseconds(),
		}
		if err != nil {
			b.Problem, b.Code = err.Error(), "backend.unavailable"
			if me, ok := errors.AsType[*machine.Error](err); ok {
				b.Code, b.Remedy = me.Code, me.Remedy
			}
			_, b.Fetchable = d.(driver.Installer)
			b.Fetchable = b.Fetchable && (b.Code == "backend.missing" || errors.Is(err, driver.ErrInstallable))
		}
		out = append(out, b)
		if err == nil && !e.Explicit[d.Name()] && (chosen < 0 || emulates(out[chosen]) && !emulates(b)) {
			chosen = i
		}
	}
	for i := range out {
		if chosen >= 0 && i != chosen && !e.Explicit[out[i].Name] {
			out[i].Better = i < chosen && !emulates(out[i]) || emulates(out[chosen]) && !out[i].Available
		}
	}
	if chosen >= 0 {
		out[chosen].Chosen = true
	}
	return out
}

// InstallBackend fetches the VMM of a backend that can fetch it, and has the backend prove that it
// runs machines: what was fetched and does not is an error that says what is missing.
func (e *Engine) InstallBackend(ctx context.Context, name string) error {
	list, err := e.candidates(name)
	if err != nil {
		return err
	}
	d, can := list[0].(driver.Installer)
	if name == "" || !can {
		return machine.Usagef("backend.install", "install it yourself; `mvmctl doctor` says how", "mvmctl cannot fetch what the backend %q needs", name)
	}
	if err := d.Install(ctx); err != nil {
		return err
	}
	if _, err := list[0].Probe(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		remedy := "`mvmctl doctor` says what is missing"
		if me, ok := errors.AsType[*machine.Error](err); ok && me.Remedy != "" {
			remedy = me.Remedy
		}
		return machine.Errorf("backend.install", remedy, "what %s needs was fetched, but it runs no machine here: %w", name, err)
	}
	return nil
}

func emulates(b Backend) bool { return b.Isolation == string(driver.IsolationEmulated) }
