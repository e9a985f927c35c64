package build

import (
	"archive/tar"
	"bytes"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/image"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/oci"
)

func newBuilder(t *testing.T) *Builder {
	t.Helper()
	dir := t.TempDir()
	return &Builder{Images: image.New(dir), Blobs: filepath.Join(dir, "blobs"), Work: filepath.Join(dir, "work"), Version: "test", Environ: os.Environ()}
}

// tarOf packs files into a tar.
func tarOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range files {
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text)), ModTime: time.Unix(1, 0)}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestRootfs: a folder, a tar of it and an ext4 image of it give images of equal content, named
// after the file.
func TestRootfs(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "Base Root.tar")
	if err := os.WriteFile(file, tarOf(t, map[string]string{"etc/motd": "hello\n"}), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := b.Rootfs(t.Context(), file, Options{})
	if err != nil || r.Name != "base-root" || r.Cached {
		t.Fatalf("%+v, %v", r, err)
	}
	img, err := b.Images.Find("base-root")
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.Rootfs(t.Context(), img.Path, Options{Names: []string{"copy:2"}})
	if err != nil || again.Name != "copy:2" {
		t.Fatalf("from the ext4 image: %+v, %v", again, err)
	}
	third, err := newBuilder(t).Rootfs(t.Context(), file, Options{})
	if err != nil || third.Rootfs != r.Rootfs || third.ID != r.ID {
		t.Errorf("elsewhere: %s and %s, %v", third.ID, r.ID, err)
	}
	for path, code := range map[string]string{
		filepath.Join(dir, "none"): "input.file", "/dev/null": "input.not_regular",
	} {
		if _, err := b.Rootfs(t.Context(), path, Options{}); machine.CodeOf(err) != code {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := os.WriteFile(file, []byte("this is no tar file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Rootfs(t.Context(), file, Options{}); !strings.HasPrefix(machine.CodeOf(err), "archive.") {
		t.Errorf("no tar: %v", err)
	}
}

// TestPull: an image of a registry is made once, is equal on two hosts, and is only named when
// its manifest is known.
func TestPull(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	ref := strings.TrimPrefix(srv.URL, "http://") + "/team/app:1"
	data := tarOf(t, map[string]string{"bin/app": "#!/bin/sh\n"})
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", oci.HostPlatform().Arch
	cfg.Config = v1.Config{
		Entrypoint: []string{"/bin/app"}, Cmd: []string{"serve"}, Env: []string{"A=1", "broken"}, User: "app", StopSignal: "SIGQUIT", WorkingDir: "/srv",
		Labels: map[string]string{"mvmctl.ports": "0.0.0.0:22:22", "mvmctl.volumes": "/:/host"}, // mean nothing here (A038)
	}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img); err != nil {
		t.Fatal(err)
	}

	b := newBuilder(t)
	first, err := b.Pull(t.Context(), ref, Options{})
	if err != nil || first.Cached || first.Name != ref {
		t.Fatalf("%+v, %v", first, err)
	}
	second, err := b.Pull(t.Context(), ref, Options{Names: []string{"app"}})
	if err != nil || !second.Cached || second.ID != first.ID || second.Name != "app" {
		t.Errorf("again: %+v, %v", second, err)
	}
	other, err := newBuilder(t).Pull(t.Context(), ref, Options{})
	if err != nil || other.ID != first.ID || other.Rootfs != first.Rootfs {
		t.Errorf("on another host: %+v, %v", other, err)
	}
	have, err := b.Images.Find("app")
	if err != nil {
		t.Fatal(err)
	}
	want := image.Config{
		Entrypoint: []string{"/bin/app"}, Command: []string{"serve"}, Env: map[string]string{"A": "1"}, User: "app", StopSignal: "SIGQUIT", Dir: "/srv",
	}
	if diff := cmp.Diff(want, have.Content.Config); diff != "" {
		t.Error(diff)
	}
	if got := have.Content.Config.Args(nil); !cmp.Equal(got, []string{"/bin/app", "serve"}) {
		t.Errorf("%v", got)
	}
	if got := have.Content.Config.Args([]string{"check"}); !cmp.Equal(got, []string{"/bin/app", "check"}) {
		t.Errorf("%v", got)
	}
	if _, err := b.Pull(t.Context(), ref+"x", Options{}); err == nil {
		t.Error("a tag that does not exist was pulled")
	}
}

func TestCheckOf(t *testing.T) {
	t.Parallel()
	second := int64(time.Second)
	tests := map[string]struct {
		in   oci.Healthcheck
		want agentproto.Check
		ok   bool
	}{
		"none":    {oci.Healthcheck{Test: []string{"NONE"}}, agentproto.Check{}, false},
		"nothing": {oci.Healthcheck{}, agentproto.Check{}, false},
		"command": {oci.Healthcheck{Test: []string{"CMD", "app", "ok"}, Interval: second, Retries: 2}, agentproto.Check{Name: "image", Command: []string{"app", "ok"}, Interval: agentproto.Duration(time.Second), Retries: 2}, true},
		"shell":   {oci.Healthcheck{Test: []string{"CMD-SHELL", "app || exit 1"}, StartPeriod: -5}, agentproto.Check{Name: "image", Command: []string{"/bin/sh", "-c", "app || exit 1"}}, true},
		"unknown": {oci.Healthcheck{Test: []string{"MAGIC", "x"}}, agentproto.Check{Name: "image"}, false},
	}
	for name, tt := range tests {
		got, ok := checkOf(tt.in)
		if ok != tt.ok || ok && !cmp.Equal(got, tt.want) {
			t.Errorf("%s: %+v, %v", name, got, ok)
		}
	}
}

func TestFindDockerfile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		text string
		want bool
	}{
		"Dockerfile":     {"", true},
		"web.dockerfile": {"", true},
		"build.txt":      {"# a comment\n\nFROM debian\n", true},
		"script.txt":     {"echo FROM\n", false},
		"root.tar":       {"\x00\x01", false},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := FindDockerfile(path); (got == path) != tt.want || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"Dockerfile", "Containerfile"} {
		folder := t.TempDir()
		if got, err := FindDockerfile(folder); got != "" || err != nil {
			t.Errorf("an empty folder: %q, %v", got, err)
		}
		file := filepath.Join(folder, name)
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := FindDockerfile(folder); got != file || err != nil {
			t.Errorf("a folder with a %s: %q, %v", name, got, err)
		}
	}
}

