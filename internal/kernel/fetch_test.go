package kernel

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// fakeApt makes a directory with apt-get and apt-cache that behave like the real ones for a few
// packages: name → dependencies, and name → package file for those that can be downloaded.
// Every download is noted in the file "log".
type fakeApt struct {
	dir     string
	depends map[string][]string
	files   map[string][]byte
}

func (a fakeApt) write(t *testing.T) {
	t.Helper()
	var cache, uris, get strings.Builder
	for name, deps := range a.depends {
		fmt.Fprintf(&cache, "%s) echo %s\n", name, name)
		for _, d := range deps {
			fmt.Fprintf(&cache, "echo '  Depends: %s'\n", d)
		}
		fmt.Fprintln(&cache, ";;")
	}
	for name, content := range a.files {
		file := name + "_1.0_amd64.deb"
		if err := os.WriteFile(filepath.Join(a.dir, file), content, 0o644); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&uris, "%s) echo \"'http://test/%s' %s %d SHA256:%x\" ;;\n", name, file, file, len(content), sha256.Sum256(content))
		fmt.Fprintf(&get, "%s) cp %q . ;;\n", name, filepath.Join(a.dir, file))
	}
	scripts := map[string]string{
		"apt-cache": `for last; do :; done
case "$last" in
` + cache.String() + `
*) echo "E: No packages found" >&2; exit 100 ;;
esac
`,
		"apt-get": `echo "$*" >>` + filepath.Join(a.dir, "log") + `
if [ "$1" = --print-uris ]; then
	shift 2
	for p; do case "$p" in
	` + uris.String() + `
	esac; done
	exit 0
fi
echo "dlstatus:1:50.0:Retrieving file 1 of 1" >&3
while [ "$1" != download ]; do shift; done
shift
[ -e ` + filepath.Join(a.dir, "fail") + ` ] && { echo "E: Failed to fetch: no route to host" >&2; exit 100; }
[ -p ` + filepath.Join(a.dir, "hang") + ` ] && { : >partial.deb; exec cat ` + filepath.Join(a.dir, "hang") + `; }
for p; do case "$p" in
` + get.String() + `
esac; done
`,
	}
	for name, text := range scripts {
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func (a fakeApt) downloads(t *testing.T) int {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(a.dir, "log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(log)) {
		if !strings.HasPrefix(line, "--print-uris") {
			n++
		}
	}
	return n
}

// debian offers the kernel as Debian 12 does: one package, meta package above it.
func debian(t *testing.T) fakeApt {
	t.Helper()
	image := "linux-image-" + testRelease
	files := below("lib/modules/"+testRelease, testModules(testRelease))
	files["boot/vmlinuz-"+testRelease] = goodBzImage()
	files["boot/config-"+testRelease] = []byte(testConfig)
	files["usr/share/doc/readme"] = []byte("not wanted")
	a := fakeApt{
		dir: t.TempDir(),
		depends: map[string][]string{
			"linux-image-cloud-amd64": {image}, image: {"kmod", "linux-base", "<initramfs-tool>"},
		},
		files: map[string][]byte{image: deb("data.tar.xz", packXZ, files)},
	}
	a.write(t)
	return a
}

func TestFetchOnDebian(t *testing.T) {
	apt, cache, root := debian(t), t.TempDir(), t.TempDir()
	writeTree(t, root, map[string][]byte{"etc/os-release": []byte("NAME=\"Debian\"\nID=debian\n")})
	s := New(cache, WithTools(apt.dir), WithArch("amd64"), WithHostRoot(root))
	var lastDone, lastTotal int64
	k, err := s.Fetch(context.Background(), func(done, total int64, _ string) {
		if total > 0 {
			lastDone, lastTotal = done, total
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if k.Release != testRelease || k.Source != "debian package linux-image-"+testRelease || !k.PVH || k.Config["CONFIG_EXT4_FS"] != "y" {
		t.Errorf("got %+v", k)
	}
	if lastDone == 0 || lastDone != lastTotal {
		t.Errorf("progress ended at %d of %d bytes", lastDone, lastTotal)
	}
	if _, err := os.Stat(filepath.Join(k.Modules, "kernel/drivers/gpu/huge.ko")); err == nil {
		t.Error("an unwanted module was kept")
	}
	if left := leftovers(t, cache); left != nil {
		t.Errorf("left behind: %v", left)
	}
	// It is the default from now on, and a second fetch of the same version downloads nothing.
	if d := mustFind(t, s, ""); d.ID != k.ID {
		t.Errorf("default is %s", d.ID)
	}
	if again, err := s.Fetch(context.Background(), nil); err != nil || again.ID != k.ID {
		t.Errorf("second fetch: %s, %v", again.ID, err)
	}
	if n := apt.downloads(t); n != 1 {
		t.Errorf("%d downloads", n)
	}
	// Unless what is cached is damaged.
	if err := os.Truncate(k.VMLinux, 5); err != nil {
		t.Fatal(err)
	}
	if again, err := s.Fetch(context.Background(), nil); err != nil || again.ID != k.ID {
		t.Errorf("fetch of a damaged kernel: %s, %v", again.ID, err)
	}
	if err := s.Verify(context.Background(), k); err != nil {
		t.Error(err)
	}
}

// Ubuntu has the modules in a package of their own, below /usr and compressed by zstd.
func TestFetchOnUbuntu(t *testing.T) {
	image, modules := "linux-image-"+testRelease, "linux-modules-"+testRelease
	a := fakeApt{
		dir: t.TempDir(),
		depends: map[string][]string{
			"linux-image-virtual": {image}, image: {"kmod", modules}, modules: {"linux-base"},
		},
		files: map[string][]byte{
			image: deb("data.tar.zst", packZstd, map[string][]byte{"boot/vmlinuz-" + testRelease: goodBzImage()}),
			modules: deb("data.tar.gz", packGzip, func() map[string][]byte {
				files := below("usr/lib/modules/"+testRelease, testModules(testRelease))
				files["boot/config-"+testRelease] = []byte(testConfig)
				return files
			}()),
		},
	}
	a.write(t)
	s := New(t.TempDir(), WithTools(a.dir), WithArch("amd64"), WithHostRoot(t.TempDir()))
	k, err := s.Fetch(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := k.ModuleFiles([]string{"virtio_blk", "overlay"})
	if err != nil || len(files) != 4 {
		t.Errorf("modules %v, %v", files, err)
	}
}

// On arm64 the packages have names of their own and the kernel another form.
func TestFetchForARM64(t *testing.T) {
	raw := make([]byte, 8192)
	copy(raw[56:], "ARM\x64")
	copy(raw[3000:], "Linux version 6.1.0-9-cloud-arm64 (x) #1")
	image := "linux-image-6.1.0-9-cloud-arm64"
	a := fakeApt{
		dir:     t.TempDir(),
		depends: map[string][]string{"linux-image-cloud-arm64": {image}, image: {"kmod"}},
		files: map[string][]byte{image: deb("data.tar.xz", packXZ, map[string][]byte{
			"boot/vmlinuz-6.1.0-9-cloud-arm64": packGzip(raw),
			"boot/config-6.1.0-9-cloud-arm64":  []byte(strings.ReplaceAll(testConfig, "=m", "=y")),
		})},
	}
	a.write(t)
	s := New(t.TempDir(), WithTools(a.dir), WithArch("arm64"), WithHostRoot(t.TempDir()))
	k, err := s.Fetch(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if k.Arch != "arm64" || k.Release != "6.1.0-9-cloud-arm64" || k.ModuleCount != 0 || s.Verify(context.Background(), k) != nil {
		t.Errorf("got %+v", k)
	}
	// One changed bit, and it is refused.
	file := filepath.Join(a.dir, image+"_1.0_amd64.deb")
	bent := slices.Clone(a.files[image])
	bent[len(bent)/2] ^= 1
	writeTree(t, a.dir, map[string][]byte{filepath.Base(file): bent})
	cache := t.TempDir()
	_, err = New(cache, WithTools(a.dir), WithArch("arm64"), WithHostRoot(t.TempDir())).Fetch(context.Background(), nil)
	wantCode(t, err, "kernel.fetch")
	if left := leftovers(t, cache); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

func TestFetchFailures(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, a fakeApt)
		code  string
		text  string
	}{
		{"no apt", func(t *testing.T, a fakeApt) {
			if err := os.Remove(filepath.Join(a.dir, "apt-get")); err != nil {
				t.Fatal(err)
			}
		}, "kernel.missing", "no apt"},
		{"lists never updated", func(t *testing.T, a fakeApt) {
			clear(a.depends)
			a.write(t)
		}, "kernel.missing", "no kernel package"},
		{"no network", func(t *testing.T, a fakeApt) {
			writeTree(t, a.dir, map[string][]byte{"fail": nil})
		}, "kernel.fetch", "no route to host"},
		{"another file than the lists say", func(t *testing.T, a fakeApt) {
			writeTree(t, a.dir, map[string][]byte{"linux-image-" + testRelease + "_1.0_amd64.deb": []byte("x")})
		}, "kernel.fetch", "digest"},
		{"a package that is none", func(t *testing.T, a fakeApt) {
			a.files["linux-image-"+testRelease] = []byte("garbage")
			a.write(t)
		}, "boot.kernel_invalid", "truncated"},
	} {
		t.Run(c.name, func(t *testing.T) {
			apt, cache := debian(t), t.TempDir()
			c.spoil(t, apt)
			_, err := New(cache, WithTools(apt.dir), WithArch("amd64"), WithHostRoot(t.TempDir())).Fetch(context.Background(), nil)
			wantCode(t, err, c.code)
			if !strings.Contains(err.Error(), c.text) {
				t.Errorf("%q does not say %q", err, c.text)
			}
			if left := leftovers(t, cache); left != nil {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// Ctrl-C during the download: apt ends, and nothing is left.
func TestFetchCancelled(t *testing.T) {
	apt, cache := debian(t), t.TempDir()
	if err := makeFifo(filepath.Join(apt.dir, "hang")); err != nil {
		t.Skipf("no fifo to hang on: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := New(cache, WithTools(apt.dir), WithArch("amd64"), WithHostRoot(t.TempDir()))
	_, err := s.Fetch(ctx, func(done, _ int64, _ string) {
		if done > 0 { // apt has reported: it is in the middle
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	if left := leftovers(t, cache); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// The real thing, where there is an apt that knows a kernel and reaches its archive.
func TestFetchFromTheDistribution(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads a kernel package (27 MB); not with -short")
	}
	s := New(t.TempDir())
	k, err := s.Fetch(context.Background(), nil)
	if code := machine.CodeOf(err); code == "kernel.missing" || code == "kernel.fetch" {
		t.Skipf("no kernel package can be had here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	files, err := k.ModuleFiles(WantedModules())
	if err != nil {
		t.Error(err)
	}
	if k.VMLinux == "" || len(files) == 0 && k.Modules != "" {
		t.Errorf("%+v has the modules %v", k, files)
	}
	if err := s.Verify(context.Background(), k); err != nil {
		t.Error(err)
	}
}

func TestParseURIs(t *testing.T) {
	const sum = "00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff"
	out := "Reading package lists...\n'http://x/y.deb' y_1_amd64.deb 10 SHA256:" + sum + "\n" +
		"'http://x/z.deb' ../z.deb 10 SHA256:" + sum + "\n" + // would leave the directory
		"'http://x/w.deb' w.deb 10 MD5Sum:abc\n" + "'http://x/v.deb' v.deb -1 SHA256:" + sum + "\n"
	files := parseURIs(out)
	if len(files) != 1 || files[0].name != "y_1_amd64.deb" || files[0].size != 10 || files[0].sha256 != sum {
		t.Errorf("got %+v", files)
	}
}
