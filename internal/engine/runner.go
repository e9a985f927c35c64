package engine

import (
	"context"
	"path/filepath"
	"slices"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// backendFor returns the backend that a machine wants by name: one with a runner has a backend of its
// own, whichever of that one's names was said.
func (e *Engine) backendFor(spec machine.Spec, want string) (string, error) {
	for _, d := range e.Drivers {
		r, ok := d.(driver.RunnerStarter)
		switch {
		case !ok:
		case spec.Runner == "" && want == d.Name():
			return "", machine.Usagef("runner.missing", "use it with --flake REF, and a flake that has nixosConfigurations.NAME with microvm.nix", "the backend %s starts machines of such flakes, and not of images", want)
		case spec.Runner != "" && want != "" && !r.Means(want):
			return "", machine.Usagef("runner.backend", "leave out --hypervisor", "a machine of microvm.nix cannot be started by %s", want)
		case spec.Runner != "":
			return d.Name(), spec.CheckRunner()
		}
	}
	return want, nil
}

// StartsRunners reports whether a user who asks for this backend means, for a flake that has one, the
// machine's own runner.
func (e *Engine) StartsRunners(name string) bool {
	return slices.ContainsFunc(e.Drivers, func(d driver.Driver) bool {
		r, ok := d.(driver.RunnerStarter)
		return ok && name != "" && r.Means(name)
	})
}

// prepareRunner keeps a machine's runner from Nix's garbage collector for as long as the machine's
// folder exists.
func (e *Engine) prepareRunner(ctx context.Context, rec machine.Record) error {
	if e.KeepRunner == nil {
		return nil
	}
	return e.KeepRunner(ctx, rec.Spec.Runner, filepath.Join(e.places(rec).Dir, "runner"))
}
