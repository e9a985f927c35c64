package e2e

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// trickyLayers have one of everything that layers do to each other. Folders that an entry
// changes are named in the same layer: of others the engine changes the time.
func trickyLayers(t *testing.T) []v1.Layer {
	t.Helper()
	at := time.Unix(1700000000, 0)
	long := strings.Repeat("long-", 40)
	entry := func(flag byte, name string, mode int64, change func(*tar.Header)) tarEntry {
		e := tarEntry{Header: tar.Header{Typeflag: flag, Name: name, Mode: mode, ModTime: at, Format: tar.FormatPAX}}
		if change != nil {
			change(&e.Header)
		}
		at = at.Add(time.Hour)
		return e
	}
	dir := func(name string) tarEntry { return entry(tar.TypeDir, name+"/", 0o755, nil) }
	file := func(name, text string) tarEntry {
		e := entry(tar.TypeReg, name, 0o644, func(h *tar.Header) { h.Size = int64(len(text)) })
		e.text = text
		return e
	}
	link := func(name, to string) tarEntry {
		return entry(tar.TypeSymlink, name, 0o777, func(h *tar.Header) { h.Linkname = to })
	}
	linkedAt := at // the engine gives a file what the entry for its last name says
	hard := func(name, to string) tarEntry {
		return entry(tar.TypeLink, name, 0o644, func(h *tar.Header) { h.Linkname, h.ModTime = to, linkedAt })
	}
	gone := func(name string) tarEntry { return file(name, "") }
	with := func(e tarEntry, change func(*tar.Header)) tarEntry { change(&e.Header); return e }
	attrs := func(kv ...string) func(*tar.Header) {
		return func(h *tar.Header) {
			h.PAXRecords = map[string]string{}
			for i := 0; i < len(kv); i += 2 {
				h.PAXRecords["SCHILY.xattr."+kv[i]] = kv[i+1]
			}
		}
	}
	const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	lower := []tarEntry{
		dir("usr"), dir("usr/lib"), dir("usr/bin"), link("lib", "usr/lib"), link("deep", "/up/../usr/./lib/../bin"), dir("up"), link("above", "../../../usr"),
		file("usr/lib/kept", "kept"), file("usr/lib/gone", "gone"), file("usr/lib/through", "whiteout through a link"),
		with(file("usr/bin/tool", "tool"), func(h *tar.Header) { h.ModTime = linkedAt }),
		with(file("usr/bin/su", "su"), func(h *tar.Header) { h.Mode = 0o4755 }), with(file("usr/bin/wall", "w"), func(h *tar.Header) { h.Mode, h.Gid = 0o2755, 5 }),
		with(dir("tmp"), func(h *tar.Header) { h.Mode = 0o1777 }), with(file("owned", "o"), func(h *tar.Header) { h.Uid, h.Gid, h.Mode = 70000, 3000000000, 0o600 }),
		with(file("ping", "p"), attrs("security.capability", capability)), with(file("noted", "n"), attrs("user.note", "a\x00b")),
		hard("tool2", "usr/bin/tool"), hard("tool3", "tool2"), file("old", "old"), link("old-link", "nowhere"),
		dir("devices"), entry(tar.TypeChar, "devices/null", 0o666, func(h *tar.Header) { h.Devmajor, h.Devminor = 1, 3 }),
		entry(tar.TypeBlock, "devices/sda", 0o660, func(h *tar.Header) { h.Devmajor, h.Devminor, h.Gid = 8, 300, 6 }), entry(tar.TypeFifo, "devices/pipe", 0o620, nil),
		file("sparse", "begin"+string(make([]byte, 3<<20))+"end"), file("empty", ""), file("caf\xe9 \n\x1b[31m", "not UTF-8"), dir(long), file(long+"/"+long, "long"),
		file("to-folder", "a file"), dir("to-file"), file("to-file/x", "x"), dir("opaque"), file("opaque/old", "old"), dir("opaque/sub"), file("opaque/sub/old", "old"),
		dir("removed"), file("removed/x", "x"), link("link-to-folder", "usr/bin"), link("dangling", "/no/such"), file("there-and-back", "1"),
	}
	upper := []tarEntry{
		dir("usr"), dir("usr/lib"), dir("usr/bin"), gone("usr/lib/.wh.gone"), gone("lib/.wh.through"), file("lib/new", "through a link"), file("deep/by-chain", "c"),
		file("above/bin/by-dots", "d"), hard("usr/bin/linked", "tool2"), hard("lib/hard", "deep/tool"), gone(".wh.removed"), gone(".wh.tool3"),
		dir("to-folder"), file("to-folder/x", "now a folder"), file("to-file", "now a file"), dir("opaque"), gone("opaque/.wh..wh..opq"), file("opaque/new", "new"),
		dir("link-to-folder"), file("link-to-folder/own", "own"), with(file("old", "newer"), func(h *tar.Header) { h.Mode = 0o400 }), file("dangling", "a file"),
		gone(".wh.there-and-back"), gone(".wh.never-was"), link("caf\xe9", "caf\xe9 \n"),
	}
	top := []tarEntry{
		file("to-folder", "a file again"), dir("to-file"), file("to-file/y", "y"), file("there-and-back", "2"), dir("removed"), file("removed/y", "y"),
		with(dir("tmp"), func(h *tar.Header) { h.Mode, h.Uid = 0o700, 7 }), gone(".wh.opaque"), dir("usr"), dir("usr/lib"), file("usr/lib/kept", "changed"),
	}
	return []v1.Layer{smallLayer(t, lower...), smallLayer(t, upper...), smallLayer(t, top...)}
}

