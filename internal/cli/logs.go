package cli

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

// mainProgram is the source of what the main program itself wrote: it is printed as it is.
const mainProgram = "main"

type logsOptions struct {
	follow, timestamps, json bool
	tail, since, source      string
}

func logSources() []string {
	return []string{string(engine.LogGuest), string(engine.LogConsole), string(engine.LogVMM), string(engine.LogSupervisor)}
}

func (a *app) logsCommand() *cobra.Command {
	var o logsOptions
	cmd := &cobra.Command{
		Use: "logs [flags] NAME", GroupID: groupMachines,
		Short: "Print what a machine's programs wrote",
		Long: `Print what a machine's program and services wrote, oldest first; also of a machine that
has ended. Lines of services and of the guest agent begin with their name. --source
shows the other logs: the kernel's console, the VMM, the supervisor.`,
		Example: `  mvmctl logs web
  mvmctl logs -f -n 20 web
  mvmctl logs --since 10m --timestamps web
  mvmctl logs --source console web
  mvmctl logs --json web | jq -r .text`,
		Args:              oneMachine,
		ValidArgsFunction: a.completeNames(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.logs(cmd, args[0], o) },
	}
	f := cmd.Flags()
	f.BoolVarP(&o.follow, "follow", "f", false, "go on until the machine ends")
	f.StringVarP(&o.tail, "tail", "n", "all", "only the last `N` lines")
	f.StringVar(&o.since, "since", "", "only lines from `TIME` on: a duration such as 10m, or a time such as 2026-01-31T12:00:00Z")
	f.StringVar(&o.source, "source", string(engine.LogGuest), "`LOG` to print: guest, console, vmm or supervisor")
	f.BoolVarP(&o.timestamps, "timestamps", "t", false, "begin each line with its time, where it is known")
	f.BoolVar(&o.json, "json", false, "print JSON Lines")
	_ = cmd.RegisterFlagCompletionFunc("source", cobra.FixedCompletions(logSources(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (a *app) logs(cmd *cobra.Command, name string, o logsOptions) error {
	lo, err := o.read(time.Now())
	if err != nil {
		return err
	}
	eng, err := a.settledEngine()
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	err = eng.Logs(ctx, name, lo, func(l engine.LogLine) error {
		if o.json {
			return ui.JSONLine(a.out, l)
		}
		_, err := a.out.Write([]byte(logText(l, o.timestamps)))
		return err
	})
	if err == nil && ctx.Err() != nil {
		return ctx.Err() // a followed log that was interrupted
	}
	return err
}

func (o logsOptions) read(now time.Time) (engine.LogOptions, error) {
	lo := engine.LogOptions{Source: engine.LogSource(o.source), Follow: o.follow, Tail: -1}
	switch lo.Source {
	case engine.LogGuest, engine.LogConsole, engine.LogVMM, engine.LogSupervisor:
	default:
		return lo, oneOf("input.source", "a log", o.source, logSources())
	}
	if o.tail != "all" {
		n, err := strconv.Atoi(o.tail)
		if err != nil || n < 0 {
			return lo, machine.Usagef("input.tail", "use a number such as --tail 20, or all", "%s is not a number of lines", quoted(o.tail))
		}
		lo.Tail = n
	}
	if o.since != "" {
		if lo.Source != engine.LogGuest {
			return lo, machine.Usagef("usage.flag", "leave out --since: only the guest's log has times", "--since does not go with --source %s", o.source)
		}
		since, err := parseSince(o.since, now)
		if err != nil {
			return lo, err
		}
		lo.Since = since
	}
	return lo, nil
}

// parseSince reads a duration before now, a date, or a time (RFC 3339).
func parseSince(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, machine.Usagef("input.time", "write a duration such as 10m, or a time such as 2026-01-31T12:00:00Z", "%s is not a time", quoted(text))
}

// logText is one line for people. Only the main program's own bytes go out unescaped: they are
// the answer.
func logText(l engine.LogLine, timestamps bool) string {
	var b strings.Builder
	if timestamps && !l.Time.IsZero() {
		b.WriteString(l.Time.UTC().Format("2006-01-02T15:04:05.000Z"))
		b.WriteByte(' ')
	}
	switch l.Source {
	case mainProgram:
		b.WriteString(l.Text)
	case string(engine.LogConsole), string(engine.LogVMM), string(engine.LogSupervisor):
		b.WriteString(ui.Line(l.Text))
	default:
		b.WriteString("[" + ui.Line(l.Source) + "] " + ui.Line(l.Text))
	}
	b.WriteByte('\n')
	return b.String()
}
