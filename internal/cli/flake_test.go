package cli

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/build"
	"github.com/mvmctl/mvmctl/internal/config"
	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/image"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// fakeBuilder makes an image of whatever a flake's folder holds in the file "image".
type fakeBuilder struct {
	Builder // what no test asks for panics
	asked   []build.Options
}

func (b *fakeBuilder) Runner(context.Context, string, string, build.Options) (build.Runner, bool, error) {
	return build.Runner{}, false, nil
}

func (b *fakeBuilder) Flake(_ context.Context, ref, _ string, o build.Options) (build.Result, error) {
	b.asked = append(b.asked, o)
	name, err := os.ReadFile(filepath.Join(ref, "image"))
	if err != nil {
		return build.Result{}, machine.Errorf("nix.eval", "correct it", "the flake is broken")
	}
	return build.Result{ID: string(name), Name: string(name)}, nil
}

// byName is an engine whose images have their names as ids.
type byName struct{ *scripted }

func (byName) Image(_ context.Context, name string) (engine.ImageDetail, error) {
	return engine.ImageDetail{Manifest: image.Manifest{ID: name}}, nil
}

// TestUpWatchRestarts: a new image is a new machine in the old one's place; the same image, a
// mistake and a program that ended are told, and end nothing.
func TestUpWatchRestarts(t *testing.T) {
	dir := t.TempDir()
	write := func(image string) {
		t.Helper()
		// At once, as an editor does: the watch must not see half a file.
		if err := os.WriteFile(filepath.Join(dir, "new.tmp"), []byte(image), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "new.tmp"), filepath.Join(dir, "image")); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	started, ends := make(chan machine.Spec), make(chan struct{})
	eng := byName{&scripted{up: func(ctx context.Context, s machine.Spec, o engine.UpOptions) (engine.UpResult, error) {
		o.Started(engine.UpResult{Name: "quick-fox"})
		started <- s
		select {
		case <-ctx.Done():
			return engine.UpResult{ExitCode: machine.ExitInterrupt}, context.Cause(ctx)
		case <-ends:
			return engine.UpResult{ExitCode: 3}, nil
		}
	}}}
	b := &fakeBuilder{}
	signals := make(chan os.Signal, 1)
	lines := make(lineWriter, 100)
	done := make(chan answer, 1)
	go func() {
		code := Run(t.Context(), []string{"up", "--watch", "--flake", dir, "--override-input", "nixpkgs=path:/p", "--offline", "-m", "256M"},
			IO{In: strings.NewReader(""), Out: lines, Err: lines, Dir: t.TempDir(), Signals: signals},
			Deps{Engine: func(config.Config) (Engine, error) { return eng, nil }, Builder: func(config.Config) (Builder, error) { return b, nil }})
		done <- answer{code: code}
	}()
	first := wait(t, started)
	if !first.Ephemeral || first.Image != "one" || first.Name != "" || first.Memory != 256<<20 {
		t.Errorf("first: %+v", first)
	}
	write("two")
	second := wait(t, started)
	if !second.Ephemeral || second.Image != "two" || second.Name != "quick-fox" {
		t.Errorf("second: %+v", second)
	}
	write("two")
	lines.expect(t, "the image is as it was")
	if err := os.Remove(filepath.Join(dir, "image")); err != nil {
		t.Fatal(err)
	}
	lines.expect(t, "the flake is broken")
	ends <- struct{}{}
	lines.expect(t, "ended with exit code 3")
	write("two")
	wait(t, started)
	signals <- os.Interrupt
	if a := wait(t, done); a.code != machine.ExitInterrupt {
		t.Errorf("exit code %d", a.code)
	}
	if d := cmp.Diff(build.NixOptions{Inputs: map[string]string{"nixpkgs": "path:/p"}, Offline: true}, b.asked[0].Nix); d != "" {
		t.Error(d)
	}
}

// lineWriter hands on what is written.
type lineWriter chan string

func (w lineWriter) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}

func (w lineWriter) expect(t *testing.T, want string) {
	t.Helper()
	for !strings.Contains(wait(t, w), want) {
	}
}

func wait[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("nothing happens")
		panic("unreachable")
	}
}

func TestFlakeFlags(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for args, want := range map[string]string{
		"up minimal --watch":                           "no source that --watch could watch",
		"up --flake github:o/r --watch":                `"github:o/r" is not a folder of this host`,
		"up --flake . --watch -d":                      "--watch stays in the foreground",
		"up minimal --offline":                         "--offline is of a flake",
		"up minimal --override-input a=b":              "--override-input is of a flake",
		"up --flake . --override-input nixpkgs":        `"nixpkgs" is no override of an input`,
		"up --flake . --override-input =x":             `"=x" is no override of an input`,
		"build --flake . --override-input a=--rebuild": "is no override of an input",
		"build " + dir + " --offline":                  "--offline is of a flake",
		"flake check --override-input a":               "is no override of an input",
	} {
		if a := (call{}).run(t, strings.Fields(args)...); a.code != 2 || !strings.Contains(a.err, want) {
			t.Errorf("%s: exit code %d, %q; want %q", args, a.code, a.err, want)
		}
	}
}
