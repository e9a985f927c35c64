package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/mvmctl/mvmctl/internal/paths"
)

// registryImages is a real registry with a Debian that has Redis, nginx and systemd: three images
// of one base layer.
type registryImages struct{ redis, nginx, system string }

// serveImages starts a real registry on this host and fills it.
func serveImages(t *testing.T) registryImages {
	t.Helper()
	for _, tool := range []string{"docker-registry", "debootstrap", "redis-cli", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("missing: %s (scripts/dev-setup.sh installs it)", tool)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("missing: root, without which debootstrap makes no Debian")
	}
	base := debianLayer(t)
	uid, gid := accountOf(t, base, "redis")
	addr := startRegistry(t)
	out := registryImages{redis: addr + "/team/redis:7", nginx: addr + "/team/nginx:1", system: addr + "/team/system:12"}
	push(t, out.redis, v1.Config{
		Entrypoint: []string{"redis-server"}, Cmd: []string{"--bind", "0.0.0.0", "--protected-mode", "no", "--dir", "/data", "--appendonly", "yes"},
		Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, User: "redis", WorkingDir: "/data", ExposedPorts: map[string]struct{}{"6379/tcp": {}},
		Volumes: map[string]struct{}{"/data": {}},
	}, base, smallLayer(t, tarDir("data", 0o750, uid, gid)))
	push(t, out.nginx, v1.Config{
		Cmd: []string{"nginx", "-g", "daemon off; error_log stderr;"}, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, StopSignal: "SIGQUIT",
		WorkingDir: "/srv/not/there", // as with Docker it is made
	}, base, smallLayer(t, tarFile("var/www/html/index.html", "served by a microVM\n"), tarFile("var/www/html/.wh.index.nginx-debian.html", "")))
	push(t, out.system, v1.Config{Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}}, base, systemLayer(t))
	return out
}

// debianLayer returns a layer with a Debian root, kept from run to run.
func debianLayer(t *testing.T) v1.Layer {
	t.Helper()
	p, err := paths.Find(os.Getenv, os.Geteuid())
	if err != nil {
		t.Skipf("missing: a cache folder: %v", err)
	}
	kept := filepath.Join(p.Cache, "test", "debian-redis-nginx-systemd.tar.gz")
	if _, err := os.Stat(kept); err != nil {
		if err := os.MkdirAll(filepath.Dir(kept), 0o700); err != nil {
			t.Fatal(err)
		}
		root := t.TempDir()
		const script = `set -e
debootstrap --variant=minbase --include=redis-server,nginx-light,systemd-sysv bookworm "$1" >&2
rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/*
tar --xattrs -C "$1" -czf "$2.new" .
mv "$2.new" "$2"`
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		if out, err := exec.CommandContext(ctx, "sh", "-c", script, "sh", root, kept).CombinedOutput(); err != nil {
			t.Skipf("missing: a Debian mirror for debootstrap: %v\n%s", err, lastLines(out, 5))
		}
	}
	l, err := tarball.LayerFromFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// accountOf returns the ids that a user has in a layer.
func accountOf(t *testing.T, l v1.Layer, user string) (uid, gid int) {
	t.Helper()
	r, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err != nil {
			t.Fatalf("looking for the user %s: %v", user, err)
		}
		if filepath.Clean(h.Name) != "etc/passwd" {
			continue
		}
		text, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Split(line, ":"); f[0] == user {
				uid, _ = strconv.Atoi(f[2])
				gid, _ = strconv.Atoi(f[3])
				return uid, gid
			}
		}
		t.Fatalf("the layer has no user %s", user)
	}
}

func lastLines(text []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(len(lines)-n, 0):], "\n")
}

// startRegistry starts a real registry and returns its address.
func startRegistry(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_ = ln.Close()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\n", filepath.Join(dir, "data"), addr)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker-registry", "serve", config)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(30 * time.Second); ; {
		resp, err := http.Get("http://" + addr + "/v2/")
		if err == nil {
			_ = resp.Body.Close()
			return addr
		}
		if time.Now().After(end) {
			t.Fatalf("the registry does not answer: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func push(t *testing.T, ref string, config v1.Config, layers ...v1.Layer) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, containerImage(t, config, layers...)); err != nil {
		t.Fatal(err)
	}
}

func containerImage(t *testing.T, config v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", "amd64", config
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

type tarEntry struct {
	tar.Header
	text string
}

func tarFile(path, text string) tarEntry {
	return tarEntry{tar.Header{Name: path, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))}, text}
}

func tarDir(path string, mode int64, uid, gid int) tarEntry {
	return tarEntry{tar.Header{Name: path + "/", Typeflag: tar.TypeDir, Mode: mode, Uid: uid, Gid: gid}, ""}
}

