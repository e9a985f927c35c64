package cli

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

// detailJSON is one machine as inspect --json prints it: the fields of ls, and more.
type detailJSON struct {
	machineJSON
	Spec     machine.Spec      `json:"spec"`
	ImageID  string            `json:"image_id,omitempty"`
	KernelID string            `json:"kernel_id,omitempty"`
	DiskUsed int64             `json:"disk_used_bytes"`
	Dir      string            `json:"dir"`
	Phases   []machine.Phase   `json:"phases,omitempty"`
	Status   *machine.Status   `json:"status,omitempty"`
	Agent    any               `json:"agent,omitempty"`
	Lacks    []string          `json:"lacks,omitempty"` // what a machine of microvm.nix does not have
	Boot     *machine.Boot     `json:"boot,omitempty"`
	Files    map[string]string `json:"files,omitempty"`
	Host     *engine.Memory    `json:"host_memory,omitempty"`
}

func (a *app) inspectCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "inspect [flags] NAME", GroupID: groupMachines,
		Short:             "Show everything about one machine",
		Long:              "Show everything about one machine: what was asked for, what it does now, where its files are.",
		Example:           "  mvmctl inspect web\n  mvmctl inspect web --json | jq .status.vmm.pid",
		Args:              oneMachine,
		ValidArgsFunction: a.completeNames(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			eng, err := a.settledEngine()
			if err != nil {
				return err
			}
			d, err := eng.Inspect(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return ui.JSON(a.out, detailOf(d))
			}
			return a.printDetail(d)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return cmd
}

func detailOf(d engine.Detail) detailJSON {
	out := detailJSON{
		machineJSON: machineRow(d.View), Spec: d.Spec, ImageID: d.ImageID, KernelID: d.KernelID, DiskUsed: d.DiskUsed, Dir: d.Dir,
		Phases: d.Phases, Status: d.Status, Boot: d.Boot, Files: d.Files, Host: d.Memory,
	}
	out.Lacks = lacks(d)
	if d.Agent != nil {
		out.Agent = d.Agent
	}
	return out
}

// lacks lists what a machine cannot do that others can.
func lacks(d engine.Detail) []string {
	if d.Spec.Runner == "" {
		return nil
	}
	out := machine.OfRunner()
	if d.Status != nil && d.Status.NoAgent {
		out = append(out, machine.WithoutAgent()...)
	}
	return out
}

// printDetail prints the facts as "key: value" lines; what is not known is left out.
func (a *app) printDetail(d engine.Detail) error {
	r := machineRow(d.View)
	l := &facts{}
	l.add("Name", r.Name)
	l.add("ID", r.ID)
	l.add("State", stateText(r))
	l.add("Problem", r.Problem)
	l.add("Image", strings.TrimSpace(r.Image+"  "+d.ImageID))
	l.add("Command", strings.Join(quoteWords(d.Spec.Command), " "))
	l.add("Backend", r.Driver)
	l.add("Isolation", r.Isolation)
	l.add("Runner", d.Spec.Runner)
	l.add("Lacks", strings.Join(lacks(d), ", "))
	l.add("Kernel", d.KernelID)
	l.add("CPUs", strconv.Itoa(r.CPUs))
	l.add("Memory", machine.FormatSize(r.Memory))
	l.add("Disk", fmt.Sprintf("%s, %s used", machine.FormatSize(r.Disk), machine.FormatSize(d.DiskUsed)))
	l.add("Ports", portText(r.Ports))
	for _, k := range slices.Sorted(maps.Keys(r.Labels)) {
		l.add("Label", k+"="+r.Labels[k])
	}
	l.time("Created", r.Created)
	l.time("Started", r.Started)
	l.time("Finished", r.Finished)
	if s := d.Status; s != nil && r.State.Live() {
		l.pid("Supervisor", s.Supervisor.Pid, d.Memory, func(m *engine.Memory) int64 { return m.Supervisor })
		l.pid("VMM", s.VMM.Pid, d.Memory, func(m *engine.Memory) int64 { return m.VMM })
	}
	if g := d.Agent; g != nil {
		l.add("Guest", fmt.Sprintf("%s, kernel %s, up %s", g.Phase, g.Kernel, time.Duration(g.Uptime).Round(time.Second)))
		l.add("Guest memory", fmt.Sprintf("%s of %s available", machine.FormatSize(int64(g.Memory.Available)), machine.FormatSize(int64(g.Memory.Total))))
		for _, s := range g.Services {
			l.add("Service", serviceText(s))
		}
		for _, c := range g.Checks {
			l.add("Check", c.Name+"  "+c.State)
		}
	}
	l.add("Folder", d.Dir)
	for _, k := range slices.Sorted(maps.Keys(d.Files)) {
		l.add(strings.ReplaceAll(k, "_", " "), d.Files[k])
	}
	for _, p := range d.Phases {
		l.add("Phase", p.Name+"  "+ui.Took(p.Duration))
	}
	_, err := a.out.Write([]byte(l.b.String()))
	return err
}

// serviceText is a service's state, and what became of it before: one that fails once a second
// is running nearly always when somebody looks.
func serviceText(s agentproto.ServiceStatus) string {
	text := s.Name + "  " + s.State
	if s.Restarts > 0 {
		text += fmt.Sprintf(", restarted %d times, last exit code %d", s.Restarts, s.ExitCode)
	}
	if s.Message != "" {
		text += "  " + s.Message
	}
	return text
}

// facts collects aligned lines.
type facts struct{ b strings.Builder }

func (f *facts) add(key, value string) {
	if value != "" {
		fmt.Fprintf(&f.b, "%-16s%s\n", ui.Line(key)+":", ui.Line(value))
	}
}

func (f *facts) time(key string, t time.Time) {
	if !t.IsZero() {
		f.add(key, t.Local().Format(time.RFC3339))
	}
}

func (f *facts) pid(key string, pid int, m *engine.Memory, of func(*engine.Memory) int64) {
	if pid == 0 {
		return
	}
	text := "pid " + strconv.Itoa(pid)
	if m != nil && of(m) > 0 {
		text += ", " + machine.FormatSize(of(m)) + " of host memory"
	}
	f.add(key, text)
}

// quoteWords makes command words that a shell would read as the same words.
func quoteWords(words []string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = w
		if w == "" || strings.ContainsAny(w, " \t\n'\"\\$`*?[](){}<>|&;#~!") {
			out[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return out
}