// startDocker starts a Docker engine of the test's own and returns its socket.
func startDocker(t *testing.T) string {
	t.Helper()
	e := newEngine(t)
	e.start()
	return e.socket
}

// engine is a dockerd of a test's own.
type engine struct {
	t           *testing.T
	dir, socket string
	args        []string
	cmd         *exec.Cmd
	done        chan struct{} // closed when it has said its last word
	ran         bool
}

// newEngine prepares one, and ends it with the test.
func newEngine(t *testing.T) *engine {
	t.Helper()
	for _, tool := range []string{"dockerd", "docker"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("missing: %s (scripts/dev-setup.sh installs it)", tool)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("missing: root, without which dockerd does not start")
	}
	dir, err := os.MkdirTemp("", "mvm-docker-*") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the socket has an owner of its own
		t.Fatal(err)
	}
	config := filepath.Join(dir, "config.json")
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil { // not the host's
		t.Fatal(err)
	}
	e := &engine{t: t, dir: dir, socket: filepath.Join(dir, "s")}
	e.args = []string{
		"--host", "unix://" + e.socket, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--config-file", config, "--storage-driver", "vfs", "--bridge", "none", "--iptables=false", "--ip-forward=false",
	}
	t.Cleanup(func() {
		e.stop()
		_ = syscall.Unmount(filepath.Join(dir, "data"), syscall.MNT_DETACH) // with --live-restore it leaves its mount of itself
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("an engine leaves something: %v", err)
		}
	})
	return e
}

// engineTime bounds its start and its orderly end, with containers that run, on a busy machine.
const engineTime = time.Minute

// start starts it, also again.
func (e *engine) start() {
	e.t.Helper()
	e.cmd = exec.Command("dockerd", e.args...)
	said, err := e.cmd.StderrPipe()
	if err != nil {
		e.t.Fatal(err)
	}
	if err := e.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	e.done = make(chan struct{})
	late := time.AfterFunc(engineTime, func() { _ = e.cmd.Process.Kill() }) // its words end then
	defer late.Stop()
	lines := bufio.NewScanner(said)
	var last string
	for lines.Scan() {
		if last = lines.Text(); strings.Contains(last, "API listen on ") {
			go func(done chan struct{}) {
				defer close(done)
				_, _ = io.Copy(io.Discard, said)
			}(e.done)
			e.ran = true
			return
		}
	}
	close(e.done)
	if e.ran {
		e.t.Fatalf("dockerd does not start again: %s", last)
	}
	e.t.Skipf("dockerd does not start here: %s", last)
}

// stop ends it in order.
func (e *engine) stop() {
	if e.cmd == nil {
		return
	}
	_ = e.cmd.Process.Signal(syscall.SIGTERM)
	stop := time.AfterFunc(engineTime, func() { _ = e.cmd.Process.Kill() })
	defer stop.Stop()
	<-e.done
	_ = e.cmd.Wait() // SIGTERM is no failure
	e.cmd = nil
}

