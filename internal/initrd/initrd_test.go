package initrd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

var elfModule = []byte("\x7fELF a module, as far as an archive is concerned")

// testInput writes an agent and modules of every compression.
func testInput(t *testing.T) Input {
	t.Helper()
	dir := t.TempDir()
	in := Input{Agent: filepath.Join(dir, "mvm-agent"), KernelID: "0123456789abcdef"}
	write(t, in.Agent, []byte("the agent"))
	for _, m := range []struct {
		name    string
		content []byte
	}{
		{"virtio_ring.ko", elfModule},
		{"virtio.ko.xz", packed(t, "xz")},
		{"virtio-rng.ko.zst", packed(t, "zst")},
		{"overlay.ko.gz", packed(t, "gz")},
	} {
		path := filepath.Join(dir, m.name)
		write(t, path, m.content)
		in.Modules = append(in.Modules, path)
	}
	return in
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func packed(t testing.TB, how string) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch how {
	case "xz":
		w, err = xz.NewWriter(&b)
	case "zst":
		w, err = zstd.NewWriter(&b)
	case "gz":
		w = gzip.NewWriter(&b)
	}
	if err == nil {
		_, err = w.Write(elfModule)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func mustBuild(t *testing.T, cache string, in Input) string {
	t.Helper()
	path, err := Build(context.Background(), cache, in)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLayout(t *testing.T) {
	path := mustBuild(t, t.TempDir(), testInput(t))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	err = Walk(bytes.NewReader(b), int64(len(b)), func(e Entry, r io.Reader) error {
		content, err := io.ReadAll(r)
		text := string(content)
		if text == string(elfModule) {
			text = "MODULE"
		}
		got = append(got, strings.TrimSpace(fmt.Sprintf("%06o %s %d:%d %s", e.Mode, e.Name, e.Major, e.Minor, text)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"040755 dev 0:0", "020600 dev/console 5:1", "020666 dev/null 1:3", "040755 proc 0:0", "040755 sys 0:0", "040755 run 0:0",
		"040755 newroot 0:0", "040755 mvm 0:0", "040755 mvm/modules 0:0", "120777 init 0:0 mvm/mvm-agent",
		"100755 mvm/mvm-agent 0:0 the agent", "100644 mvm/modules/000-virtio_ring.ko 0:0 MODULE",
		"100644 mvm/modules/001-virtio.ko 0:0 MODULE", "100644 mvm/modules/002-virtio-rng.ko 0:0 MODULE",
		"100644 mvm/modules/003-overlay.ko 0:0 MODULE",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Another program must read it as we mean it: owner root, time 0, contents whole.
func TestBusyboxReadsTheArchive(t *testing.T) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("busybox is not installed")
	}
	f, err := os.Open(mustBuild(t, t.TempDir(), testInput(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.CommandContext(context.Background(), busybox, "cpio", "-tv")
	cmd.Stdin = f
	cmd.Env = append(os.Environ(), "TZ=UTC")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Skipf("busybox has no cpio that lists: %v: %s", err, out)
	}
	for _, want := range []string{"-rwxr-xr-x", "1970", "init -> mvm/mvm-agent", "mvm/modules/003-overlay.ko"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestEqualInputGivesEqualBytes(t *testing.T) {
	in := testInput(t)
	a, b := mustBuild(t, t.TempDir(), in), mustBuild(t, t.TempDir(), in)
	one, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) || filepath.Base(a) != filepath.Base(b) {
		t.Error("two builds differ")
	}
	if len(one)%4096 != 0 {
		t.Errorf("%d bytes are no whole number of pages", len(one))
	}
}

// Whatever matters in the guest changes the key; where the files lie does not.
func TestCacheKey(t *testing.T) {
	cache, in := t.TempDir(), testInput(t)
	first := mustBuild(t, cache, in)
	if again := mustBuild(t, cache, testInput(t)); again != first {
		t.Error("the same files elsewhere were built again")
	}
	for name, change := range map[string]func(in *Input){
		"kernel": func(in *Input) { in.KernelID = "fedcba9876543210" },
		"agent":  func(in *Input) { write(t, in.Agent, []byte("new agent")) },
		"order":  func(in *Input) { in.Modules[0], in.Modules[1] = in.Modules[1], in.Modules[0] },
		"fewer":  func(in *Input) { in.Modules = in.Modules[1:] },
		"size":   func(in *Input) { write(t, in.Modules[0], append(elfModule, 0)) },
	} {
		t.Run(name, func(t *testing.T) {
			in := testInput(t)
			change(&in)
			if mustBuild(t, cache, in) == first {
				t.Error("the key is the same")
			}
		})
	}
}

// A hit must not read the inputs: they are gone here except for the modules' sizes.
func TestAHitReadsNoContent(t *testing.T) {
	cache, in := t.TempDir(), testInput(t)
	in.AgentDigest = fmt.Sprintf("%x", sha256.Sum256([]byte("the agent")))
	first := mustBuild(t, cache, in)
	if err := os.Remove(in.Agent); err != nil {
		t.Fatal(err)
	}
	if again := mustBuild(t, cache, in); again != first {
		t.Error("built again")
	}
}

// After a crash of the host a file may be short, or long enough but not yet written.
func TestDamagedCacheFilesAreBuiltAgain(t *testing.T) {
	for name, harm := range map[string]func(path string, size int64) error{
		"truncated":        func(p string, size int64) error { return os.Truncate(p, size/2) },
		"one sector short": func(p string, size int64) error { return os.Truncate(p, size-512) },
		"one byte short":   func(p string, size int64) error { return os.Truncate(p, size-1) },
		"empty":            func(p string, _ int64) error { return os.Truncate(p, 0) },
		"only zeros":       func(p string, size int64) error { return os.WriteFile(p, make([]byte, size), 0o644) },
		"something behind": func(p string, size int64) error { return os.Truncate(p, size+512) },
	} {
		t.Run(name, func(t *testing.T) {
			cache, in := t.TempDir(), testInput(t)
			path := mustBuild(t, cache, in)
			good, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := harm(path, int64(len(good))); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(mustBuild(t, cache, in))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, good) {
				t.Error("a damaged archive was used")
			}
		})
	}
}

func TestConcurrentBuilders(t *testing.T) {
	cache, in := t.TempDir(), testInput(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			path, err := Build(context.Background(), cache, in)
			if err != nil {
				t.Error(err)
			} else if !whole(path) {
				t.Error("a builder returned an incomplete archive")
			}
		})
	}
	wg.Wait()
	assertOnlyArchives(t, cache, 1)
}

func assertOnlyArchives(t *testing.T, cache string, n int) {
	t.Helper()
	files, err := fs.Glob(os.DirFS(cache), "initrd/*")
	if err != nil {
		t.Fatal(err)
	}
	hidden, err := fs.Glob(os.DirFS(cache), "initrd/.*")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != n || len(hidden) != 0 {
		t.Errorf("the cache holds %v %v", files, hidden)
	}
}

func TestBuildFailures(t *testing.T) {
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for name, c := range map[string]struct {
		ctx   context.Context //nolint:containedctx // a test case
		spoil func(in *Input) error
	}{
		"no agent":         {nil, func(in *Input) error { return os.Remove(in.Agent) }},
		"empty agent":      {nil, func(in *Input) error { return os.Truncate(in.Agent, 0) }},
		"agent is another": {nil, func(in *Input) error { in.AgentDigest = strings.Repeat("0", 64); return nil }},
		"no module":        {nil, func(in *Input) error { return os.Remove(in.Modules[1]) }},
		"damaged module":   {nil, func(in *Input) error { return os.Truncate(in.Modules[1], 40) }},
		"text as module":   {nil, func(in *Input) error { return os.WriteFile(in.Modules[0], []byte("text"), 0o644) }},
		"too many modules": {nil, func(in *Input) error { in.Modules = make([]string, 1001); return nil }},
		"cancelled":        {cancelled, func(*Input) error { return nil }},
	} {
		t.Run(name, func(t *testing.T) {
			cache, in := t.TempDir(), testInput(t)
			if err := c.spoil(&in); err != nil {
				t.Fatal(err)
			}
			ctx := c.ctx
			if ctx == nil {
				ctx = context.Background()
			}
			if path, err := Build(ctx, cache, in); err == nil {
				t.Errorf("built %s", path)
			}
			assertOnlyArchives(t, cache, 0)
		})
	}
}

func TestBombModule(t *testing.T) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.CopyN(w, zeros{}, maxModule+1); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := expand(&b); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("a bomb of %d bytes: %v", maxModule+1, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func FuzzWalk(f *testing.F) {
	var b bytes.Buffer
	w := &writer{w: &b}
	for _, err := range []error{
		w.header(Entry{Name: "dev", Mode: modeDir}),
		w.file(Entry{Name: "init", Mode: modeRegular, Size: 5}, strings.NewReader("hello")),
		w.close(),
	} {
		if err != nil {
			f.Fatal(err)
		}
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:200])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		var total int64
		err := Walk(bytes.NewReader(b), int64(len(b)), func(e Entry, r io.Reader) error {
			n, err := io.Copy(io.Discard, r)
			if err == nil && n != e.Size {
				t.Errorf("%q has %d bytes, its header says %d", e.Name, n, e.Size)
			}
			total += n
			return err
		})
		if err == nil && total > int64(len(b)) {
			t.Errorf("%d bytes of content in %d", total, len(b))
		}
	})
}

func FuzzExpand(f *testing.F) {
	for _, how := range []string{"xz", "zst", "gz"} {
		f.Add(packed(f, how))
	}
	f.Add(elfModule)
	f.Fuzz(func(t *testing.T, b []byte) {
		if raw, err := expand(bytes.NewReader(b)); err == nil && len(raw) > maxModule {
			t.Errorf("%d bytes", len(raw))
		}
	})
}
