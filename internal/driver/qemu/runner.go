package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// RunnerName is the name of the backend for the runners of microvm.nix.
const RunnerName = machine.RunnerDriver

// argsVariable is the variable in which a runner finds the arguments that connect its QEMU with
// mvmctl. A runner that names it has our agent in its guest; any other one is left as it is.
const argsVariable = "MVM_QEMU_ARGS"

// Runner is a driver.Driver for machines that bring their own command line: the runner packages of
// microvm.nix. What is known of such a machine is what its runner says; nothing is proved.
type Runner struct{ log *slog.Logger }

var (
	_ driver.Driver        = (*Runner)(nil)
	_ driver.RunnerStarter = (*Runner)(nil)
)

// NewRunner returns a driver. It touches nothing.
func NewRunner(log *slog.Logger) *Runner {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Runner{log: log}
}

// Name implements driver.Driver.
func (d *Runner) Name() string { return RunnerName }

// Means implements driver.RunnerStarter: a runner is a QEMU's command line.
func (d *Runner) Means(name string) bool { return name == d.Name() || name == New(Options{}).Name() }

// Probe implements driver.Driver. Which VMM is used, and whether with hardware virtualisation, each
// runner decides for itself, so the level is the lowest that a machine can have.
func (d *Runner) Probe(context.Context) (driver.Capabilities, error) {
	if runtime.GOOS != "linux" {
		return driver.Capabilities{}, driver.Unavailable("backend.platform", "use a machine with Linux", "runners of microvm.nix are run on Linux only")
	}
	return driver.Capabilities{
		Isolation: driver.IsolationEmulated, EmulatedSlow: true, Transport: transportSerial,
		Lacks: []driver.Feature{driver.FeatureVolumes, driver.FeatureInit},
	}, nil
}

// Start implements driver.Driver.
func (d *Runner) Start(ctx context.Context, b machine.Boot, out driver.Output) (driver.VM, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p, err := readRunner(b.Runner)
	if err != nil {
		return nil, err
	}
	v, err := p.launch(ctx, b, out, d.log)
	if err != nil {
		return nil, inFlake(err) // not v: a nil pointer in an interface is not nil
	}
	return v, nil
}

// inFlake gives an error about a machine's settings the remedy that helps a machine whose settings its
// flake says, and names the program that was started.
func inFlake(err error) error {
	e, ok := errors.AsType[*machine.Error](err)
	if !ok {
		return err
	}
	remedies := map[string]string{
		"limit.memory":        "set a smaller microvm.mem in the flake, or stop other machines",
		"disk.busy":           "stop what else uses the volumes of the flake (microvm.volumes)",
		"boot.kernel_invalid": "look at the kernel that the flake chooses: boot.kernelPackages, microvm.kernel",
		"boot.vmm_timeout":    "give it longer with --timeout; if that does not help, the runner does not give its QEMU the words of " + argsVariable + ": docs/nix.md",
		"guest.reset":         "look at the console log, and at the kernel that the flake chooses",
	}
	out := *e
	if r := remedies[e.Code]; r != "" {
		out.Remedy = r
	}
	if e.Code == "guest.panic" {
		out.Remedy = strings.Replace(e.Remedy, "--memory", "memory, microvm.mem in the flake", 1)
	}
	if rest, ok := strings.CutPrefix(e.Message, "QEMU "); ok && e.Code != "backend.missing" {
		out.Message = "the runner's QEMU " + rest
		if e.Code == "boot.vmm_died" {
			out.Message = "the runner " + rest // it may not have come to its QEMU
		}
	}
	return &out
}

