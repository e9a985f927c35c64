package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

// machineJSON is one machine as ls --json prints it. Fields are only ever added.
type machineJSON struct {
	Name       string            `json:"name"`
	ID         string            `json:"id"`
	State      machine.State     `json:"state"`
	Image      string            `json:"image"`
	Driver     string            `json:"driver"`
	Isolation  string            `json:"isolation"`
	CPUs       int               `json:"cpus"`
	Memory     int64             `json:"memory_bytes"`
	Disk       int64             `json:"disk_bytes"`
	Ports      []machine.Port    `json:"ports"`
	Labels     map[string]string `json:"labels"`
	Created    time.Time         `json:"created,omitzero"`
	Started    time.Time         `json:"started,omitzero"`
	Ready      time.Time         `json:"ready,omitzero"`
	Finished   time.Time         `json:"finished,omitzero"`
	ExitCode   *int              `json:"exit_code,omitempty"`
	Ephemeral  bool              `json:"ephemeral"`
	Sealed     bool              `json:"sealed"`
	Generation uint64            `json:"generation"`
	Problem    string            `json:"problem,omitempty"`
}

func machineRow(v machine.View) machineJSON {
	r := machineJSON{
		Name: v.Name, ID: v.ID, State: v.State, Image: v.Spec.Image, Driver: v.Driver, Isolation: v.Isolation,
		CPUs:   cmp.Or(v.Spec.CPUs, machine.DefaultCPUs),
		Memory: cmp.Or(v.Spec.Memory, machine.DefaultMemory),
		Disk:   cmp.Or(v.Spec.Disk, machine.DefaultDisk),
		Ports:  portsOf(v), Labels: v.Spec.Labels,
		Created: v.Created, Ephemeral: v.Spec.Ephemeral, Sealed: v.Spec.Sealed, Generation: v.Generation, Problem: v.Problem,
	}
	if v.State.Unreadable() {
		r.CPUs, r.Memory, r.Disk = 0, 0, 0 // nothing is known
	}
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	if s := v.Status; s != nil {
		r.Started, r.Ready, r.Finished, r.ExitCode = s.Started, s.Ready, s.Finished, s.ExitCode
	}
	return r
}

// portsOf returns what is published now on a live machine, and what would be on another.
func portsOf(v machine.View) []machine.Port {
	if v.State.Live() && v.Status != nil {
		return append([]machine.Port{}, v.Status.Ports...)
	}
	return append([]machine.Port{}, v.Spec.Ports...)
}

type lsOptions struct {
	all, running   bool
	states, labels []string
	quiet, json    bool
}

