package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/mvmctl/mvmctl/internal/config"
	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/ui"
)

type upOptions struct {
	project        config.Project // what the project's file says, if that is what is started
	name           string
	publish        []string
	volumes        []string
	env            envFlags
	workdir, user  string
	init           string
	labels         []string
	detach, remove bool
	dev, sealed    bool
	tty            ttyFlags
	timings, json  bool
	watch          bool
	recreate       bool
	calledAs       string
	source         string // what to run: the one argument before --
	from           source // or what to make it from
	services       []machine.Service
	checks         []machine.Check
	command        []string // after --
}

func (a *app) upCommand() *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use:     "up [flags] IMAGE [-- COMMAND [ARG...]]",
		GroupID: groupMachines,
		Short:   "Start a machine",
		Long: `Start a machine from an image and run COMMAND in it, or what the image runs.

In the foreground the command's output is all there is on standard output, its exit
code is mvmctl's, and Ctrl-C stops the machine. A machine without --name is then
removed when it ends; a named one stays and can be started again:

  mvmctl up --name NAME      start a stopped machine as it was; flags change it
  mvmctl start NAME          the same

With -d the machine goes on in the background and its name is printed, alone.
Starting a machine that runs already as asked is no error.`,
		Example: `  mvmctl run minimal -- echo hello
  mvmctl up minimal --name web -d --cpus 2 -m 1G -p 8080:80
  ID=$(mvmctl up -d minimal)
  mvmctl up minimal -e KEY=value --env-file settings.env -- env
  mvmctl up minimal --require-isolation vm -- ./untrusted`,
		Args: func(cmd *cobra.Command, args []string) error { return o.split(cmd, args) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.calledAs = cmd.CalledAs()
			return a.up(cmd, o)
		},
		ValidArgsFunction: a.completeImages,
	}
	o.flags(cmd)
	_ = cmd.RegisterFlagCompletionFunc("hypervisor", a.completeBackends)
	return cmd
}