// A FIFO would hold whoever opens it until somebody writes.
func TestFIFO(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"fifo", "Dockerfile"} {
		path := filepath.Join(t.TempDir(), name)
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := FindDockerfile(path); machine.CodeOf(err) != "input.not_regular" {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := newBuilder(t).Rootfs(t.Context(), path, Options{}); machine.CodeOf(err) != "input.not_regular" {
			t.Errorf("%s as a root file system: %v", name, err)
		}
	}
}

// TestPlatform: what does not say what it runs on is taken for what the user says.
func TestPlatform(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "motd"), []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for text, arch := range map[string]string{"": runtime.GOARCH, "linux/arm64": "arm64", "linux/amd64": "amd64", "aarch64": "arm64", "linux/arm64/v8": "arm64"} {
		r, err := b.Rootfs(t.Context(), dir, Options{Platform: text})
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if img, err := b.Images.Find(r.Name); err != nil || img.Content.Arch != arch {
			t.Errorf("%s: recorded %s, %v", text, img.Content.Arch, err)
		}
	}
	for _, text := range []string{"linux/amd46", "windows/amd64", "linux", "linux/arm64/v9", "a b"} {
		if _, err := b.Rootfs(t.Context(), dir, Options{Platform: text}); machine.CodeOf(err) != "input.platform" {
			t.Errorf("%s, a root file system: %v", text, err)
		}
		if _, err := b.Flake(t.Context(), dir, "", Options{Platform: text}); machine.CodeOf(err) != "input.platform" {
			t.Errorf("%s, a flake: %v", text, err)
		}
	}
	no, err := b.nixOptions(t.Context(), dir, "", Options{Platform: "linux/arm64", Nix: NixOptions{Inputs: map[string]string{libraryInput: "x"}}})
	if err != nil || no.System != "aarch64-linux" {
		t.Errorf("nix is asked for %s, %v", no.System, err)
	}
}

// TestEmbedded: the image inside this program is this host's, by whatever names, and no other.
func TestEmbedded(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	other := map[string]string{"amd64": "linux/arm64", "arm64": "linux/amd64"}[runtime.GOARCH]
	for platform, code := range map[string]string{"": "", "linux/" + runtime.GOARCH: "", other: "image.platform", "nonsense/": "input.platform"} {
		r, err := b.Embedded(t.Context(), "minimal", Options{Platform: platform, Names: []string{"own:1"}})
		if machine.CodeOf(err) != code || code == "" && r.Name != "own:1" {
			t.Errorf("%q: %+v, %v", platform, r, err)
		}
	}
	if _, err := b.Images.Find("own:1"); err != nil {
		t.Error(err)
	}
}
