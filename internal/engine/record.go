package engine

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// recordFor returns the record to start from: the existing one with what the user now says put
// over it, or a new one. before is the existing one as it was, nil for a new machine.
func (e *Engine) recordFor(ctx context.Context, spec machine.Spec, unseal bool) (before *machine.Record, rec machine.Record, err error) {
	rec, err = e.existing(ctx, spec.Name)
	switch {
	case machine.CodeOf(err) == "machine.not_found" && spec.Image != "":
		withDefaults(&spec)
		return nil, machine.Record{ID: machine.NewID(), Name: spec.Name, Created: time.Now().UTC(), Spec: spec}, nil
	case err != nil:
		return nil, rec, err
	case spec.Image != "" && spec.Image != rec.Spec.Image:
		return nil, rec, machine.Errorf("machine.exists", fmt.Sprintf("choose another --name, or add --recreate to delete it and start anew, or delete it: mvmctl rm %s", rec.Name),
			"machine %q exists already, with image %q", rec.Name, rec.Spec.Image)
	case spec.Ephemeral && !rec.Spec.Ephemeral:
		return nil, rec, machine.Errorf("machine.exists", fmt.Sprintf("leave out --rm, or choose another --name, or delete it: mvmctl rm %s", rec.Name),
			"machine %q exists already and --rm would delete it", rec.Name)
	case spec.Disk != 0 && spec.Disk != rec.Spec.Disk:
		return nil, rec, machine.Errorf("machine.exists", fmt.Sprintf("leave out --disk, or delete the machine with its data: mvmctl rm %s", rec.Name),
			"machine %q exists already, with a disk of %s", rec.Name, machine.FormatSize(rec.Spec.Disk))
	}
	if e.Locks.Alive(rec.Name) {
		return &rec, rec, nil
	}
	if err := e.heal(ctx, &rec); err != nil {
		return nil, rec, err
	}
	old := rec
	rec.Spec = saidOver(rec.Spec, spec, unseal)
	return &old, rec, nil
}

// saidOver puts what the user now says of a machine over what it was started with. With an
// image it is the whole description, and what is not said is the default; without one, the
// machine is as it was but for what is said.
func saidOver(have, said machine.Spec, unseal bool) machine.Spec {
	if said.Image != "" {
		// The disk exists, and a machine is not made or unmade ephemeral.
		said.Disk, said.Ephemeral = have.Disk, have.Ephemeral
		if said.Driver == "" {
			said.Driver = have.Driver
		}
		withDefaults(&said)
		return said
	}
	out := have
	out.Attach, out.TTY = said.Attach, said.TTY
	out.Sealed = said.Sealed || have.Sealed && !unseal
	out.CPUs = cmp.Or(said.CPUs, have.CPUs)
	out.Memory = cmp.Or(said.Memory, have.Memory)
	out.Timeout = cmp.Or(said.Timeout, have.Timeout)
	out.Driver = cmp.Or(said.Driver, have.Driver)
	out.Kernel = cmp.Or(said.Kernel, have.Kernel)
	out.Require = cmp.Or(said.Require, have.Require)
	out.Dir = cmp.Or(said.Dir, have.Dir)
	out.User = cmp.Or(said.User, have.User)
	out.Init = cmp.Or(said.Init, have.Init)
	if len(said.Command) > 0 {
		out.Command, out.Init = said.Command, ""
	}
	if len(said.Ports) > 0 {
		out.Ports = said.Ports
	}
	if len(said.Volumes) > 0 {
		out.Volumes = said.Volumes
	}
	if len(said.Services) > 0 || len(said.Checks) > 0 {
		out.Services, out.Checks = said.Services, said.Checks
	}
	out.Env = union(have.Env, said.Env)
	out.Labels = union(have.Labels, said.Labels)
	return out
}

func union(have, said map[string]string) map[string]string {
	if len(said) == 0 {
		return have
	}
	all := maps.Clone(have)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, said)
	return all
}