func (o *upOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "", "`NAME` of the machine (default: a pleasant one is made up)")
	f.String("cpus", "", "virtual CPUs, a `NUMBER` (default 1)")
	f.StringP("memory", "m", "", "memory, a `SIZE` such as 512M or 2G (default 512M)")
	f.String("disk", "", "`SIZE` of the machine's own disk, sparse (default 8G)")
	f.StringArrayVarP(&o.publish, "publish", "p", nil, "publish a `PORT`: [ADDRESS:]HOSTPORT:GUESTPORT, or GUESTPORT for the same on both sides; binds 127.0.0.1 unless an address is given; host port 0 picks one")
	o.from.register(f)
	f.StringArrayVarP(&o.volumes, "volume", "v", nil, "attach a `VOLUME`: NAME:/PATH[:ro,size=SIZE] keeps its data; ./FOLDER:/PATH copies a folder or file in at each start, read-only; add :secret to show it from the guest's memory and keep no copy once the machine is up")
	o.env.register(f)
	f.StringVarP(&o.workdir, "workdir", "w", "", "`DIRECTORY` in which COMMAND starts")
	f.StringVarP(&o.user, "user", "u", "", "`USER` of COMMAND: a name or uid[:gid]")
	f.StringVar(&o.init, "init", "", "boot the image's own init in place of a command: image, or the `PATH` of one in the guest")
	f.BoolVar(&o.recreate, "recreate", false, "delete the machine of that name first, with all that it wrote outside of volumes")
	f.BoolVarP(&o.detach, "detach", "d", false, "go on in the background and print the name")
	f.BoolVar(&o.watch, "watch", false, "with --flake or --rootfs: start a new machine each time that the source changes, until Ctrl-C; implies --rm")
	f.BoolVar(&o.remove, "rm", false, "remove the machine when it ends")
	f.StringArrayVarP(&o.labels, "label", "l", nil, "`KEY=VALUE` to remember with the machine")
	f.String("hypervisor", "", "use the backend `NAME` and no other; see doctor (default: the best that works)")
	f.String("require-isolation", "", "refuse a backend that isolates less than `LEVEL`: emulated, container, vm or vm+jail")
	f.String("kernel", "", "guest `KERNEL`: a path, a release or an id (default: the newest)")
	f.BoolVar(&o.dev, "dev", false, "allow console, exec, copy and forward (the default)")
	f.BoolVar(&o.sealed, "sealed", false, "refuse console, exec, copy and forward into the guest")
	f.String("timeout", "", "`DURATION` it may take to become ready (default 2m)")
	o.tty.register(f)
	f.BoolVar(&o.timings, "timings", false, "print what took how long, on standard error")
	f.String("progress", "", "progress on standard error, a `MODE`: auto, plain or none (default auto)")
	f.BoolVar(&o.json, "json", false, "with -d: print the result as JSON; errors are JSON too")
	_ = cmd.RegisterFlagCompletionFunc("require-isolation", cobra.FixedCompletions(isolationLevels(), cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("init", cobra.FixedCompletions([]string{machine.InitImage}, cobra.ShellCompDirectiveDefault))
	_ = cmd.RegisterFlagCompletionFunc("progress", cobra.FixedCompletions([]string{"auto", "plain", "none"}, cobra.ShellCompDirectiveNoFileComp))
}

// split tells what to run from the guest command.
func (o *upOptions) split(cmd *cobra.Command, args []string) error {
	before := args
	if cmd.Flags().Changed("name") {
		if err := machine.CheckName(o.name); err != nil { // also an empty one
			return err
		}
	}
	if dash := cmd.ArgsLenAtDash(); dash >= 0 {
		before, o.command = args[:dash], args[dash:]
		if len(o.command) == 0 {
			return machine.Usagef("usage.args", "write the guest command after --, or leave -- out", "there is nothing after --")
		}
	}
	switch {
	case len(before) > 1:
		return machine.Usagef("usage.args", fmt.Sprintf("write `--` before the guest command: mvmctl %s %s -- %s", cmd.CalledAs(), before[0], clip(strings.Join(before[1:], " "))),
			"%s is one argument too many", quoted(before[1]))
	case len(before) == 1:
		o.source = before[0]
	}
	if err := o.from.check(o.source); err != nil {
		return err
	}
	if o.source == "" && len(before) == 1 {
		return machine.Usagef("usage.args", "`mvmctl image list` shows the images", "the image's name is empty")
	}
	if o.dev && o.sealed {
		return machine.Usagef("usage.flag", "leave one of them out", "--dev and --sealed exclude each other")
	}
	if o.watch && o.detach {
		return machine.Usagef("usage.flag", "leave one of them out", "--watch stays in the foreground, so -d makes no sense with it")
	}
	if o.recreate && o.watch {
		return machine.Usagef("usage.flag", "leave one of them out", "--watch makes the machine anew by itself, so --recreate makes no sense with it")
	}
	if o.json && !o.detach {
		return machine.Usagef("usage.flag", "add -d, or leave out --json", "--json needs -d: in the foreground standard output is the guest's")
	}
	return nil
}

func (a *app) up(cmd *cobra.Command, o upOptions) error {
	ctx := cmd.Context()
	cfg, err := a.settingsOf(cmd)
	if err != nil {
		return err
	}
	spec, err := specOf(cfg)
	if err != nil {
		return err
	}
	eng, err := a.engine(cfg)
	if err != nil {
		return err
	}
	if o.name == "" || !slices.Contains(eng.Names(ctx), o.name) {
		is, err := a.fromProject(&o)
		if err == nil && is {
			err = a.nameProject(&o)
		}
		if err == nil {
			err = a.checkEnvFiles(o.project)
		}
		if err != nil {
			return err
		}
	}
	if o.source == "" && !o.from.given() && o.name == "" {
		return machine.Usagef("usage.args", "usage: "+cmd.UseLine()+"; `mvmctl image list` shows the images", "IMAGE is missing, and there is no "+projectFile+" here that says it")
	}
	if o.recreate && o.source == "" && !o.from.given() {
		return machine.Usagef("usage.flag", "name the image too", "--recreate starts a machine anew, and nothing says from what")
	}
	if err := a.fill(&spec, o); err != nil {
		return err
	}
	if err := resolve(ctx, eng, &spec, o); err != nil {
		return err
	}
	if o.watch {
		return a.upWatching(ctx, cfg, eng, spec, o.from)
	}
	progress := a.newProgress(cfg)
	defer progress.Stop()
	if err := keepAsItWas(ctx, eng, cfg, &spec, o.from.given(), o.recreate); err != nil {
		return err
	}
	if err := a.imageFor(ctx, &spec, provision{cfg, eng, o.from, progress}); err != nil {
		return err
	}
	if o.recreate && slices.Contains(eng.Names(ctx), spec.Name) {
		if err := eng.Remove(ctx, spec.Name, true); err != nil {
			return err
		}
	}
	res, err := a.start(ctx, eng, spec, o, progress)
	if o.timings && len(res.Phases) > 0 {
		a.printPhases(res.Phases)
	}
	if err != nil {
		return a.placed(o.project, err)
	}
	switch {
	case o.detach && o.json:
		return ui.JSON(a.out, res)
	case o.detach:
		_, err := fmt.Fprintln(a.out, res.Name)
		return err
	}
	return guestExit(res.ExitCode)
}

// start starts a machine, and in the foreground lends it the caller's terminal until it ends.
func (a *app) start(ctx context.Context, eng Engine, spec machine.Spec, o upOptions, progress *ui.Progress) (engine.UpResult, error) {
	s := a.newSession(spec.TTY, false)
	defer s.end()
	streams := s.streams()
	// An init has its terminal for good and need not heed any key, so one is ours.
	keys := &detachReader{r: streams.Stdin, leave: func() { a.cancel(&interrupted{syscall.SIGINT}) }}
	keys.off.Store(true)
	if spec.TTY && a.terminal(a.io.In) {
		streams.Stdin = keys
	}
	return eng.Up(ctx, spec, engine.UpOptions{
		Detach: o.detach, Unseal: o.dev, Streams: streams, Progress: newSteps(progress).report,
		Notice: func(text string) { progress.Print("mvmctl: " + text) },
		Started: func(r engine.UpResult) {
			progress.Stop()
			a.announce(r, o)
			if !r.Attached {
				return
			}
			if r.Init && streams.Stdin == io.Reader(keys) {
				a.say("mvmctl: the console of the image's init; Ctrl-] stops the machine\n")
				keys.off.Store(false)
			}
			s.begin()
		},
	})
}

// fill puts into the Spec what is not a setting.
func (a *app) fill(spec *machine.Spec, o upOptions) error {
	var err error
	spec.Name, spec.Image = o.name, o.source
	spec.Command, spec.Dir, spec.User, spec.Init = o.command, o.workdir, o.user, o.init
	spec.Services, spec.Checks = o.services, o.checks
	spec.Sealed = o.sealed
	spec.Ephemeral = o.remove || o.name == "" && !o.detach
	if spec.TTY, err = a.wantTTY(o.tty); err != nil {
		return err
	}
	spec.TTY = spec.TTY && !o.detach
	spec.Attach = !o.detach // where there is a program
	if spec.Ports, err = parsePorts(o.publish); err != nil {
		return err
	}
	if spec.Volumes, err = a.parseVolumes(o.volumes); err != nil {
		return err
	}
	if spec.Labels, err = parseLabels(o.labels); err != nil {
		return err
	}
	if spec.Env, err = o.env.read(a); err != nil {
		return err
	}
	return spec.Check()
}

// resolve finds out whether the argument means a machine: `start NAME` does unless only an
// image has that name, `up NAME` does where a machine has that name and no image, `run` never.
func resolve(ctx context.Context, eng Engine, spec *machine.Spec, o upOptions) error {
	exists := slices.Contains(eng.Names(ctx), o.source)
	if starts := o.calledAs == "start"; o.name == "" && o.calledAs != "run" && (exists || starts) {
		isImage := false
		if !exists || !starts {
			images, err := eng.Images(ctx)
			if err != nil {
				return err
			}
			isImage = slices.ContainsFunc(images, func(i engine.ImageInfo) bool { return slices.Contains(i.Names, o.source) })
		}
		if !isImage && machine.CheckName(o.source) == nil {
			spec.Name, spec.Image, spec.Ephemeral = o.source, "", o.remove
		}
	}
	return nil
}

// keepAsItWas leaves of the settings what applies to a machine that exists: the command line's,
// and what is asked of the host. Files and variables otherwise speak of new machines.
func keepAsItWas(ctx context.Context, eng Engine, cfg config.Config, spec *machine.Spec, made, recreate bool) error {
	said, err := specOf(cfg.Only(func(name string, v config.Value) bool {
		return v.Source == config.SourceFlag || name == "require_isolation" || name == "timeout"
	}))
	if err != nil {
		return err
	}
	switch {
	case spec.Image == "" && !made:
		spec.CPUs, spec.Memory, spec.Disk, spec.Driver, spec.Kernel = said.CPUs, said.Memory, said.Disk, said.Driver, said.Kernel
	case spec.Disk != said.Disk && !recreate && slices.Contains(eng.Names(ctx), spec.Name):
		spec.Disk = said.Disk // its disk has its size
	}
	return nil
}

// announce says on standard error what standard output has no place for: the ports that were
// picked, and why no better backend is used.
func (a *app) announce(r engine.UpResult, o upOptions) {
	if a.json {
		return
	}
	if r.Already {
		a.say("mvmctl: machine %q is running already\n", ui.Line(r.Name))
	}
	for _, p := range r.Ports {
		a.say("%s -> %d\n", hostSide(p), p.GuestPort)
	}
	if o.timings || a.terminal(a.io.Err) {
		if len(r.Notes) > 0 {
			a.say("note: it runs on %s, isolation %s\n", ui.Line(r.Driver), ui.Line(r.Isolation))
		}
		for _, n := range r.Notes {
			a.say("note: %s\n", ui.Line(n))
		}
	}
}

func (a *app) printPhases(phases []machine.Phase) {
	t := ui.Table{Header: []string{"PHASE", "TOOK"}}
	for _, p := range phases {
		t.Row(p.Name, ui.Took(p.Duration))
	}
	_ = t.Print(a.io.Err, 0) // standard error: nowhere to report a failure
}

// steps turns the engine's progress into the display's.
type steps struct{ p *ui.Progress }

func newSteps(p *ui.Progress) *steps { return &steps{p} }

func (s *steps) report(g engine.Progress) {
	if g.Done {
		s.p.Done(g.Step)
		return
	}
	s.p.Step(g.Step)
	if g.Total > 0 {
		s.p.Bytes(g.Current, g.Total)
	}
}

func parseLabels(entries []string) (map[string]string, error) {
	labels := make(map[string]string, len(entries))
	for _, e := range entries {
		k, v, _ := strings.Cut(e, "=")
		if k == "" {
			return nil, machine.Usagef("input.label", "write KEY=VALUE, for example --label team=web", "%s is not a label", quoted(e))
		}
		labels[k] = v
	}
	return labels, nil
}
