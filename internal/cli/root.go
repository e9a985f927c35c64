package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// command is one row of the command table. A command's flags are made only when it was chosen,
// or when the whole tree is asked for (help, completion, a name that does not exist).
type command struct {
	name      string
	aliases   []string
	make      func(*app) *cobra.Command
	onlyReads bool
}

func commands() []command {
	return []command{
		{"up", []string{"run", "start"}, (*app).upCommand, false},
		{"down", []string{"stop"}, (*app).downCommand, false},
		{"ls", []string{"ps", "status", "list"}, (*app).lsCommand, true},
		{"inspect", nil, (*app).inspectCommand, false},
		{"logs", nil, (*app).logsCommand, false},
		{"exec", nil, (*app).execCommand, false},
		{"console", nil, (*app).consoleCommand, false},
		{"cp", nil, (*app).cpCommand, false},
		{"forward", nil, (*app).forwardCommand, false},
		{"diff", nil, (*app).diffCommand, false},
		{"pause", nil, (*app).pauseCommand, false},
		{"resume", []string{"unpause"}, (*app).resumeCommand, false},
		{"wait", nil, (*app).waitCommand, false},
		{"rm", []string{"remove", "delete"}, (*app).rmCommand, false},
		{"reset", nil, (*app).resetCommand, false},
		{"build", nil, (*app).buildCommand, false},
		{"flake", nil, (*app).flakeCommand, false},
		{"template", []string{"templates"}, (*app).templateCommand, false},
		{"commit", nil, (*app).commitCommand, false},
		{"image", []string{"images"}, (*app).imageCommand, false},
		{"kernel", []string{"kernels"}, (*app).kernelCommand, false},
		{"volume", []string{"volumes"}, (*app).volumeCommand, false},
		{"cache", nil, (*app).cacheCommand, false},
		{"doctor", nil, (*app).doctorCommand, false},
		{"config", nil, (*app).configCommand, true},
		{"completion", nil, (*app).completionCommand, true},
		{"version", nil, (*app).versionCommand, true},
		{"supervise", nil, (*app).superviseCommand, false},
	}
}

// onlyReads reports whether args are a command that starts, changes and waits for nothing. A
// signal may end it where it stands, as the operating system does by itself and with the same
// exit code: receiving signals would take as long as the whole command.
func onlyReads(args []string) bool {
	if len(args) == 0 {
		return true // the help page
	}
	for _, c := range commands() {
		if c.name == args[0] || slices.Contains(c.aliases, args[0]) {
			return c.onlyReads
		}
	}
	return false
}

// Groups of the help page.
const (
	groupMachines = "machines"
	groupImages   = "images"
	groupHost     = "host"
)

// execute parses and runs one command line.
func (a *app) execute(ctx context.Context, args []string) error {
	root := a.root(args)
	root.SetArgs(args)
	root.SetContext(ctx)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil {
		return a.usage(cmd, args, err)
	}
	return nil
}

// root builds the tree that args need.
func (a *app) root(args []string) *cobra.Command {
	root := &cobra.Command{
		Use:           "mvmctl",
		Short:         "Build, boot and manage microVMs",
		Long:          rootHelp,
		Example:       rootExamples,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       a.deps.Version.Version,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknownCommand(cmd, args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(a.out)
	root.SetErr(a.io.Err)
	root.SetIn(a.io.In)
	root.SetVersionTemplate("mvmctl {{.Version}}\n")
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommand(helpCommand())
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &flagError{err} })
	root.AddGroup(
		&cobra.Group{ID: groupMachines, Title: "Machines:"},
		&cobra.Group{ID: groupImages, Title: "Images and kernels:"},
		&cobra.Group{ID: groupHost, Title: "This host:"},
	)
	all := commands()
	if len(args) > 0 {
		for _, c := range all {
			if c.name == args[0] || slices.Contains(c.aliases, args[0]) {
				all = []command{c}
				break
			}
		}
	}
	for _, c := range all {
		cmd := c.make(a)
		cmd.Aliases = append(cmd.Aliases, c.aliases...)
		cmd.DisableFlagsInUseLine = true
		root.AddCommand(cmd)
	}
	return root
}

// helpCommand is `mvmctl help COMMAND`; cobra's own takes a name that does not exist for none.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", GroupID: groupHost,
		Short: "Show the help page of a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			at := cmd.Root()
			for _, name := range args {
				next, _, err := at.Find([]string{name})
				if err != nil || next == at {
					return unknownCommand(at, name)
				}
				at = next
			}
			at.InitDefaultHelpFlag()
			return at.Help()
		},
	}
}

// flagError marks what pflag did not like.
type flagError struct{ err error }

func (e *flagError) Error() string { return e.err.Error() }
func (e *flagError) Unwrap() error { return e.err }

