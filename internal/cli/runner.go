package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/internal/build"
	"github.com/mvmctl/mvmctl/internal/config"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// runnerFor makes a Spec one of the machine that a flake describes with microvm.nix, when it does.
func (a *app) runnerFor(ctx context.Context, spec *machine.Spec, p provision, b Builder, o build.Options) (bool, error) {
	r, ok, err := b.Runner(ctx, p.from.flake, p.from.profile, o)
	if err != nil || !ok {
		return false, err
	}
	if err := spec.CheckRunner(); err != nil {
		return false, err
	}
	said, err := specOf(p.cfg.Only(func(_ string, v config.Value) bool { return v.Source == config.SourceFlag }))
	if err != nil {
		return false, err
	}
	if said.CPUs != 0 || said.Memory != 0 || said.Disk != 0 {
		return false, machine.Usagef("runner.setting", "leave it out, and say it in the flake: microvm.vcpu, microvm.mem, microvm.volumes", "a machine of microvm.nix cannot be given --cpus, --memory or --disk: what it is its flake says")
	}
	if spec.Name == "" || !slices.Contains(p.eng.Names(ctx), spec.Name) {
		// The first start is when somebody may still think better of it.
		p.progress.Print("mvmctl: the flake's runner is a program of its author's: " + r.OutPath + "/bin/microvm-run runs on this host as you, outside of any machine, and decides itself what it starts")
	}
	ref, _, _ := strings.Cut(p.from.flake, "#")
	spec.Image, spec.Runner, spec.Driver = ref+"#"+r.Name, r.OutPath, machine.RunnerDriver
	return true, nil
}
