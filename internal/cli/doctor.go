package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/config"
	"github.com/mvmctl/mvmctl/internal/doctor"
	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

// exitUnfit is doctor's exit code when a required check failed.
const exitUnfit = 1

func (a *app) doctorCommand() *cobra.Command {
	var fix, asJSON bool
	cmd := &cobra.Command{
		Use: "doctor [flags]", GroupID: groupHost,
		Short: "Check whether this host can run machines, and say what to do",
		Long: `Check whether this host can run machines, by trying, and print the fix for each thing
that is missing. The first run may take some seconds: it boots a tiny guest to find
out whether virtualisation really works. --fix does what is safe: it makes our
directories, fetches the default kernel and cleans up after machines whose supervisor
died.

The exit code is 0 when every required check passes, else 1.`,
		Example: "  mvmctl doctor\n  mvmctl doctor --fix\n  mvmctl doctor --json | jq '.checks[] | select(.level!=\"ok\")'",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.doctor(cmd.Context(), fix, asJSON)
		},
	}
	cmd.Flags().BoolVar(&fix, "fix", false, "do the safe fixes")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

func (a *app) doctor(ctx context.Context, fix, asJSON bool) error {
	report, err := doctor.Run(ctx, doctor.Checks(a.host()), fix, func(f doctor.Finding) {
		if !asJSON {
			a.printFinding(f)
		}
	})
	if err != nil {
		return err
	}
	if asJSON {
		if err := ui.JSON(a.out, report); err != nil {
			return err
		}
	}
	if !report.OK {
		return exitCode(exitUnfit)
	}
	return nil
}

// printFinding prints one answer as it comes: level, name, message, and below it the fix.
func (a *app) printFinding(f doctor.Finding) {
	level := string(f.Level)
	if f.Fixed {
		level = "fixed"
	}
	lines := strings.Split(f.Message, "\n")
	var b strings.Builder
	fmt.Fprintf(&b, "%-6s%-24s%s\n", level, f.Name, ui.Line(lines[0]))
	for _, l := range lines[1:] {
		fmt.Fprintf(&b, "%30s%s\n", "", ui.Line(l))
	}
	if f.Fix != "" && f.Level != doctor.OK {
		for l := range strings.SplitSeq(f.Fix, "\n") {
			fmt.Fprintf(&b, "%6sfix: %s\n", "", ui.Line(l))
		}
	}
	_, _ = a.out.Write([]byte(b.String())) // a failure cancels the command
}

// host is what the composition root knows of this host, and the engine's answers to the rest.
// Settings or an engine that cannot be had become findings, not the end of the examination.
func (a *app) host() doctor.Host {
	cfg, cfgErr := a.settings()
	if cfgErr != nil {
		cfg = config.Config{}
	} else {
		_, cfgErr = a.project()
	}
	var h doctor.Host
	if a.deps.Doctor != nil {
		h = a.deps.Doctor(cfg)
	}
	eng, engErr := a.engine(cfg)
	also := h.Settings
	h.Settings = func() error {
		err := cmp.Or(cfgErr, engErr)
		if err == nil && also != nil {
			err = also()
		}
		if err == nil {
			return nil
		}
		return &doctor.Problem{Err: err, Fix: asError(err).Remedy}
	}
	if engErr != nil {
		return h
	}
	if h.Backends == nil {
		h.Backends = func(ctx context.Context) []doctor.Backend {
			return backendsOf(eng.Backends(ctx), eng.BackendName(forcedBackend(cfg)))
		}
	}
	if h.Kernel == nil {
		h.Kernel = func(ctx context.Context) (doctor.Thing, error) { return defaultKernel(ctx, eng) }
	}
	if h.Fetch == nil {
		h.Fetch = func(ctx context.Context) error {
			_, err := eng.FetchKernel(ctx, nil)
			return err
		}
	}
	if h.Install == nil {
		h.Install = func(ctx context.Context, name string) error {
			if err := eng.InstallBackend(ctx, name); err != nil {
				return &doctor.Problem{Err: err, Fix: asError(err).Remedy}
			}
			return nil
		}
	}
	if h.Machines == nil {
		h.Machines = func(ctx context.Context) ([]doctor.Machine, error) { return machinesOf(ctx, eng) }
	}
	if h.Clean == nil {
		h.Clean = func(ctx context.Context, name string) error {
			return eng.Down(ctx, name, engine.DownOptions{Force: true})
		}
	}
	return h
}

// forcedBackend returns the backend that the settings force, or "".
func forcedBackend(cfg config.Config) string {
	if name := cfg.Said("hypervisor"); name != "auto" {
		return name
	}
	return ""
}

// backendsOf marks what `up` would use: the forced backend, else the engine's choice.
func backendsOf(list []engine.Backend, forced string) []doctor.Backend {
	var out []doctor.Backend
	for _, b := range list {
		if forced != "" {
			b.Chosen, b.Better = b.Available && b.Name == forced, false
			b.Fetchable = b.Fetchable && b.Name == forced
		}
		var parts []string
		for _, p := range []string{b.Version, b.Accel, b.Isolation} {
			if p != "" {
				parts = append(parts, p)
			}
		}
		out = append(out, doctor.Backend{
			Name: b.Name, Available: b.Available, Chosen: b.Chosen, Better: b.Better, Summary: strings.Join(parts, ", "),
			Notes: b.Notes, Problem: b.Problem, Remedy: b.Remedy, Fetchable: b.Fetchable, ByName: b.ByName,
		})
	}
	return out
}

func defaultKernel(ctx context.Context, eng Engine) (doctor.Thing, error) {
	list, err := eng.Kernels(ctx)
	if err != nil {
		return doctor.Thing{}, err
	}
	for _, k := range list {
		if k.Default {
			return doctor.Thing{Name: k.Release, Note: k.Arch + ", " + machine.FormatSize(k.Size)}, nil
		}
	}
	return doctor.Thing{}, machine.Errorf("kernel.none", "mvmctl kernel fetch", "the cache has none")
}

func machinesOf(ctx context.Context, eng Engine) ([]doctor.Machine, error) {
	views, err := eng.List(ctx)
	if err != nil {
		return nil, err
	}
	var out []doctor.Machine
	for _, v := range views {
		out = append(out, doctor.Machine{
			Name: v.Name, Broken: v.State == machine.StateCrashed, Unreadable: v.State.Unreadable(), Problem: v.Problem,
		})
	}
	return out, nil
}
