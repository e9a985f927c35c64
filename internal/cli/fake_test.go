package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/config"
	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// scripted is an engine that does what a test says and remembers what it was asked. A call
// that the test did not script fails the test's command.
type scripted struct {
	Engine // what no test scripts panics

	views       []machine.View
	images      []engine.ImageInfo
	kernels     []engine.KernelInfo
	built       []engine.KernelBuild
	kernelBuilt engine.KernelBuilt
	detail      engine.Detail
	lines       []engine.LogLine
	changes     []agentproto.Change
	ports       []machine.Port
	waits       map[string]machine.Status

	up      func(context.Context, machine.Spec, engine.UpOptions) (engine.UpResult, error)
	exec    func(context.Context, string, engine.ExecOptions) (engine.ExecResult, error)
	console func(context.Context, string, engine.ExecOptions) (engine.ExecResult, error)
	down    func(context.Context, string, engine.DownOptions) error
	remove  func(context.Context, string, bool) error
	pausing func(what string) error // "pause NAME" or "resume NAME"
	copying func(context.Context, string, string, engine.CopyOptions) (engine.CopyResult, error)
	forward func(context.Context, string, []machine.Port) ([]machine.Port, error)
	wait    func(context.Context, string) (machine.Status, error)

	unforwarded []machine.Port
	logOptions  engine.LogOptions
	backends    []engine.Backend
}

var errUnscripted = errors.New("the test did not script this call")

// Image knows every image.
func (s *scripted) Image(context.Context, string) (engine.ImageDetail, error) {
	return engine.ImageDetail{}, nil
}

func (s *scripted) Up(ctx context.Context, spec machine.Spec, o engine.UpOptions) (engine.UpResult, error) {
	if s.up == nil {
		return engine.UpResult{}, errUnscripted
	}
	return s.up(ctx, spec, o)
}

func (s *scripted) Down(ctx context.Context, name string, o engine.DownOptions) error {
	if s.down == nil {
		return errUnscripted
	}
	return s.down(ctx, name, o)
}

func (s *scripted) Remove(ctx context.Context, name string, force bool) error {
	if s.remove == nil {
		return errUnscripted
	}
	return s.remove(ctx, name, force)
}

func (s *scripted) Wait(ctx context.Context, name string) (machine.Status, error) {
	if s.wait != nil {
		return s.wait(ctx, name)
	}
	st, ok := s.waits[name]
	if !ok {
		return machine.Status{}, errUnscripted
	}
	return st, nil
}

func (s *scripted) List(context.Context) ([]machine.View, error) { return s.views, nil }

func (s *scripted) Names(context.Context) []string {
	var names []string
	for _, v := range s.views {
		names = append(names, v.Name)
	}
	return names
}

func (s *scripted) Inspect(context.Context, string) (engine.Detail, error) { return s.detail, nil }

func (s *scripted) Logs(_ context.Context, _ string, o engine.LogOptions, emit func(engine.LogLine) error) error {
	s.logOptions = o
	for _, l := range s.lines {
		if err := emit(l); err != nil {
			return err
		}
	}
	return nil
}

func (s *scripted) Exec(ctx context.Context, name string, o engine.ExecOptions) (engine.ExecResult, error) {
	if s.exec == nil {
		return engine.ExecResult{}, errUnscripted
	}
	return s.exec(ctx, name, o)
}

func (s *scripted) Console(ctx context.Context, name string, o engine.ExecOptions) (engine.ExecResult, error) {
	if s.console == nil {
		return engine.ExecResult{}, errUnscripted
	}
	return s.console(ctx, name, o)
}

func (s *scripted) Copy(ctx context.Context, src, dst string, o engine.CopyOptions) (engine.CopyResult, error) {
	if s.copying == nil {
		return engine.CopyResult{}, errUnscripted
	}
	return s.copying(ctx, src, dst, o)
}

func (s *scripted) Diff(_ context.Context, _ string, emit func(agentproto.Change) error) error {
	for _, c := range s.changes {
		if err := emit(c); err != nil {
			return err
		}
	}
	return nil
}

func (s *scripted) Forward(ctx context.Context, name string, ports []machine.Port) ([]machine.Port, error) {
	if s.forward == nil {
		return nil, errUnscripted
	}
	return s.forward(ctx, name, ports)
}

func (s *scripted) Forwards(context.Context, string) ([]machine.Port, error) { return s.ports, nil }

func (s *scripted) Unforward(_ context.Context, _ string, p machine.Port) error {
	s.unforwarded = append(s.unforwarded, p)
	return nil
}

func (s *scripted) Kernels(context.Context) ([]engine.KernelInfo, error) { return s.kernels, nil }

func (s *scripted) FetchKernel(context.Context, func(engine.Progress)) (engine.KernelInfo, error) {
	return engine.KernelInfo{Release: "6.1.0-test"}, nil
}

func (s *scripted) BuildKernel(_ context.Context, want engine.KernelBuild) (engine.KernelBuilt, error) {
	s.built = append(s.built, want)
	return s.kernelBuilt, nil
}

func (s *scripted) Images(context.Context) ([]engine.ImageInfo, error) { return s.images, nil }

func (s *scripted) InstallBackend(context.Context, string) error { return nil }

func (s *scripted) Pause(_ context.Context, name string) error { return s.pausing("pause " + name) }

func (s *scripted) Resume(_ context.Context, name string) error { return s.pausing("resume " + name) }

func (s *scripted) BackendName(said string) string { return said }
func (s *scripted) StartsRunners(name string) bool { return name == "runs" }

func (s *scripted) Backends(context.Context) []engine.Backend { return s.backends }

func (s *scripted) BackendNames() []string {
	var out []string
	for _, b := range s.backends {
		out = append(out, b.Name)
	}
	return out
}

var _ Engine = (*scripted)(nil)

// call is one command line and what it met.
type call struct {
	eng        *scripted
	in         io.Reader
	env        []string
	dir        string
	userConfig string
	signals    chan os.Signal
	out        io.Writer
	terminal   func(any) bool
	deps       func(*Deps)
}

// answer is what it printed and how it ended.
type answer struct {
	code     int
	out, err string
}

// run runs one command line in an empty directory unless the call has another.
func (c call) run(t *testing.T, args ...string) answer {
	t.Helper()
	var out, errs bytes.Buffer
	if c.eng == nil {
		c.eng = &scripted{}
	}
	if c.in == nil {
		c.in = strings.NewReader("")
	}
	if c.dir == "" {
		c.dir = t.TempDir()
	}
	if c.out == nil {
		c.out = &out
	}
	deps := Deps{
		Engine:     func(config.Config) (Engine, error) { return c.eng, nil },
		UserConfig: func() (string, error) { return c.userConfig, nil },
		Version:    VersionInfo{Version: "1.2.3"},
	}
	if c.deps != nil {
		c.deps(&deps)
	}
	code := Run(t.Context(), args, IO{
		In: c.in, Out: c.out, Err: &errs, Env: c.env, Dir: c.dir, Signals: c.signals, Terminal: c.terminal,
	}, deps)
	return answer{code, out.String(), errs.String()}
}

// view is a machine of the given name and state.
func view(name string, state machine.State) machine.View {
	return machine.View{
		Record: machine.Record{
			Name: name, ID: "0123456789abcdef", Driver: "fake", Isolation: "none",
			Spec: machine.Spec{Name: name, Image: "minimal", CPUs: 2, Memory: 1 << 30},
		},
		State: state,
	}
}