// makeWork makes the folder of a machine that its runner runs in: its volumes and sockets have names
// relative to that, so the path's length does not matter to them. It comes without the sockets of an earlier run. first says
// that there was none.
func makeWork(dir string) (work string, first bool, err error) {
	work = filepath.Join(dir, machine.RunnerDir)
	err = os.Mkdir(work, 0o700)
	if err == nil {
		return work, true, nil
	}
	if !errors.Is(err, os.ErrExist) {
		return "", false, fmt.Errorf("making the machine's working folder: %w", err)
	}
	if info, err := os.Lstat(work); err != nil || !info.IsDir() {
		return "", false, vmm.Changed(work, "it is not a folder")
	}
	entries, err := os.ReadDir(work)
	if err != nil {
		return "", false, err
	}
	for _, e := range entries {
		if e.Type()&os.ModeSocket != 0 {
			_ = os.Remove(filepath.Join(work, e.Name())) // what cannot be removed its owner complains about
		}
	}
	return work, false, nil
}

// launch starts a runner. On error nothing of it is left.
func (p runnerPackage) launch(ctx context.Context, b machine.Boot, out driver.Output, log *slog.Logger) (_ *runnerVM, err error) {
	work, first, err := makeWork(b.Dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && first {
			_ = os.RemoveAll(work)
		}
	}()
	v := &runnerVM{vm: newVM(out, log), runner: p, work: work, name: b.Name}
	v.group, v.unmonitored = true, !p.takesArgs
	var inherit files
	defer inherit.close() // the child has its own by then
	cmd, err := v.prepareRunner(b, &inherit)
	if err != nil {
		v.release()
		return nil, err
	}
	v.child, err = cmd.Start()
	_ = cmd.Stdout.Close()
	if err != nil {
		v.release()
		return nil, err
	}
	_ = v.outputChild.Close() // or its reader would never see the end
	inherit.close()
	v.run()
	if v.unmonitored {
		return v, nil
	}
	// Before it becomes a QEMU the runner makes what volumes are missing.
	ctx, cancel := context.WithTimeout(ctx, max(readyTimeout, b.Timeout))
	defer cancel()
	q, err := openQMP(ctx, v.qmpConn, v.event)
	if err != nil {
		return nil, v.failedStart(ctx, b, err)
	}
	v.setQMP(q)
	return v, nil
}

// prepareRunner opens what the runner is to inherit. Its serial console is its standard output.
func (v *runnerVM) prepareRunner(b machine.Boot, inherit *files) (vmm.Command, error) {
	cmd := vmm.Command{
		Name: "the runner", Argv: []string{v.runner.program("microvm-run")}, Dir: v.work,
		Remedy: rebuild, Began: v.out.Began,
	}
	var words []string
	if v.runner.takesArgs {
		var err error
		if words, err = v.arguments(b, inherit); err != nil {
			return cmd, err
		}
	}
	ours, theirs, err := pair()
	if err != nil {
		return cmd, err
	}
	v.consoleConn, cmd.Stdout = ours, theirs
	if v.output, v.outputChild, err = os.Pipe(); err != nil {
		_ = theirs.Close()
		return cmd, err
	}
	cmd.Stderr, cmd.Inherit = v.outputChild, inherit.list
	cmd.Env = v.environment(words)
	return cmd, nil
}

// environment is the whole environment of the runner's programs.
func (v *runnerVM) environment(words []string) []string {
	env := append(vmm.CleanEnv(), "HOME="+v.work, "MVM_MACHINE="+v.name)
	if v.runner.takesArgs {
		env = append(env, argsVariable+"="+strings.Join(words, " "))
	}
	return env
}

// arguments are the words for a runner's QEMU that bring it a monitor, the channel and the
// machine's drives, all by descriptor. The runner's shell splits them at spaces, of which they
// have none.
func (v *runnerVM) arguments(b machine.Boot, inherit *files) ([]string, error) {
	ours, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	v.qmpConn = ours
	h := host{flavor: flavorQ35, transport: transportSerial}
	if v.runner.mmio {
		h.flavor = flavorMicroVM
	}
	f := fds{qmp: inherit.add(theirs)}
	args := append(monitor(f), channel(h, f)...)
	for i, d := range b.Disks {
		file, err := vmm.OpenDisk(d)
		if err != nil {
			return nil, err
		}
		more, err := diskArgs(h, d, i, inherit.add(file))
		if err != nil {
			return nil, err
		}
		args = append(args, more...)
		v.ills.roles = append(v.ills.roles, d.Role)
	}
	return args, nil
}
