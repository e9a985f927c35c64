package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/mvmctl/mvmctl/internal/image"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// Dockerfile makes an image from a Dockerfile, or from a folder with one, with the builder that
// this host has: a container engine, or a BuildKit daemon.
func (b *Builder) Dockerfile(ctx context.Context, path string, o Options) (Result, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Result{}, fileError(path, err)
	}
	folder, file := path, filepath.Join(path, "Dockerfile")
	if !info.IsDir() {
		folder, file = filepath.Dir(path), path
	}
	if _, err := os.Stat(file); err != nil {
		return Result{}, fileError(file, err)
	}
	t, err := b.findTool(ctx)
	if err != nil {
		return Result{}, err
	}
	if err := paths.MakePrivate(b.Work); err != nil {
		return Result{}, err
	}
	work, err := os.MkdirTemp(b.Work, "dockerfile-")
	if err != nil {
		return Result{}, paths.WriteError("making a folder for the build", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	done := o.step(fmt.Sprintf("building %s with %s", filepath.Base(folder), t.name))
	ref, err := t.build(ctx, b, folder, file, work, o)
	if err != nil {
		return Result{}, err
	}
	done()
	if len(o.Names) == 0 {
		o.Names = []string{nameOf(folder)}
	}
	return b.pull(ctx, ref, path, image.BuilderDockerfile, o)
}

// tool is a program that builds Dockerfiles.
type tool struct {
	name  string
	probe []string // exits 0 where the tool can build
	// build builds and returns the source that Pull takes the image from.
	build func(ctx context.Context, b *Builder, folder, file, work string, o Options) (string, error)
}

// tools are those that we know, the first that works is used.
func tools() []tool {
	return []tool{
		{"docker", []string{"docker", "version", "--format", "{{.Server.Version}}"}, buildWithEngine},
		{"podman", []string{"podman", "version"}, buildWithPodman},
		{"buildctl", []string{"buildctl", "debug", "workers"}, buildWithBuildKit},
	}
}

func (b *Builder) findTool(ctx context.Context) (tool, error) {
	var problems []string
	for _, t := range tools() {
		if _, err := exec.LookPath(t.probe[0]); err != nil {
			continue
		}
		if _, err := b.run(ctx, Options{}, t.probe...); err != nil {
			if ctx.Err() != nil {
				return tool{}, ctx.Err()
			}
			problems = append(problems, fmt.Sprintf("%s is installed and does not work: %v", t.name, err))
			continue
		}
		return t, nil
	}
	e := machine.Errorf("build.no_engine", "install one: `apt install docker.io` (Debian, Ubuntu), `dnf install podman` (Fedora), `brew install podman` (macOS); then try again",
		"a Dockerfile is built by Docker, Podman or BuildKit, and none of them works here")
	if len(problems) > 0 {
		e.Remedy = "start its daemon, for example with `systemctl start docker`, or join the group that may use it"
		e.Detail = strings.Join(problems, "\n")
	}
	return tool{}, e
}

func buildWithEngine(ctx context.Context, b *Builder, folder, file, work string, o Options) (string, error) {
	id := filepath.Join(work, "id")
	args := []string{"docker", "build", "--iidfile", id, "-f", file}
	if o.Platform != "" {
		args = append(args, "--platform", o.Platform)
	}
	if _, err := b.run(ctx, o, append(args, "--", folder)...); err != nil {
		return "", err
	}
	text, err := os.ReadFile(id)
	if err != nil {
		return "", buildFailed("docker", errors.New("it did not say what it made"), nil)
	}
	return "docker-daemon:" + strings.TrimSpace(string(text)), nil
}

func buildWithPodman(ctx context.Context, b *Builder, folder, file, work string, o Options) (string, error) {
	id, archive := filepath.Join(work, "id"), filepath.Join(work, "image.tar")
	args := []string{"podman", "build", "--iidfile", id, "-f", file}
	if o.Platform != "" {
		args = append(args, "--platform", o.Platform)
	}
	if _, err := b.run(ctx, o, append(args, folder)...); err != nil {
		return "", err
	}
	text, err := os.ReadFile(id)
	if err != nil {
		return "", buildFailed("podman", errors.New("it did not say what it made"), nil)
	}
	_, err = b.run(ctx, o, "podman", "save", "--format", "oci-archive", "-o", archive, strings.TrimSpace(string(text)))
	return "oci-archive:" + archive, err
}

func buildWithBuildKit(ctx context.Context, b *Builder, folder, file, work string, o Options) (string, error) {
	archive := filepath.Join(work, "image.tar")
	args := []string{
		"buildctl", "build", "--progress", "plain", "--frontend", "dockerfile.v0", "--local", "context=" + folder, "--local", "dockerfile=" + filepath.Dir(file),
		"--opt", "filename=" + filepath.Base(file), "--output", "type=oci,dest=" + archive,
	}
	if o.Platform != "" {
		args = append(args, "--opt", "platform="+o.Platform)
	}
	_, err := b.run(ctx, o, args...)
	return "oci-archive:" + archive, err
}

// lastWords is how much of a tool's output is kept for an error, in bytes.
const lastWords = 8 << 10

// run runs a tool without a shell. Its output, line by line, is the progress, and its end is
// part of the error. When ctx ends, so do the tool and what it started.
func (b *Builder) run(ctx context.Context, o Options, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = b.Environ
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = stopDelay
	out := &tail{each: func(line string) {
		if o.Progress != nil && line != "" {
			o.Progress(Progress{Step: argv[0] + ": " + line})
		}
	}}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	out.flush()
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		return "", buildFailed(argv[0], err, out.text)
	}
	return string(out.text), nil
}

func buildFailed(name string, err error, words []byte) error {
	e := machine.Errorf("build.failed", "what it said last is below", "%s failed: %w", name, err)
	e.Detail = strings.TrimSpace(string(words))
	return e
}

// tail keeps the end of what is written and tells each line.
type tail struct {
	text, line []byte
	each       func(line string)
}

func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	if over := len(t.text) - lastWords; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	for rest := p; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		if room := 512 - len(t.line); room > 0 {
			t.line = append(t.line, line[:min(len(line), room)]...)
		}
		if whole {
			t.flush()
		}
		rest = after
	}
	return len(p), nil
}

func (t *tail) flush() {
	t.each(strings.TrimSpace(string(t.line)))
	t.line = t.line[:0]
}