// docker runs the docker command against it.
func (e *engine) docker(args ...string) string {
	e.t.Helper()
	cmd := exec.CommandContext(e.t.Context(), "docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+e.socket, "DOCKER_CONFIG="+e.dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		e.t.Fatalf("docker %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// node is a file of a tar file as a test compares it.
type node struct {
	Type     string
	Mode     int64
	UID, GID int
	Time     int64
	Target   string // of a symlink
	Device   string
	Names    string // of a file with several
	Xattrs   string
	Content  string // digest
}

// readTree reads a tar file, with hard links as what they are: names of one file.
func readTree(t *testing.T, r io.Reader) map[string]node {
	t.Helper()
	nodes, first := map[string]node{}, map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Clean("/" + h.Name)
		first[path] = path
		if h.Typeflag == tar.TypeLink {
			first[path] = first[filepath.Clean("/"+h.Linkname)]
			continue
		}
		n := node{Type: string(h.Typeflag), Mode: h.Mode & 0o7777, UID: h.Uid, GID: h.Gid, Time: h.ModTime.Unix(), Target: h.Linkname}
		if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
			n.Device = fmt.Sprint(h.Devmajor, ":", h.Devminor)
		}
		for _, key := range slices.Sorted(maps.Keys(h.PAXRecords)) {
			if attr, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
				n.Xattrs += fmt.Sprintf("%s=%q ", attr, h.PAXRecords[key])
			}
		}
		sum := sha256.New()
		size, err := io.Copy(sum, tr)
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			n.Content = fmt.Sprintf("%d bytes, %x", size, sum.Sum(nil))
		}
		nodes[path] = n
	}
	names := map[string][]string{}
	for path, of := range first {
		names[of] = append(names[of], path)
	}
	for of, list := range names {
		if slices.Sort(list); len(list) > 1 {
			n := nodes[of]
			n.Names = strings.Join(list, " ")
			for _, path := range list {
				nodes[path] = n
			}
		}
	}
	return nodes
}

// TestImportsAreWhatDockerMakes: an image of ours is file by file what the Docker engine makes
// of the same layers, sound in e2fsck's eyes, and the same whichever way it came to whichever
// store.
func TestImportsAreWhatDockerMakes(t *testing.T) {
	socket := startDocker(t)
	docker := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), commandTime)
		defer cancel()
		var said bytes.Buffer
		cmd := exec.CommandContext(ctx, "docker", append([]string{"--host", "unix://" + socket}, args...)...)
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("docker %s: %v\n%s", args[0], err, &said)
		}
		return strings.TrimSpace(string(out))
	}
	dir := t.TempDir()
	saved, exported := filepath.Join(dir, "saved.tar"), filepath.Join(dir, "exported.tar")
	ref, err := name.NewTag("team/tricky:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(saved, ref, containerImage(t, v1.Config{Cmd: []string{"/bin/x"}}, trickyLayers(t)...)); err != nil {
		t.Fatal(err)
	}
	docker("load", "-i", saved)
	docker("export", "-o", exported, docker("create", "--network", "none", "team/tricky:1"))

	pushed := watchRegistry(t).addr + "/team/tricky:1"
	push(t, pushed, v1.Config{Cmd: []string{"/bin/x"}}, trickyLayers(t)...)
	var rootfs []string
	for _, source := range []string{"docker-archive:" + saved, pushed} {
		l := newLab(t, "fake", false)
		l.must("image", "pull", source, "-t", "tricky")
		ours := filepath.Join(l.dir, "ours.tar")
		l.must("image", "export", "tricky", "-o", ours)
		want, got := treeOf(t, exported), treeOf(t, ours)
		if n, ok := got["/noted"]; !ok || n.Xattrs != `user.note="a\x00b" ` {
			t.Errorf("noted: %+v", n)
		} else { // docker export leaves attributes of users out
			n.Xattrs = ""
			got["/noted"] = n
		}
		for _, made := range []string{"/", "/.dockerenv", "/dev", "/dev/console", "/dev/pts", "/dev/shm", "/etc", "/etc/hosts", "/etc/hostname", "/etc/mtab", "/etc/resolv.conf", "/proc", "/sys"} {
			delete(want, made) // by the engine, for the container
			delete(got, made)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-docker +ours):\n%s", source, d)
		}
		if len(got) < 40 {
			t.Errorf("only %d files were compared", len(got))
		}
		var info struct {
			Path    string
			Content struct{ Rootfs string }
		}
		if err := json.Unmarshal([]byte(l.must("image", "info", "tricky")), &info); err != nil {
			t.Fatal(err)
		}
		rootfs = append(rootfs, info.Content.Rootfs)
		if out, err := exec.CommandContext(t.Context(), "e2fsck", "-fn", info.Path).CombinedOutput(); err != nil {
			t.Errorf("e2fsck: %v\n%s", err, out)
		}
		l.nothingLeft()
	}
	if rootfs[0] == "" || rootfs[0] != rootfs[1] {
		t.Errorf("the same image has the digests %q", rootfs)
	}
}

