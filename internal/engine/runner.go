package engine

import (
	"context"
	"path/filepath"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// runnerBackend returns the backend of a machine: those that a flake's runner starts have one of
// their own, which "qemu" means too, since a runner is a QEMU's command line.
func runnerBackend(spec machine.Spec, want string) (string, error) {
	if spec.Runner == "" {
		if want == machine.RunnerDriver {
			return "", machine.Usagef("runner.missing", "mvmctl up --hypervisor qemu --flake REF, with a flake that has nixosConfigurations.NAME with microvm.nix", "the backend %s starts machines of such flakes, and not of images", want)
		}
		return want, nil
	}
	switch want {
	case "", "qemu", machine.RunnerDriver:
		return machine.RunnerDriver, spec.CheckRunner()
	}
	return "", machine.Usagef("runner.backend", "leave out --hypervisor, or use --hypervisor qemu", "a machine of microvm.nix cannot be started by %s", want)
}

// prepareRunner keeps a machine's runner from Nix's garbage collector for as long as the machine's
// folder exists.
func (e *Engine) prepareRunner(ctx context.Context, rec machine.Record) error {
	if e.KeepRunner == nil {
		return nil
	}
	return e.KeepRunner(ctx, rec.Spec.Runner, filepath.Join(e.places(rec).Dir, "runner"))
}
