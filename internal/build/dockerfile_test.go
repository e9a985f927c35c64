package build

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/image"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// contextOf makes a folder with a Dockerfile that needs no network: a static program, this test.
func contextOf(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string][]byte{
		name: []byte("FROM scratch\nCOPY app /bin/app\nCMD [\"/bin/app\"]\n"), "app": program,
	} {
		if err := os.WriteFile(filepath.Join(dir, path), data, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// startDocker starts a Docker engine of our own, which reaches no network, and returns the
// environment of a client of it.
func startDocker(t *testing.T) []string {
	t.Helper()
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("dockerd needs Linux, and root")
	}
	for _, program := range []string{"docker", "dockerd"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no %s", program)
		}
	}
	dir, err := os.MkdirTemp("", "mvm") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket, config := filepath.Join(dir, "s"), filepath.Join(dir, "config.json")
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil { // not the host's
		t.Fatal(err)
	}
	child := exec.CommandContext(context.Background(), "dockerd", "--host", "unix://"+socket, "--data-root", filepath.Join(dir, "data"),
		"--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"), "--config-file", config,
		"--storage-driver", "vfs", "--bridge", "none", "--iptables=false", "--ip-forward=false")
	said, err := child.StderrPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	ready, ended := make(chan struct{}), make(chan struct{})
	var words []string // to be read once it has ended
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(said); lines.Scan(); {
			if words = append(words, lines.Text()); strings.Contains(lines.Text(), "API listen on ") {
				close(ready)
				_, _ = io.Copy(io.Discard, said)
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = child.Process.Signal(syscall.SIGTERM)
		stop := time.AfterFunc(20*time.Second, func() { _ = child.Process.Kill() })
		defer stop.Stop()
		<-ended
		_ = child.Wait() // SIGTERM is no failure
	})
	select {
	case <-ready:
	case <-ended:
		t.Fatalf("dockerd does not start:\n%s", strings.Join(words, "\n"))
	case <-time.After(time.Minute):
		t.Fatal("dockerd does not say that it is ready")
	}
	return append(os.Environ(), "DOCKER_HOST=unix://"+socket, "DOCKER_CONFIG="+t.TempDir(), "DOCKER_BUILDKIT=0")
}