func treeOf(t *testing.T, path string) map[string]node {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return readTree(t, bufio.NewReader(f))
}

// Files that mean harm to the host: nothing outside the lab is read or written, no image comes
// of it, and what is wrong is said with a code.
func TestHostileImageFiles(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	if err := os.Mkdir(victim, 0o700); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(victim, "secret")
	if err := os.WriteFile(secret, []byte("of the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pack := func(name string, entries ...tarEntry) string {
		r, err := smallLayer(t, entries...).Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return write(name, data)
	}
	link := func(name, to string) tarEntry {
		return tarEntry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}}
	}
	hard := tarEntry{Header: tar.Header{Typeflag: tar.TypeLink, Name: "out", Linkname: "d/secret", Mode: 0o600}}
	// A header with a backing file, as qemu-img would follow it.
	qcow2 := make([]byte, 1<<20)
	copy(qcow2, "QFI\xfb\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00")
	qcow2[19] = byte(len(secret))
	copy(qcow2[0x200:], secret)
	ext4 := make([]byte, 1<<20) // a superblock and rubbish
	copy(ext4[1024+0x38:], "\x53\xef")
	saved := filepath.Join(dir, "saved.tar")
	ref, err := name.NewTag("team/bad:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(saved, ref, containerImage(t, v1.Config{}, smallLayer(t, link("d", victim)), smallLayer(t, tarFile("d/.wh.secret", ""), tarFile("d/new", "x")))); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		code string
		args []string
	}{
		"out by dots":      {"archive.path_escape", []string{"image", "import", pack("dots.tar", tarFile("../../victim/new", "x"))}},
		"out by a link":    {"archive.conflict", []string{"image", "import", pack("link.tar", link("d", victim), tarFile("d/new", "x"))}},
		"in by a link":     {"archive.conflict", []string{"image", "import", pack("hard.tar", link("d", victim), hard)}},
		"whiteout by link": {"archive.conflict", []string{"image", "pull", "docker-archive:" + saved}},
		"a backing file":   {"archive.invalid", []string{"image", "import", write("backing.qcow2", qcow2)}},
		"damaged ext4":     {"disk.unusable", []string{"image", "import", write("damaged.ext4", ext4)}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, "fake", false)
			r := l.run(append(tt.args, "--json")...)
			if code, remedy := errorOf(t, r); r.code != 125 || code != tt.code || remedy == "" || strings.Contains(r.stderr, "of the host") {
				t.Errorf("want %s with a remedy: %v", tt.code, r)
			}
			if names := l.imageNames(); len(names) > 0 {
				t.Errorf("images %v are there", names)
			}
			l.nothingLeft()
			entries, err := os.ReadDir(victim)
			if data, _ := os.ReadFile(secret); err != nil || len(entries) != 1 || string(data) != "of the host" {
				t.Errorf("the host was changed: %v, %q, %v", entries, data, err)
			}
		})
	}
}

// What is inside the program needs no network.
func TestFetchWithoutANetwork(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: runs in a network name space of its own")
	}
	l := newLab(t, "fake", false)
	var list []struct{ Name, Builder string }
	if err := json.Unmarshal([]byte(l.must("image", "list", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	fetched := 0
	for _, i := range list {
		if i.Builder != "embedded" {
			continue
		}
		fetched++
		ctx, cancel := context.WithTimeout(t.Context(), commandTime)
		defer cancel()
		cmd := l.command(ctx, nil, "image", "fetch", i.Name)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if out, err := cmd.CombinedOutput(); errors.Is(err, syscall.EPERM) {
			t.Skipf("needs network name spaces: %v", err)
		} else if err != nil {
			t.Errorf("fetching %s: %v\n%s", i.Name, err, out)
		}
		if names := l.imageNames(); !slices.Contains(names, i.Name) {
			t.Errorf("%s is not in the store: %v", i.Name, names)
		}
	}
	if fetched == 0 {
		t.Error("nothing is embedded")
	}
	l.must("image", "verify")
	l.nothingLeft()
}
