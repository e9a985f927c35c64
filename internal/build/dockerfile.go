package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/image"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// Dockerfile makes an image from a Dockerfile, or from a folder with one, with the builder that
// this host has: a container engine, or a BuildKit daemon.
func (b *Builder) Dockerfile(ctx context.Context, path string, o Options) (Result, error) {
	j, err := jobOf(path)
	if err != nil {
		return Result{}, err
	}
	if _, err := o.platform(); err != nil {
		return Result{}, err
	}
	if _, err := b.names(o, nameOf(j.folder)); err != nil {
		return Result{}, err
	}
	t, err := b.findTool(ctx, probeTime)
	if err != nil {
		return Result{}, err
	}
	if err := paths.MakePrivate(b.Work); err != nil {
		return Result{}, err
	}
	work, err := os.MkdirTemp(b.Work, "dockerfile-")
	if err != nil {
		return Result{}, paths.CacheError("making a folder for the build", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	// The image gets a name of its own in the engine, so that it alone can be removed again: its
	// id may be that of an image that the user has.
	j.archive, j.tag, j.o = filepath.Join(work, "image.tar"), "localhost/mvmctl-"+filepath.Base(work), o
	done := o.step(fmt.Sprintf("building %s with %s", filepath.Base(j.folder), t.name))
	defer b.forget(ctx, t, j)
	ref, err := t.build(ctx, b, j)
	if err != nil {
		return Result{}, err
	}
	done()
	if len(o.Names) == 0 {
		o.Names = []string{nameOf(j.folder)}
	}
	return b.pull(ctx, ref, path, image.BuilderDockerfile, o)
}

// job is one build of a Dockerfile.
type job struct {
	folder, file string
	archive      string // file for the result
	tag          string // name of the result in the engine
	o            Options
}

// jobOf finds the Dockerfile that a path means. A file that was named is one, whatever is in it.
func jobOf(path string) (job, error) {
	file, err := FindDockerfile(path)
	if err != nil {
		return job{}, err
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return job{}, fileError(path, err)
	case !info.IsDir():
		return job{folder: filepath.Dir(path), file: path}, nil
	case file == "":
		return job{}, machine.Usagef("input.file", "check the path, or write one", "there is no Dockerfile in %s", path)
	}
	return job{folder: path, file: file}, nil
}

// tool is a program that builds Dockerfiles.
type tool struct {
	name   string
	probe  []string // exits 0 where the tool can build
	remove []string // followed by a name: removes a result; nil: the tool keeps none
	// build builds and returns the source that Pull takes the image from.
	build func(ctx context.Context, b *Builder, j job) (string, error)
}

// tools are those that we know, the first that works is used.
func tools() []tool {
	return []tool{
		{"docker", []string{"docker", "version", "--format", "{{.Server.Version}}"}, []string{"docker", "image", "rm"}, buildWithEngine},
		{"podman", []string{"podman", "info"}, []string{"podman", "image", "rm"}, buildWithPodman},
		{"buildctl", []string{"buildctl", "debug", "workers"}, nil, buildWithBuildKit},
	}
}

const (
	probeTime  = 10 * time.Second // for a tool to say whether it works
	forgetTime = 30 * time.Second // for it to remove what it made
)

// findTool finds the tool to use. A daemon that stands still counts as none after limit.
func (b *Builder) findTool(ctx context.Context, limit time.Duration) (tool, error) {
	var problems []string
	for _, t := range tools() {
		if _, err := exec.LookPath(t.probe[0]); err != nil {
			continue
		}
		probe, cancel := context.WithTimeout(ctx, limit)
		_, err := b.run(probe, Options{}, t.probe...)
		cancel()
		switch {
		case err == nil:
			return t, nil
		case ctx.Err() != nil:
			return tool{}, ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			err = fmt.Errorf("`%s` did not answer within %s", strings.Join(t.probe, " "), limit)
		}
		problems = append(problems, fmt.Sprintf("%s is installed and does not work: %v%s", t.name, err, said(err)))
	}
	e := machine.Errorf("build.no_engine", "install one: `apt install docker.io` (Debian, Ubuntu), `dnf install podman` (Fedora), `brew install podman` (macOS); then try again",
		"a Dockerfile is built by Docker, Podman or BuildKit, and none of them works here")
	if len(problems) > 0 {
		e.Remedy = "start its daemon, for example with `systemctl start docker`, or join the group that may use it"
		if set := b.engineSetting(ctx, limit); set != "" {
			e.Remedy = "correct or unset " + set + ", which says where Docker's daemon is, or start that daemon"
		}
		e.Detail = strings.Join(problems, "\n")
	}
	return tool{}, e
}

// said is what a tool itself complained of.
func said(err error) string {
	e, ok := errors.AsType[*machine.Error](err)
	if !ok || e.Detail == "" {
		return ""
	}
	return "\n" + e.Detail
}

// engineSetting names what makes docker ask another daemon than this host's; "" when nothing
// does, or there is no docker.
func (b *Builder) engineSetting(ctx context.Context, limit time.Duration) string {
	if _, err := exec.LookPath("docker"); err != nil {
		return ""
	}
	for _, name := range []string{"DOCKER_HOST", "DOCKER_CONTEXT"} { // docker's own order
		for _, e := range b.Environ {
			if v, ok := strings.CutPrefix(e, name+"="); ok && v != "" {
				return name + "=" + v
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out, err := b.run(ctx, Options{}, "docker", "context", "show")
	if name := strings.TrimSpace(out); err == nil && name != "" && name != "default" && !strings.ContainsAny(name, " \n") {
		return "the context " + name + " (`docker context use default`)"
	}
	return ""
}

// forget removes from the user's engine what a build has left there. Where there is nothing, or
// it cannot be removed, the image is made all the same.
func (b *Builder) forget(ctx context.Context, t tool, j job) {
	if t.remove == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), forgetTime)
	defer cancel()
	_, _ = b.run(ctx, Options{}, append(slices.Clone(t.remove), j.tag)...)
}

// engineBuild is the command line that docker and podman have in common.
func engineBuild(program string, j job) []string {
	args := []string{program, "build", "-t", j.tag, "-f", j.file}
	if j.o.Platform != "" {
		args = append(args, "--platform", j.o.Platform)
	}
	return append(args, "--", j.folder)
}

func buildWithEngine(ctx context.Context, b *Builder, j job) (string, error) {
	args := engineBuild("docker", j)
	// The old builder, which alone has this flag in its help, leaves the container of a command
	// that failed.
	help, err := b.run(ctx, Options{}, "docker", "build", "--help")
	if err == nil && strings.Contains(help, "--force-rm") {
		args = slices.Insert(args, 2, "--force-rm")
	}
	_, err = b.run(ctx, j.o, args...)
	return "docker-daemon:" + j.tag + ":latest", err
}

func buildWithPodman(ctx context.Context, b *Builder, j job) (string, error) {
	if _, err := b.run(ctx, j.o, engineBuild("podman", j)...); err != nil {
		return "", err
	}
	_, err := b.run(ctx, j.o, "podman", "save", "--format", "oci-archive", "-o", j.archive, j.tag)
	return "oci-archive:" + j.archive, err
}

func buildWithBuildKit(ctx context.Context, b *Builder, j job) (string, error) {
	args := []string{
		"buildctl", "build", "--progress", "plain", "--frontend", "dockerfile.v0", "--local", "context=" + j.folder, "--local", "dockerfile=" + filepath.Dir(j.file),
		"--opt", "filename=" + filepath.Base(j.file), "--output", "type=oci,dest=" + j.archive,
	}
	if j.o.Platform != "" {
		args = append(args, "--opt", "platform="+j.o.Platform)
	}
	_, err := b.run(ctx, j.o, args...)
	return "oci-archive:" + j.archive, err
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
	e := machine.Errorf("build.failed", "run `"+name+"` by hand to see what is wrong with it", "%s failed: %w", name, err)
	if e.Detail = strings.TrimSpace(string(words)); e.Detail != "" {
		e.Remedy = "correct the Dockerfile, or what else " + name + " complains of below, and build again"
	}
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