// usage turns a mistake on the command line into an error with a remedy.
func (a *app) usage(cmd *cobra.Command, args []string, err error) error {
	if _, ok := errors.AsType[*flagError](err); !ok {
		return err
	}
	// pflag keeps what it met before the flag it did not like: a command that does not exist has no
	// flags to be wrong about.
	if rest := cmd.Flags().Args(); cmd.HasSubCommands() && len(rest) > 0 {
		return unknownCommand(cmd, rest[0])
	}
	page := "`" + cmd.CommandPath() + " --help` lists the flags"
	var unknown *pflag.NotExistError
	var missing *pflag.ValueRequiredError
	var bad *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown):
		name := unknown.GetSpecifiedName()
		flag := "--" + name
		if unknown.GetSpecifiedShortnames() != "" {
			flag = "-" + name
		} else if near := machine.Nearest(name, flagNames(cmd)); near != "" {
			page = fmt.Sprintf("did you mean --%s? %s", near, page)
		}
		if takesCommand(cmd) && !slices.Contains(args, "--") {
			page += "; the guest's own command goes after --"
		}
		return machine.Usagef("usage.flag", page, "%s has no flag %s", cmd.CommandPath(), clip(flag))
	case errors.As(err, &missing):
		return machine.Usagef("usage.flag", page, "the flag %s needs a value", flagText(missing.GetFlag()))
	case errors.As(err, &bad):
		return machine.Usagef("usage.flag", page, "%s is not a value for %s (%s)", quoted(bad.GetValue()), flagText(bad.GetFlag()), bad.GetFlag().Value.Type())
	}
	return machine.Usagef("usage.flag", page, "%w", err)
}

func takesCommand(cmd *cobra.Command) bool { return strings.Contains(cmd.Use, "COMMAND") }

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

func flagText(f *pflag.Flag) string {
	if f == nil {
		return "given"
	}
	return "--" + f.Name
}

func flagNames(cmd *cobra.Command) []string {
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	return names
}

// unknownCommand is the error for a command that parent does not have.
func unknownCommand(parent *cobra.Command, name string) error {
	var names []string
	for _, c := range parent.Commands() {
		if !c.Hidden {
			names = append(append(names, c.Name()), c.Aliases...)
		}
	}
	remedy := "`" + parent.CommandPath() + " --help` lists the commands"
	if near := machine.Nearest(name, names); near != "" {
		remedy = fmt.Sprintf("did you mean `%s %s`? %s", parent.CommandPath(), near, remedy)
	}
	return machine.Usagef("usage.command", remedy, "%s has no command %s", parent.CommandPath(), quoted(name))
}

// family is a command that only holds others.
func (a *app) family(cmd *cobra.Command, members ...*cobra.Command) *cobra.Command {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return unknownCommand(cmd, args[0])
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	for _, m := range members {
		m.DisableFlagsInUseLine = true
		cmd.AddCommand(m)
	}
	return cmd
}

// exactly, atLeast and noArgs say how many arguments a command takes, and name what is missing.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return machine.Usagef("usage.args", "usage: "+cmd.UseLine(), "%s is missing", names[len(args)])
		}
		return tooMany(cmd, args, len(names))
	}
}

func tooMany(cmd *cobra.Command, args []string, most int) error {
	if len(args) > most {
		return machine.Usagef("usage.args", "usage: "+cmd.UseLine(), "%s is one argument too many", quoted(args[most]))
	}
	return nil
}

func noArgs(cmd *cobra.Command, args []string) error { return tooMany(cmd, args, 0) }

// checkNames refuses what cannot be a machine's name before any lock or file is touched.
func checkNames(names []string) error {
	for _, n := range names {
		if err := machine.CheckName(n); err != nil {
			return err
		}
	}
	return nil
}

// oneMachine is the argument check of a command about one machine.
func oneMachine(cmd *cobra.Command, args []string) error {
	if err := exactly("NAME")(cmd, args); err != nil {
		return err
	}
	return checkNames(args)
}

const rootHelp = `mvmctl builds, boots and manages microVMs, without a daemon.

Answers go to standard output, everything else to standard error. Exit codes: the
guest command's own; 125 mvmctl failed, 126 command not executable, 127 command not
found, 124 a --timeout ran out, 2 wrong usage or settings, 130 Ctrl-C (128+N for
signal N), after cleaning up.

Settings: a flag wins over its MVM_* variable, that over mvm.toml in the working
directory, that over the user's config.toml, that over the default. "mvmctl config
show" says what applies and why. Variables: MVM_CPUS, MVM_MEMORY, MVM_DISK,
MVM_HYPERVISOR, MVM_KERNEL, MVM_REQUIRE_ISOLATION, MVM_TIMEOUT, MVM_PROGRESS; and,
for where files are, MVM_CACHE_DIR, MVM_CONFIG_DIR, MVM_STATE_DIR, MVM_DATA_DIR,
MVM_RUNTIME_DIR.`

const rootExamples = `  mvmctl run minimal -- echo hello          run one command in a fresh machine
  mvmctl up minimal --name web -d -p 8080:80
  mvmctl exec web -- uname -a
  mvmctl logs -f web
  mvmctl down web && mvmctl rm web`
