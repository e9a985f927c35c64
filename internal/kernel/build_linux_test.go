package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// fakeTools is a directory with a compiler and a make that build nothing: allnoconfig
// writes a configuration, bzImage copies a kernel. Each run of make is a line in the file "log".
type fakeTools struct{ dir string }

// withTools puts the tools first in PATH.
func withTools(t *testing.T) fakeTools {
	t.Helper()
	f := fakeTools{t.TempDir()}
	writeTree(t, f.dir, map[string][]byte{"bzImage": goodBzImage()})
	f.script(t, "make", `tree= out= target=
while [ $# -gt 0 ]; do case "$1" in -C) tree=$2; shift ;; O=*) out=${1#O=} ;; -j*|*=*) ;; *) target=$1 ;; esac; shift; done
echo "$target" >>`+f.dir+`/log
case $target in
allnoconfig) grep -v -f `+f.dir+`/dropped "$KCONFIG_ALLCONFIG" >"$out/.config" ;;
bzImage)
	for i in $(seq 60); do echo "  CC      file$i.o"; done
	[ ! -e `+f.dir+`/broken ] || { echo "main.c:1:2: error: expected a semicolon"; for i in $(seq 20); do echo "line $i"; done; exit 2; }
	[ ! -p `+f.dir+`/hang ] || { : >"$out/half.o"; sleep 600 & echo $! >`+f.dir+`/pid; cat `+f.dir+`/hang; }
	mkdir -p "$out/arch/x86/boot"; cp `+f.dir+`/bzImage "$out/arch/x86/boot/bzImage" ;;
esac
`)
	writeTree(t, f.dir, map[string][]byte{"dropped": []byte("CONFIG_NO_SUCH\n")})
	for _, name := range []string{"gcc", "ld", "flex", "bison", "bc", "perl", "awk", "lz4"} {
		f.script(t, name, "echo '"+name+" 1.0'\n")
	}
	t.Setenv("PATH", f.dir+":/usr/bin:/bin")
	return f
}

