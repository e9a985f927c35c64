package engine

import (
	"context"
	"errors"
	"fmt"
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
// remembers, or the first that can. It refuses one that isolates less than required.
func (e *Engine) choose(ctx context.Context, want, require string) (driver.Driver, driver.Capabilities, error) {
	if require != "" && isolationRank(driver.Isolation(require)) == 0 {
		return nil, driver.Capabilities{}, machine.Usagef("input.isolation", "use vm+jail, vm, container or emulated", "%q is not an isolation level", require)
	}
	candidates, err := e.candidates(want)
	if err != nil {
		return nil, driver.Capabilities{}, err
	}
	var problems []string
	for _, d := range candidates {
		caps, err := d.Probe(ctx)
		if err != nil {
			if want != "" || !errors.Is(err, driver.ErrUnavailable) || len(candidates) == 1 {
				return nil, driver.Capabilities{}, err
			}
			problems = append(problems, d.Name()+": "+err.Error())
			continue
		}
		if isolationRank(caps.Isolation) < isolationRank(driver.Isolation(require)) {
			problems = append(problems, fmt.Sprintf("%s isolates only at level %q", d.Name(), caps.Isolation))
			problems = append(problems, caps.Notes...)
			continue
		}
		caps.Notes = append(problems, caps.Notes...)
		return d, caps, nil
	}
	if require != "" {
		return nil, driver.Capabilities{}, machine.Errorf("policy.isolation", "`mvmctl doctor` says what is missing; a weaker level is --require-isolation emulated",
			"no backend of this host isolates at level %q: %s", require, strings.Join(problems, "; "))
	}
	return nil, driver.Capabilities{}, machine.Errorf("backend.none", "`mvmctl doctor` says what to install", "no backend can run machines on this host: %s", strings.Join(problems, "; "))
}

func (e *Engine) candidates(want string) ([]driver.Driver, error) {
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
	if want != "" {
		return nil, machine.Usagef("backend.unknown", "this mvmctl has: "+strings.Join(names, ", "), "there is no backend %q", want)
	}
	return auto, nil
}

// Backends asks every driver whether it can run here. It may take some seconds the first time.
func (e *Engine) Backends(ctx context.Context) []Backend {
	var out []Backend
	chosen := false
	for _, d := range e.Drivers {
		begin := time.Now()
		caps, err := d.Probe(ctx)
		b := Backend{
			Name: d.Name(), Available: err == nil, Version: caps.Version, Accel: caps.Accelerator, Isolation: string(caps.Isolation),
			Transport: caps.Transport, Binary: caps.BinaryPath, Notes: caps.Notes, ProbedInMS: time.Since(begin).Milliseconds(),
		}
		if err != nil {
			b.Problem, b.Code = err.Error(), "backend.unavailable"
			if me, ok := errors.AsType[*machine.Error](err); ok {
				b.Code, b.Remedy = me.Code, me.Remedy
			}
		} else if !chosen && !e.Explicit[d.Name()] {
			b.Chosen, chosen = true, true
		}
		out = append(out, b)
	}
	return out
}