// existing loads a record in the caller's lock. What a killed command half made or half removed
// is finished first: there is nothing in it to lose, and the rest of a removed machine must not
// come back without its disk.
func (e *Engine) existing(ctx context.Context, name string) (machine.Record, error) {
	rec, err := e.Records.Load(name)
	unfinished := machine.CodeOf(err) == "state.incomplete" || (err == nil && rec.Intent == machine.IntentRemoving)
	if !unfinished || e.Locks.Alive(name) {
		return rec, err
	}
	if err := e.removeKept(ctx, rec); err != nil {
		return rec, err
	}
	if err := e.Records.Delete(name); err != nil {
		return rec, err
	}
	return e.Records.Load(name)
}

func withDefaults(s *machine.Spec) {
	if s.CPUs == 0 {
		s.CPUs = machine.DefaultCPUs
	}
	if s.Memory == 0 {
		s.Memory = machine.DefaultMemory
	}
	if s.Disk == 0 {
		s.Disk = machine.DefaultDisk
	}
	if s.Timeout == 0 {
		s.Timeout = machine.DefaultTimeout
	}
}

// already answers for a machine that is up.
func (e *Engine) already(ctx context.Context, rec machine.Record, spec machine.Spec, o UpOptions) (UpResult, error) {
	if err := checkRunning(rec, spec, o.Unseal); err != nil {
		return UpResult{}, err
	}
	if !o.Detach {
		return UpResult{}, machine.Errorf("machine.running", fmt.Sprintf("mvmctl exec %s -- COMMAND runs a command in it; mvmctl down %s stops it", rec.Name, rec.Name),
			"machine %q is running already", rec.Name)
	}
	if _, err := e.running(rec.Name); machine.CodeOf(err) == "machine.paused" {
		return UpResult{}, err
	}
	st, err := e.waitReady(ctx, rec) // the command that started it may have been killed
	if err != nil {
		return UpResult{}, err
	}
	if rec.Intent != machine.IntentNone {
		rec.Intent = machine.IntentNone
		if err := e.Records.Save(rec); err != nil {
			return UpResult{}, err
		}
	}
	return UpResult{
		Name: rec.Name, ID: rec.ID, Already: true, Driver: rec.Driver, Isolation: rec.Isolation, Ports: st.Ports, Phases: rec.Phases,
	}, nil
}

// checkRunning refuses what a machine that is up is not: less isolated than asked, or with
// other settings.
func checkRunning(rec machine.Record, said machine.Spec, unseal bool) error {
	if isolationRank(driver.Isolation(rec.Isolation)) < isolationRank(driver.Isolation(said.Require)) {
		return machine.Errorf("policy.isolation", fmt.Sprintf("stop it first: mvmctl down %s; `mvmctl doctor` says what this host can do", rec.Name),
			"machine %q is running already, isolated at level %q and not %q", rec.Name, rec.Isolation, said.Require)
	}
	have := rec.Spec
	want := saidOver(have, said, unseal)
	// How it was started and how strictly it was chosen say nothing about what runs now.
	want.Attach, want.TTY, want.Require, want.Timeout, want.Driver = have.Attach, have.TTY, have.Require, have.Timeout, have.Driver
	other := said.Driver != "" && said.Driver != rec.Driver
	if other || !reflect.DeepEqual(normal(want), normal(have)) {
		return machine.Errorf("machine.running", fmt.Sprintf("stop it first: mvmctl down %s", rec.Name),
			"machine %q is running already, with other settings", rec.Name)
	}
	return nil
}

// normal makes empty and missing collections equal.
func normal(s machine.Spec) machine.Spec {
	s.Command = orNil(s.Command)
	s.Ports = orNil(s.Ports)
	s.Volumes = orNil(s.Volumes)
	s.Services = orNil(s.Services)
	s.Checks = orNil(s.Checks)
	if len(s.Env) == 0 {
		s.Env = nil
	}
	if len(s.Labels) == 0 {
		s.Labels = nil
	}
	return s
}

func orNil[T any](s []T) []T {
	if len(s) == 0 {
		return nil
	}
	return s
}