func (a *app) lsCommand() *cobra.Command {
	var o lsOptions
	cmd := &cobra.Command{
		Use: "ls [flags] [NAME...]", GroupID: groupMachines,
		Short: "List machines",
		Long: `List all machines, also stopped ones, sorted by name. The state is the truth of this
moment: a machine whose supervisor was killed shows as crashed, and one that does not
answer within a second has a note. Nothing is started or changed.

States: created, starting, running, stopping, exited, failed, crashed, corrupt.
ISOLATION is what stands between the guest and this host: vm+jail, vm, emulated or
container.`,
		Example: `  mvmctl ls
  mvmctl ls --running -q
  mvmctl ls --state crashed --state failed
  mvmctl ls --label team=web --json | jq '.[].name'`,
		Args:              func(_ *cobra.Command, args []string) error { return checkNames(args) },
		ValidArgsFunction: a.completeNames(-1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.ls(cmd, args, o) },
	}
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "also machines that are not running (the default)")
	f.BoolVarP(&o.running, "running", "r", false, "only machines that are up or on their way")
	f.StringArrayVar(&o.states, "state", nil, "only machines in this `STATE`")
	f.StringArrayVarP(&o.labels, "label", "l", nil, "only machines with this label: `KEY[=VALUE]`")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print names only")
	f.BoolVar(&o.json, "json", false, "print a JSON array")
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(stateNames(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func stateNames() []string {
	var out []string
	for _, s := range []machine.State{
		machine.StateCreated, machine.StateStarting, machine.StateRunning, machine.StatePaused, machine.StateStopping,
		machine.StateExited, machine.StateFailed, machine.StateCrashed, machine.StateCorrupt, machine.StateNewer,
	} {
		out = append(out, string(s))
	}
	return out
}

func (a *app) ls(cmd *cobra.Command, args []string, o lsOptions) error {
	if o.all && (o.running || len(o.states) > 0) {
		return machine.Usagef("usage.flag", "leave one of them out", "--all and --running or --state exclude each other")
	}
	for _, s := range o.states {
		if !slices.Contains(stateNames(), s) {
			return oneOf("input.state", "a state", s, stateNames())
		}
	}
	if _, err := parseLabels(o.labels); err != nil {
		return err
	}
	eng, err := a.settledEngine()
	if err != nil {
		return err
	}
	views, err := eng.List(cmd.Context())
	if err != nil {
		return err
	}
	if err := known(views, args); err != nil {
		return err
	}
	views = slices.DeleteFunc(views, func(v machine.View) bool {
		return len(args) > 0 && !slices.Contains(args, v.Name) || !o.matches(v)
	})
	switch {
	case o.json:
		rows := make([]machineJSON, 0, len(views))
		for _, v := range views {
			rows = append(rows, machineRow(v))
		}
		return ui.JSON(a.out, rows)
	case o.quiet:
		for _, v := range views {
			if _, err := fmt.Fprintln(a.out, ui.Line(v.Name)); err != nil {
				return err
			}
		}
		return nil
	}
	return a.lsTable(views)
}

func (o lsOptions) matches(v machine.View) bool {
	if o.running && !v.State.Live() {
		return false
	}
	if len(o.states) > 0 && !slices.Contains(o.states, string(v.State)) {
		return false
	}
	for _, l := range o.labels {
		k, want, exact := strings.Cut(l, "=")
		have, ok := v.Spec.Labels[k]
		if !ok || exact && have != want {
			return false
		}
	}
	return true
}

// known refuses names that no machine has.
func known(views []machine.View, names []string) error {
	var all []string
	for _, v := range views {
		all = append(all, v.Name)
	}
	for _, n := range names {
		if !slices.Contains(all, n) {
			return notFound(n, all)
		}
	}
	return nil
}

// notFound is the error for a machine that does not exist; it suggests the nearest name.
func notFound(name string, all []string) error {
	remedy := "`mvmctl ls` lists the machines"
	if near := machine.Nearest(name, all); near != "" {
		remedy = fmt.Sprintf("did you mean %q? %s", near, remedy)
	}
	return machine.Errorf("machine.not_found", remedy, "there is no machine %q", name)
}

func (a *app) lsTable(views []machine.View) error {
	t := ui.Table{Header: []string{"NAME", "STATE", "IMAGE", "BACKEND", "ISOLATION", "CPUS", "MEMORY", "PORTS", "AGE"}}
	now := time.Now()
	for _, v := range views {
		r := machineRow(v)
		if v.State.Unreadable() {
			t.Row(r.Name, string(r.State))
			continue
		}
		t.Row(r.Name, stateText(r), r.Image, r.Driver, r.Isolation, strconv.Itoa(r.CPUs), machine.FormatSize(r.Memory), portText(r.Ports), ui.Age(now.Sub(r.Created)))
	}
	if err := t.Print(a.out, a.width()); err != nil {
		return err
	}
	for _, v := range views {
		switch {
		case v.State.Unreadable():
			a.say("note: %s\n", ui.Line(v.Problem))
		case v.State.Live() && v.Problem != "":
			a.say("note: %s: %s\n", ui.Line(v.Name), ui.Line(v.Problem))
		}
	}
	return nil
}

// stateText is the state, with the exit code of a program that failed.
func stateText(r machineJSON) string {
	if r.ExitCode != nil && *r.ExitCode != 0 && !r.State.Live() {
		return fmt.Sprintf("%s (%d)", r.State, *r.ExitCode)
	}
	return string(r.State)
}

// portText lists ports. One that is to be picked at the next start is none now.
func portText(ports []machine.Port) string {
	var out []string
	for _, p := range ports {
		if p.HostPort == 0 {
			continue
		}
		out = append(out, fmt.Sprintf("%s->%d", hostSide(p), p.GuestPort))
	}
	return strings.Join(out, ",")
}