func (f fakeTools) script(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// builds counts the runs of make that compile.
func (f fakeTools) builds(t *testing.T) int {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(f.dir, "log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Count(string(log), "bzImage\n")
}

// sourceFiles are what makes a folder look like the kernel's source.
func sourceFiles() map[string][]byte {
	return map[string][]byte{
		"linux-6.1/Makefile":                 []byte("VERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = 9\nEXTRAVERSION =\n"),
		"linux-6.1/Kconfig":                  nil,
		"linux-6.1/arch/x86/Makefile":        nil,
		"linux-6.1/scripts/kconfig/Makefile": nil,
		"linux-6.1/init/main.c":              []byte("int main;\n"),
	}
}

// tarOf packs files and then more members.
func tarOf(t *testing.T, files map[string][]byte, more ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, content []byte) {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		add(tar.Header{Name: n, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(files[n]))}, files[n])
	}
	for _, h := range more {
		add(h, nil)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sourceFile writes a source as a tar file.
func sourceFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "linux.tar.xz")
	if err := os.WriteFile(path, packXZ(tarOf(t, sourceFiles())), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// workLeft lists what is in the work folder beside the lock.
func workLeft(t *testing.T, cache string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(cache, WorkDir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		if e.Name() != WorkLock {
			kind, _, _ := strings.Cut(e.Name(), "-")
			left = append(left, kind)
		}
	}
	return left
}

func TestBuild(t *testing.T) {
	tools, cache, src := withTools(t), t.TempDir(), sourceFile(t)
	s := New(cache, WithArch("amd64"), WithHostRoot(t.TempDir()))
	var said []string
	opts := BuildOptions{Source: src, Progress: func(_, _ int64, what string) { said = append(said, what) }}
	k, made, err := s.Build(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if !made || k.Release != testRelease || k.Modules != "" || k.ModuleCount != 0 || !k.PVH || k.Config["CONFIG_EXT4_FS"] != "y" {
		t.Errorf("got %+v, %t", k, made)
	}
	if b := k.Build; b == nil || b.Version != "6.1.9" || len(b.SourceSHA256) != 64 || len(b.ConfigSHA256) != 64 || b.Compiler != "gcc 1.0" || b.Linker != "ld 1.0" {
		t.Errorf("record %+v", k.Build)
	}
	if text := strings.Join(said, ";"); !strings.Contains(text, "configuring") || !strings.Contains(text, "compiling, 50 files so far") {
		t.Errorf("progress: %s", text)
	}
	if left := workLeft(t, cache); !slices.Equal(left, []string{"source"}) {
		t.Errorf("the work folder has %v", left)
	}
	if files, err := mustFind(t, s, k.ID).ModuleFiles(WantedModules()); err != nil || files != nil {
		t.Errorf("modules %v, %v", files, err)
	}
	if again, made, err := s.Build(t.Context(), opts); err != nil || made || again.ID != k.ID || again.Build == nil || tools.builds(t) != 1 {
		t.Errorf("second build: %v, %t, %v, %d runs", again, made, err, tools.builds(t))
	}
	// Another compiler, other options: another build, of the same unpacked source.
	tools.script(t, "gcc", "echo 'gcc 2.0'\n")
	if again, made, err := s.Build(t.Context(), opts); err != nil || !made || again.Build.Compiler != "gcc 2.0" {
		t.Errorf("build by another compiler: %+v, %t, %v", again, made, err)
	}
	config := filepath.Join(t.TempDir(), "mine.config")
	writeTree(t, filepath.Dir(config), map[string][]byte{"mine.config": []byte("# mine\nCONFIG_USB=y\n# CONFIG_EROFS_FS is not set\n")})
	opts.Config = config
	if again, made, err := s.Build(t.Context(), opts); err != nil || !made || again.Build.ConfigSHA256 == k.Build.ConfigSHA256 {
		t.Errorf("build with other options: %+v, %t, %v", again, made, err)
	}
}

// A kernel that was built is there to be asked for. The default stays the distribution's.
func TestABuiltKernelIsNotTheDefault(t *testing.T) {
	withTools(t)
	cache, root := t.TempDir(), t.TempDir()
	install(t, root, "5.10.0-1-amd64")
	s := New(cache, WithArch("amd64"), WithHostRoot(root))
	host := mustFind(t, s, "")
	k, _, err := s.Build(t.Context(), BuildOptions{Source: sourceFile(t)})
	if err != nil {
		t.Fatal(err)
	}
	if d := mustFind(t, s, ""); d.ID != host.ID {
		t.Errorf("the default is %s", d.Release)
	}
	if got := mustFind(t, s, testRelease); got.ID != k.ID {
		t.Errorf("%s is %s", testRelease, got.ID)
	}
	list, err := s.List(t.Context())
	if err != nil || len(list) != 2 || list[0].ID != host.ID || !list[0].Default || list[1].Default {
		t.Errorf("list %+v, %v", list, err)
	}
	// It is no kernel for machines of another processor.
	_, err = New(cache, WithArch("arm64"), WithHostRoot(t.TempDir())).Find(t.Context(), testRelease)
	wantCode(t, err, "kernel.missing")
	if !strings.Contains(err.Error(), "is for amd64") {
		t.Error(err)
	}
}

// From the distribution's package, which is checked against the digest in apt's lists.
func TestBuildFromApt(t *testing.T) {
	tools, cache := withTools(t), t.TempDir()
	source := deb("data.tar.xz", packXZ, map[string][]byte{
		"usr/share/doc/readme":              []byte("not wanted"),
		"usr/src/linux-source-6.1.tar.xz":   packXZ(tarOf(t, sourceFiles())),
		"usr/src/linux-source-6.1.0.readme": []byte("not wanted"),
	})
	apt := fakeApt{dir: t.TempDir(), depends: map[string][]string{"linux-source-6.1": {"binutils", "bzip2"}}, files: map[string][]byte{"linux-source-6.1": source}}
	apt.write(t)
	s := New(cache, WithTools(apt.dir), WithArch("amd64"), WithHostRoot(t.TempDir()))

	t.Run("another package than the lists say", func(t *testing.T) {
		writeTree(t, apt.dir, map[string][]byte{"linux-source-6.1_1.0_amd64.deb": append(source, 0)})
		_, _, err := s.Build(t.Context(), BuildOptions{})
		wantCode(t, err, "kernel.fetch")
		if left := workLeft(t, cache); left != nil || tools.builds(t) != 0 {
			t.Errorf("left behind: %v", left)
		}
		apt.write(t)
	})
	k, made, err := s.Build(t.Context(), BuildOptions{})
	if err != nil || !made || k.Source != "built from linux-source-6.1_1.0_amd64" {
		t.Fatalf("%+v, %t, %v", k, made, err)
	}
	// Nothing is downloaded for a second one, nor for one with other options.
	n := apt.downloads(t)
	tools.script(t, "gcc", "echo 'gcc 2.0'\n")
	if _, made, err := s.Build(t.Context(), BuildOptions{}); err != nil || !made || apt.downloads(t) != n {
		t.Errorf("%t, %v, %d downloads", made, err, apt.downloads(t))
	}
	if left := workLeft(t, cache); !slices.Equal(left, []string{"source"}) {
		t.Errorf("the work folder has %v", left)
	}
}

func TestMissingToolsAreOneError(t *testing.T) {
	empty := t.TempDir()
	t.Setenv("PATH", empty)
	_, _, err := New(t.TempDir(), WithArch("amd64")).Build(t.Context(), BuildOptions{Source: empty})
	wantCode(t, err, "kernel.tools")
	var me *machine.Error
	errors.As(err, &me)
	for _, want := range []string{"make", "gcc", "flex", "bison", "bc", "lz4", "perl"} {
		if !strings.Contains(me.Message, want) || !strings.Contains(me.Remedy, want) {
			t.Errorf("%q is not named: %s; %s", want, me.Message, me.Remedy)
		}
	}
	if !strings.HasPrefix(me.Remedy, "apt-get install") {
		t.Errorf("remedy %q", me.Remedy)
	}
	for arch, pkg := range map[string]string{"arm64": "gcc-aarch64-linux-gnu", "amd64": "gcc-x86-64-linux-gnu"} {
		if crossPrefix(arch) == "" {
			continue
		}
		_, _, err = New(t.TempDir()).Build(t.Context(), BuildOptions{Source: empty, Arch: arch})
		if errors.As(err, &me); me.Code != "kernel.tools" || !strings.Contains(me.Remedy, pkg) {
			t.Errorf("for %s: %v: %s", arch, err, me.Remedy)
		}
	}
}

func TestBuildFailures(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, tools fakeTools, o *BuildOptions)
		code  string
		text  string
	}{
		{"the compiler fails", func(t *testing.T, f fakeTools, _ *BuildOptions) {
			writeTree(t, f.dir, map[string][]byte{"broken": nil})
		}, "kernel.build", "exit status 2"},
		{"the source drops options", func(t *testing.T, f fakeTools, _ *BuildOptions) {
			writeTree(t, f.dir, map[string][]byte{"dropped": []byte("CONFIG_EROFS_FS=\nCONFIG_VIRTIO_BLK=\n")})
		}, "kernel.config", "CONFIG_EROFS_FS=y (it is n), CONFIG_VIRTIO_BLK=y (it is n)"},
		{"options that are none", func(t *testing.T, f fakeTools, o *BuildOptions) {
			writeTree(t, f.dir, map[string][]byte{"my": []byte("CONFIG_A=y\n\nCONFIG_B=$(reboot)\n")})
			o.Config = filepath.Join(f.dir, "my")
		}, "kernel.config", "line 3"},
		{"a module", func(t *testing.T, f fakeTools, o *BuildOptions) {
			writeTree(t, f.dir, map[string][]byte{"my": []byte("CONFIG_USB=m\n")})
			o.Config = filepath.Join(f.dir, "my")
		}, "kernel.config", "write =y"},
		{"no such options", func(t *testing.T, f fakeTools, o *BuildOptions) {
			o.Config = filepath.Join(f.dir, "nowhere")
		}, "kernel.config", "nowhere"},
		{"no such source", func(t *testing.T, f fakeTools, o *BuildOptions) {
			o.Source = filepath.Join(f.dir, "nowhere")
		}, "kernel.source", "nowhere"},
		{"another folder", func(t *testing.T, f fakeTools, o *BuildOptions) { o.Source = f.dir }, "kernel.source", "no file Makefile"},
		{"a folder that was built in", func(t *testing.T, _ fakeTools, o *BuildOptions) {
			o.Source = filepath.Join(t.TempDir(), "linux-6.1")
			writeTree(t, filepath.Dir(o.Source), sourceFiles())
			writeTree(t, o.Source, map[string][]byte{".config": nil})
		}, "kernel.source", "has been built in"},
		{"a kernel of no kind", func(t *testing.T, f fakeTools, _ *BuildOptions) {
			writeTree(t, f.dir, map[string][]byte{"bzImage": []byte("garbage")})
		}, "boot.kernel_invalid", "neither a bzImage"},
		{"another processor", func(_ *testing.T, _ fakeTools, o *BuildOptions) { o.Arch = "../common" }, "usage.flag", "common"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tools, cache := withTools(t), t.TempDir()
			o := BuildOptions{Source: sourceFile(t)}
			c.spoil(t, tools, &o)
			s := New(cache, WithArch("amd64"), WithHostRoot(t.TempDir()))
			_, _, err := s.Build(t.Context(), o)
			wantCode(t, err, c.code)
			if !strings.Contains(err.Error(), c.text) {
				t.Errorf("%q does not say %q", err, c.text)
			}
			if list, err := s.List(t.Context()); err != nil || len(list) != 0 || leftovers(t, cache) != nil {
				t.Errorf("left behind: %v, %v, %v", list, err, leftovers(t, cache))
			}
			var me *machine.Error
			if errors.As(err, &me); c.code == "kernel.build" {
				if log, err := os.ReadFile(me.Log); err != nil || !strings.Contains(string(log), "line 20") ||
					!strings.Contains(me.Detail, "expected a semicolon") || !strings.HasSuffix(me.Detail, "line 20") {
					t.Errorf("log %v, detail %q", err, me.Detail)
				}
			}
		})
	}
}