// TestDockerfile builds with a real Docker engine, which is left as it was.
func TestDockerfile(t *testing.T) {
	b := newBuilder(t)
	b.Environ = startDocker(t)
	docker := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "docker", args...)
		cmd.Env = b.Environ
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("docker %v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	for _, e := range b.Environ { // the engine is found as docker finds it
		if k, v, _ := strings.Cut(e, "="); strings.HasPrefix(k, "DOCKER_") {
			t.Setenv(k, v)
		}
	}
	dir := contextOf(t, "Containerfile")
	r, err := b.Dockerfile(t.Context(), dir, Options{Names: []string{"built"}})
	if err != nil {
		t.Fatal(err)
	}
	img, err := b.Images.Find("built")
	if err != nil || img.ID != r.ID || img.Source.Builder != image.BuilderDockerfile || !cmp.Equal(img.Content.Config.Command, []string{"/bin/app"}) {
		t.Errorf("%+v, %v", img, err)
	}
	if left := docker("image", "ls", "-aq"); left != "" {
		t.Errorf("the engine was left with the images %s", left)
	}
	// An image of the user's that is the same stays, under its name.
	docker("build", "-t", "users:1", "-f", filepath.Join(dir, "Containerfile"), dir)
	if _, err := b.Dockerfile(t.Context(), filepath.Join(dir, "Containerfile"), Options{Names: []string{"built"}}); err != nil {
		t.Error(err)
	}
	if left := docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}"); left != "users:1" {
		t.Errorf("the engine was left with the images %s", left)
	}
	// A command that fails leaves no container.
	failing := contextOf(t, "Dockerfile")
	if err := os.WriteFile(filepath.Join(failing, "Dockerfile"), []byte("FROM scratch\nCOPY app /bin/app\nRUN [\"/bin/app\", \"-test.nosuchflag\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Dockerfile(t.Context(), failing, Options{}); machine.CodeOf(err) != "build.failed" {
		t.Error(err)
	}
	if left := docker("container", "ls", "-aq"); left != "" {
		t.Errorf("the engine was left with the containers %s", left)
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY missing /\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = b.Dockerfile(t.Context(), dir, Options{})
	var e *machine.Error
	if !errors.As(err, &e) || e.Code != "build.failed" || !strings.Contains(e.Detail, "missing") || !strings.Contains(e.Remedy, "correct the Dockerfile") {
		t.Errorf("%+v", e)
	}
}

// scriptedTools puts programs in PATH that do what a shell script says.
func scriptedTools(t *testing.T, b *Builder, scripts map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	b.Environ = []string{"PATH=/usr/bin:/bin"}
}

func TestNoTool(t *testing.T) {
	b := newBuilder(t)
	scriptedTools(t, b, nil)
	if _, err := b.Dockerfile(t.Context(), contextOf(t, "Dockerfile"), Options{}); machine.CodeOf(err) != "build.no_engine" {
		t.Error(err)
	}
	if _, err := b.Dockerfile(t.Context(), t.TempDir(), Options{}); machine.CodeOf(err) != "input.file" {
		t.Errorf("a folder without one: %v", err)
	}
}

// What docker says of a daemon that is not there is told, and which setting leads to it.
func TestToolElsewhere(t *testing.T) {
	const docker = `case "$1" in
context) echo remote;;
*) echo "Cannot connect to the Docker daemon at unix:///none.sock" >&2; exit 1;;
esac
`
	for _, c := range []struct{ env, remedy string }{
		{"DOCKER_HOST=unix:///none.sock", "correct or unset DOCKER_HOST=unix:///none.sock"},
		{"DOCKER_CONTEXT=far", "correct or unset DOCKER_CONTEXT=far"},
		{"DOCKER_HOST=", "correct or unset the context remote (`docker context use default`)"},
	} {
		b := newBuilder(t)
		scriptedTools(t, b, map[string]string{"docker": docker})
		b.Environ = append(b.Environ, c.env)
		_, err := b.findTool(t.Context(), 10*time.Second)
		e, ok := errors.AsType[*machine.Error](err)
		if !ok || e.Code != "build.no_engine" || !strings.HasPrefix(e.Remedy, c.remedy) || !strings.Contains(e.Detail, "\nCannot connect to the Docker daemon at unix:///none.sock") {
			t.Errorf("%s: %+v", c.env, e)
		}
	}
}

// The old builder is asked to leave no containers; what does not know the flag is not.
func TestForceRemove(t *testing.T) {
	for help, want := range map[string]string{"  --force-rm   Always remove intermediate containers": "build --force-rm -t ", "  --load": "build -t "} {
		b := newBuilder(t)
		log := filepath.Join(t.TempDir(), "log")
		scriptedTools(t, b, map[string]string{"docker": `[ "$2" = --help ] && echo "` + help + `" && exit; echo "$@" >>` + log + `; [ "$1" != build ]` + "\n"})
		if _, err := b.Dockerfile(t.Context(), contextOf(t, "Dockerfile"), Options{}); machine.CodeOf(err) != "build.failed" {
			t.Error(err)
		}
		if data, err := os.ReadFile(log); err != nil || !strings.Contains(string(data), "\n"+want) {
			t.Errorf("%s: asked %q, %v; want %q", help, data, err, want)
		}
	}
}

// A daemon that stands still is passed over, and said to.
func TestToolThatHangs(t *testing.T) {
	b := newBuilder(t)
	scriptedTools(t, b, map[string]string{"docker": "exec sleep 1000\n"})
	_, err := b.findTool(t.Context(), 100*time.Millisecond)
	var e *machine.Error
	if !errors.As(err, &e) || e.Code != "build.no_engine" || !strings.Contains(e.Detail, "did not answer within 100ms") {
		t.Errorf("%+v", e)
	}
	scriptedTools(t, b, map[string]string{"docker": "exec sleep 1000\n", "buildctl": "exit 0\n"})
	if got, err := b.findTool(t.Context(), 100*time.Millisecond); err != nil || got.name != "buildctl" {
		t.Errorf("%+v, %v", got, err)
	}
}

// What podman is asked: its own command lines, and to forget the image whatever happened.
func TestPodman(t *testing.T) {
	b := newBuilder(t)
	log := filepath.Join(t.TempDir(), "log")
	scriptedTools(t, b, map[string]string{"podman": `echo "$@" >>` + log + `; [ "$1" != save ]` + "\n"})
	dir := contextOf(t, "Dockerfile")
	if _, err := b.Dockerfile(t.Context(), dir, Options{Platform: "linux/arm64"}); machine.CodeOf(err) != "build.failed" {
		t.Error(err)
	}
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSpace(string(data)), "\n")
	_, tag, _ := strings.Cut(got[len(got)-1], "image rm ")
	work := strings.TrimPrefix(tag, "localhost/mvmctl-")
	want := []string{
		"info", "build -t " + tag + " -f " + dir + "/Dockerfile --platform linux/arm64 -- " + dir,
		"save --format oci-archive -o " + filepath.Join(b.Work, work, "image.tar") + " " + tag, "image rm " + tag,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
