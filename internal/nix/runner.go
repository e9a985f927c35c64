package nix

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// Runner is a runner of microvm.nix: a package whose programs start one machine.
type Runner struct {
	Name    string // of the NixOS configuration
	OutPath string // in the Nix store
}

// runnerProgram is the file that makes a package a runner.
const runnerProgram = "bin/microvm-run"

// Runners returns the names of a flake's NixOS configurations that microvm.nix makes machines of;
// none when it has no such configurations.
func Runners(ctx context.Context, o Options) ([]string, error) {
	t, err := o.target()
	if err != nil {
		return nil, err
	}
	o.Progress = nil
	const pick = `c: builtins.filter (n: (c.${n}.config or { }) ? microvm) (builtins.attrNames c)`
	t.attr = "nixosConfigurations"
	out, err := run(ctx, o, slices.Concat([]string{"eval", "--json", "--apply", pick}, o.flags(), []string{t.installable()}))
	if err != nil {
		err = t.explain(ctx, o, err)
		if machine.CodeOf(err) == "nix.attribute" {
			return nil, nil
		}
		return nil, err
	}
	var names []string
	if err := json.Unmarshal(out, &names); err != nil {
		return nil, t.misunderstood("eval", out)
	}
	return names, nil
}

// FindRunner says which machine of microvm.nix the options mean: the NixOS configuration that
// Profile, or what follows the '#', names, or the flake's only one. It is "" when they mean a
// package of the flake.
func FindRunner(ctx context.Context, o Options) (string, error) {
	t, err := o.target()
	if err != nil {
		return "", err
	}
	names, err := Runners(ctx, o)
	if err != nil || len(names) == 0 {
		return "", err
	}
	_, fragment, _ := strings.Cut(o.Flake, "#")
	said := o.Profile
	if fragment != "" {
		said = strings.TrimPrefix(fragment, "nixosConfigurations.")
		said = strings.TrimSuffix(said, ".config.microvm.declaredRunner")
	}
	if slices.Contains(names, said) {
		return said, nil
	}
	packages, _ := t.packages(ctx, o) // a flake without any is as good as one without this one
	want := said
	if want == "" {
		want = "default"
	}
	switch {
	case slices.Contains(packages, want), t.attr != "":
		return "", nil
	case said == "" && len(names) == 1:
		return names[0], nil
	}
	for i, n := range names {
		names[i] = clip(clean(n), 80)
	}
	remedy := "choose one: " + clip(strings.Join(names, ", "), 400) + "; for example --flake " + quote(clip(t.ref, 200)+"#"+names[0])
	if said == "" {
		return "", machine.Usagef("nix.choose", remedy, "the flake %s describes %d machines", clip(t.shown, 80), len(names))
	}
	return "", machine.Errorf("nix.attribute", remedy, "the flake %s has no machine nixosConfigurations.%s with microvm.nix", clip(t.shown, 80), clip(said, 80))
}

// BuildRunner builds the runner of a NixOS configuration, which FindRunner has found. When ctx ends,
// nix and what it started end too.
func BuildRunner(ctx context.Context, o Options, name string) (Runner, error) {
	if o.Linux != nil {
		return Runner{}, machine.Errorf("nix.missing", "install nix on this host", "a runner of microvm.nix runs on this host, and there is no nix here")
	}
	t, err := o.target()
	if err != nil {
		return Runner{}, err
	}
	if name == "" || strings.ContainsAny(name, "\"\\$\n") {
		return Runner{}, machine.Usagef("input.profile", "rename it in the flake", "%q is no name that mvmctl takes", clip(name, 80))
	}
	t.attr = `nixosConfigurations."` + name + `".config.microvm.declaredRunner`
	if plainName(name) {
		t.attr = "nixosConfigurations." + name + ".config.microvm.declaredRunner"
	}
	link := []string{"--no-link"}
	if o.OutLink != "" {
		link = []string{"--out-link", o.OutLink}
	}
	out, err := run(ctx, o, slices.Concat([]string{"build", "--json"}, link, o.flags(), []string{t.installable()}))
	if err != nil {
		return Runner{}, t.explain(ctx, o, err)
	}
	r, err := parseBuilt(out, t)
	if err != nil {
		return Runner{}, err
	}
	if info, err := os.Stat(filepath.Join(r.OutPath, runnerProgram)); err != nil || !info.Mode().IsRegular() {
		return Runner{}, machine.Errorf("nix.output", "let microvm.nix make it: its nixosModules.microvm belongs into the configuration's modules", "%s is not a runner: %s has no %s", t.installable(), r.OutPath, runnerProgram)
	}
	return Runner{Name: name, OutPath: r.OutPath}, nil
}

// Keep makes sure that a store path is there, and keeps it from Nix's garbage collector for as long
// as link exists.
func Keep(ctx context.Context, storePath, link string) error {
	o := Options{Flake: storePath}
	t := target{ref: storePath, shown: storePath, attr: "outPath", system: hostSystem()}
	if _, err := run(ctx, o, []string{"build", "--offline", "--out-link", link, storePath}); err != nil {
		return t.explain(ctx, o, err)
	}
	return nil
}