// Ctrl-C ends every process of the build and leaves no kernel; the next build goes on.
func TestInterruptedBuildHeals(t *testing.T) {
	tools, cache := withTools(t), t.TempDir()
	if err := makeFifo(filepath.Join(tools.dir, "hang")); err != nil {
		t.Skipf("no fifo to hang on: %v", err)
	}
	s := New(cache, WithArch("amd64"), WithHostRoot(t.TempDir()))
	ctx, cancel := context.WithCancel(t.Context())
	opts := BuildOptions{Source: sourceFile(t)}
	ended := make(chan error, 1)
	go func() {
		_, _, err := s.Build(ctx, opts)
		ended <- err
	}()
	// The build has come to the fifo when somebody reads it.
	fifo, err := os.OpenFile(filepath.Join(tools.dir, "hang"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer fifo.Close()
	raw, err := os.ReadFile(filepath.Join(tools.dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	child, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(child)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	fds := []unix.PollFd{{Fd: int32(child), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, int((10 * time.Second).Milliseconds())); n != 1 || err != nil {
		t.Errorf("a process of the build still runs: %v", err)
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	if left := leftovers(t, cache); left != nil {
		t.Errorf("left behind: %v", left)
	}
	if left := workLeft(t, cache); !slices.Equal(left, []string{"build", "source"}) {
		t.Errorf("the work folder has %v", left)
	}
	if err := os.Remove(filepath.Join(tools.dir, "hang")); err != nil {
		t.Fatal(err)
	}
	if k, made, err := s.Build(t.Context(), opts); err != nil || !made || s.Verify(t.Context(), k) != nil {
		t.Errorf("the next build: %+v, %t, %v", k, made, err)
	}
	if left := workLeft(t, cache); !slices.Equal(left, []string{"source"}) {
		t.Errorf("the work folder has %v", left)
	}
}

// What a build left that was killed by a crash of the host is not trusted.
func TestLeftoversOfAnotherBootAreRemoved(t *testing.T) {
	withTools(t)
	cache := t.TempDir()
	work := filepath.Join(cache, WorkDir)
	writeTree(t, work, map[string][]byte{
		".unpack-17/source/Makefile":          []byte("half"),
		"build-0123456789abcdef/boot_id":      []byte("another"),
		"build-0123456789abcdef/out/torn.o":   nil,
		"build-1123456789abcdef/out/unsigned": nil,
	})
	if _, _, err := New(cache, WithArch("amd64"), WithHostRoot(t.TempDir())).Build(t.Context(), BuildOptions{Source: sourceFile(t)}); err != nil {
		t.Fatal(err)
	}
	if left := workLeft(t, cache); !slices.Equal(left, []string{"source"}) {
		t.Errorf("the work folder has %v", left)
	}
}

func TestHostileSources(t *testing.T) {
	good := tarOf(t, sourceFiles())
	with := func(h ...tar.Header) []byte { return tarOf(t, sourceFiles(), h...) }
	for name, raw := range map[string][]byte{
		"empty":                nil,
		"garbage":              bytes.Repeat([]byte("kernel "), 1000),
		"truncated":            good[:len(good)/2],
		"truncated xz":         packXZ(good)[:200],
		"no kernel":            tarOf(t, map[string][]byte{"linux/readme": nil}),
		"a name that leaves":   with(tar.Header{Name: "../escaped", Typeflag: tar.TypeReg, Mode: 0o644}),
		"an absolute name":     with(tar.Header{Name: "/tmp/escaped", Typeflag: tar.TypeReg, Mode: 0o644}),
		"a name in the middle": with(tar.Header{Name: "linux-6.1/../../escaped", Typeflag: tar.TypeReg, Mode: 0o644}),
		"an absolute link":     with(tar.Header{Name: "linux-6.1/l", Typeflag: tar.TypeSymlink, Linkname: "/etc"}),
		"a link that leaves":   with(tar.Header{Name: "linux-6.1/a/l", Typeflag: tar.TypeSymlink, Linkname: "../../x"}),
		"a file through a link": with(tar.Header{Name: "linux-6.1/l", Typeflag: tar.TypeSymlink, Linkname: "Makefile"},
			tar.Header{Name: "linux-6.1/l/x", Typeflag: tar.TypeReg, Mode: 0o644}),
		"a file over a link": with(tar.Header{Name: "linux-6.1/l", Typeflag: tar.TypeSymlink, Linkname: "Makefile"},
			tar.Header{Name: "linux-6.1/l", Typeflag: tar.TypeReg, Mode: 0o644}),
		"one name twice":          with(tar.Header{Name: "linux-6.1/Makefile", Typeflag: tar.TypeReg, Mode: 0o644}),
		"a folder over a file":    with(tar.Header{Name: "linux-6.1/Makefile", Typeflag: tar.TypeDir, Mode: 0o755}),
		"a hard link that leaves": with(tar.Header{Name: "linux-6.1/h", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"}),
		"a device":                with(tar.Header{Name: "linux-6.1/d", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}),
		"a fifo":                  with(tar.Header{Name: "linux-6.1/f", Typeflag: tar.TypeFifo}),
		"a Makefile that is a link": tarOf(t, map[string][]byte{"l/Kconfig": nil, "l/arch/x86/Makefile": nil, "l/scripts/kconfig/Makefile": nil},
			tar.Header{Name: "l/Makefile", Typeflag: tar.TypeSymlink, Linkname: "Kconfig"}),
		"a version of no kind": tarOf(t, func() map[string][]byte {
			files := sourceFiles()
			files["linux-6.1/Makefile"] = []byte("VERSION = $(shell reboot)\n")
			return files
		}()),
		"a package without one": deb("data.tar.xz", packXZ, map[string][]byte{"usr/src/other": nil}),
	} {
		t.Run(name, func(t *testing.T) {
			tools, dir := withTools(t), t.TempDir()
			cache, src := filepath.Join(dir, "cache"), filepath.Join(dir, "source.tar")
			if err := os.WriteFile(src, raw, 0o644); err != nil {
				t.Fatal(err)
			}
			_, _, err := New(cache, WithArch("amd64"), WithHostRoot(t.TempDir())).Build(t.Context(), BuildOptions{Source: src})
			wantCode(t, err, "kernel.source")
			if tools.builds(t) != 0 {
				t.Error("it was built")
			}
			for _, at := range []string{dir, cache, filepath.Join(cache, WorkDir), "/tmp"} {
				if _, err := os.Lstat(filepath.Join(at, "escaped")); err == nil {
					t.Errorf("a file escaped to %s", at)
				}
			}
			if left := workLeft(t, cache); name != "a version of no kind" && left != nil {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// The options hold what guests need, for every processor, and each is asked for once.
func TestOptionsAreComplete(t *testing.T) {
	needed := strings.Fields(`BLK_DEV_INITRD VIRTIO_PCI VIRTIO_MMIO VIRTIO_BLK VIRTIO_NET VIRTIO_CONSOLE HW_RANDOM_VIRTIO VIRTIO_BALLOON
		VSOCKETS VIRTIO_VSOCKETS EXT4_FS EXT4_FS_POSIX_ACL EROFS_FS SQUASHFS OVERLAY_FS TMPFS TMPFS_XATTR TMPFS_POSIX_ACL FUSE_FS VIRTIO_FS
		SECCOMP SECCOMP_FILTER CGROUPS MEMCG BLK_CGROUP CGROUP_SCHED CFS_BANDWIDTH CGROUP_PIDS CGROUP_FREEZER CPUSETS CGROUP_DEVICE
		CGROUP_HUGETLB CGROUP_BPF NAMESPACES UTS_NS IPC_NS USER_NS PID_NS NET_NS TIME_NS ACPI DEVTMPFS INOTIFY_USER FANOTIFY EPOLL
		SIGNALFD TIMERFD EVENTFD UNIX INET IPV6 PACKET NETLINK_DIAG NF_TABLES NF_NAT NF_CONNTRACK NFT_NAT NFT_MASQ NFT_COMPAT BRIDGE VETH TUN
		AUTOFS_FS BINFMT_MISC BINFMT_ELF BINFMT_SCRIPT DM_VERITY FHANDLE SYSFS PROC_FS NET IP_NF_IPTABLES IP_NF_NAT BRIDGE_NETFILTER
		RANDOMIZE_BASE STACKPROTECTOR_STRONG`)
	for arch, own := range map[string][]string{
		"amd64": {"PVH", "KVM_GUEST", "KERNEL_LZ4", "SERIAL_8250_CONSOLE", "ACPI_BUTTON", "VIRTIO_MMIO_CMDLINE_DEVICES", "PAGE_TABLE_ISOLATION"},
		"arm64": {"SERIAL_AMBA_PL011_CONSOLE", "PCI_HOST_GENERIC", "KEYBOARD_GPIO", "GPIO_PL061"},
	} {
		asked, err := askedOptions(arch, "")
		if err != nil {
			t.Fatal(err)
		}
		on := map[string]string{}
		for _, o := range asked {
			on[o.name] = o.value
		}
		for _, name := range append(slices.Clone(needed), own...) {
			if on["CONFIG_"+name] != "y" {
				t.Errorf("%s: CONFIG_%s is %q", arch, name, on["CONFIG_"+name])
			}
		}
		if on["CONFIG_MODULES"] != "n" {
			t.Errorf("%s has modules", arch)
		}
	}
}

// The order of lines means nothing, the last line about an option counts, and the text that the
// kernel's tool reads says the same again.
func TestOptionText(t *testing.T) {
	list, err := parseOptions("CONFIG_B=\"x y\"\nCONFIG_A=y\n# CONFIG_C is not set\n# a remark\nCONFIG_A=0x1f\n")
	if err != nil {
		t.Fatal(err)
	}
	list = lastOfEach(list)
	if got := optionText(list); got != "CONFIG_A=0x1f\nCONFIG_B=\"x y\"\n# CONFIG_C is not set\n" {
		t.Errorf("%q", got)
	}
	again, err := parseOptions(optionText(list))
	if err != nil || optionDigest(lastOfEach(again)) != optionDigest(list) {
		t.Errorf("%v, %v", again, err)
	}
}

func FuzzParseOptions(f *testing.F) {
	f.Add("CONFIG_A=y\n# CONFIG_B is not set\n")
	f.Add("CONFIG_A=\"\n\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseOptions(text)
		if err != nil {
			return
		}
		list = lastOfEach(list)
		again, err := parseOptions(optionText(list))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(list) {
			t.Errorf("%q is read as %v, and its text as %v, %v", text, list, again, err)
		}
	})
}