func smallLayer(t *testing.T, entries ...tarEntry) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, e := range entries {
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	data := b.Bytes()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// port returns the host port at which the only published port of a machine is.
func (l *lab) port(name string) string {
	l.t.Helper()
	var ports []struct {
		HostPort int `json:"host_port"`
	}
	if err := json.Unmarshal([]byte(l.must("forward", "--json", name)), &ports); err != nil || len(ports) != 1 {
		l.t.Fatalf("ports of %s: %v, %v", name, ports, err)
	}
	return fmt.Sprint(ports[0].HostPort)
}

// host runs a real client on this host until it prints want: a server takes its time to start.
func (l *lab) host(want string, argv ...string) {
	l.t.Helper()
	var out []byte
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		out, _ = exec.CommandContext(l.t.Context(), argv[0], argv[1:]...).CombinedOutput()
		if strings.TrimSpace(string(out)) == want {
			return
		}
	}
	l.t.Errorf("%s: %q, want %q", strings.Join(argv, " "), out, want)
}

// TestImagesFromARegistry: container images of a real registry run unchanged under real QEMU,
// and are reached from the host by real clients; what is on a volume survives.
func TestImagesFromARegistry(t *testing.T) {
	l := newLab(t, "qemu", false)
	l.ownCache()
	images := serveImages(t)

	l.must("up", "-d", images.redis, "--name", "cache", "-p", "0:6379", "-v", "data:/data:size=64M", "--timeout", "5m")
	l.host("PONG", "redis-cli", "-p", l.port("cache"), "ping")
	l.host("OK", "redis-cli", "-p", l.port("cache"), "set", "color", "blue")
	if out := l.must("exec", "cache", "--", "sh", "-c", "stat -c '%U %G %a' /data; ps -ef | grep '[r]edis-server'"); !strings.HasPrefix(out, "redis redis 750\nredis") {
		t.Errorf("owner of the volume, and of the server: %q", out)
	}
	l.must("down", "cache")
	l.must("up", "-d", "--name", "cache")
	l.host("blue", "redis-cli", "-p", l.port("cache"), "get", "color")
	l.must("rm", "--force", "cache")

	// Another machine takes over the volume.
	l.must("up", "-d", images.redis, "--name", "second", "-p", "0:6379", "-v", "data:/data")
	l.host("blue", "redis-cli", "-p", l.port("second"), "get", "color")
	l.must("rm", "--force", "second")
	l.must("volume", "rm", "data")

	l.must("up", "-d", images.nginx, "--name", "web", "-p", "0:80")
	l.host("served by a microVM", "curl", "-s", "http://127.0.0.1:"+l.port("web")+"/")
	l.must("exec", "web", "--", "test", "-d", "/srv/not/there")
	if r := l.run("exec", "web", "--", "ls", "/var/www/html/index.nginx-debian.html"); r.code == 0 {
		t.Errorf("a file that the image's layer deletes is there: %v", r)
	}
	// A command replaces the image's, as with containers.
	if out := l.must("run", images.nginx, "--", "cat", "/etc/debian_version"); !strings.HasPrefix(out, "12.") {
		t.Errorf("%q", out)
	}
	if r := l.run("image", "rm", images.nginx); r.code != 125 || !strings.Contains(r.stderr, "is used by web") {
		t.Errorf("an image in use was removed: %v", r)
	}
	l.must("rm", "--force", "web")
	l.must("image", "verify")
	l.must("image", "prune", "--all", "--force")
	l.nothingLeft()
}

// TestCommitAndReset: what a machine changed becomes an image, and can be taken back.
func TestCommitAndReset(t *testing.T) {
	l := newLab(t, "qemu", false)
	l.ownCache()
	l.must("up", "-d", "minimal", "--name", "m")
	l.must("exec", "m", "--", "sh", "-c", "echo changed >/etc/motd; rm /etc/shells; rm -r /srv; mkdir /srv; echo new >/srv/new; sync")
	if r := l.run("commit", "m", "base:1"); r.code != 125 || !strings.Contains(r.stderr, "is running") {
		t.Errorf("commit of a running machine: %v", r)
	}
	l.must("down", "m")
	l.must("commit", "m", "base:1")
	if out := l.must("run", "base:1", "--", "sh", "-c", "cat /etc/motd /srv/new; ls /etc/shells 2>/dev/null || echo gone"); out != "changed\nnew\ngone\n" {
		t.Errorf("%q", out)
	}
	l.must("reset", "--force", "m")
	l.must("up", "-d", "--name", "m")
	if out := l.must("exec", "m", "--", "sh", "-c", "cat /etc/motd 2>/dev/null || echo as it was"); out != "as it was\n" {
		t.Errorf("after reset: %q", out)
	}
	l.must("rm", "--force", "m")
	l.nothingLeft()
}
