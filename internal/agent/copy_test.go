//go:build unix

package agent_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/agent"
	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// inRoot confines the agent's files to a new folder, which it returns.
func inRoot(t *testing.T, change ...func(*agent.Options)) (string, *agentclient.Client) {
	t.Helper()
	root := t.TempDir()
	g := boot(t, append(change, func(o *agent.Options) { o.Root = root })...)
	return root, g.connect()
}

// entry is a tar entry in a test.
type entry struct {
	h    tar.Header
	body string
}

func file(name, body string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, body}
}

func link(kind byte, name, target string) entry {
	return entry{tar.Header{Typeflag: kind, Name: name, Linkname: target, Mode: 0o777}, ""}
}

func folder(name string, mode int64) entry {
	return entry{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}, ""}
}

// pack makes a tar whose owner is this process's user, so that tests work without root.
func pack(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range entries {
		e.h.Size = int64(len(e.body))
		if e.h.Uid == 0 && e.h.Gid == 0 {
			e.h.Uid, e.h.Gid = os.Geteuid(), os.Getegid()
		}
		e.h.Format = tar.FormatPAX
		if err := tw.WriteHeader(&e.h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(tw, e.body)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// unpack reads a tar into headers and bodies by name.
func unpack(t *testing.T, data []byte) map[string]entry {
	t.Helper()
	out := map[string]entry{}
	tr := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = entry{*h, string(body)}
	}
}

func TestCopyInAndOutKeepsWhatFilesAre(t *testing.T) {
	root, c := inRoot(t)
	when := time.Date(2001, 2, 3, 4, 5, 6, 789000000, time.UTC)
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 {
		uid, gid = 1234, 5678
	}
	own := func(e entry, mode int64) entry {
		e.h.ModTime, e.h.Uid, e.h.Gid, e.h.Mode = when, uid, gid, mode
		return e
	}
	withXattr := own(file("d/attr", "x"), 0o600)
	withXattr.h.PAXRecords = map[string]string{"SCHILY.xattr.user.note": "a\x00b"}
	in := []entry{
		own(folder("d", 0), 0o2750), own(file("d/empty", ""), 0o400), own(file("d/big", strings.Repeat("0123456789", 100_000)), 0o4755),
		withXattr, own(link(tar.TypeSymlink, "d/sym", "../../../etc/passwd"), 0o777), own(link(tar.TypeLink, "d/hard", "d/big"), 0o4755),
		own(file("d/name with \n and ü", "y"), 0o644), own(folder("d/sticky", 0), 0o1777),
	}
	if err := os.Mkdir(filepath.Join(root, "dst"), 0o755); err != nil {
		t.Fatal(err)
	}
	res, err := c.CopyIn(deadline(t), "/dst", bytes.NewReader(pack(t, in...)))
	if err != nil || res.Files != len(in) || res.Bytes != 1_000_002 {
		t.Fatalf("CopyIn: %+v, %v", res, err)
	}
	var out bytes.Buffer
	if err := c.CopyOut(deadline(t), "/dst/d", &out); err != nil {
		t.Fatalf("CopyOut: %v", err)
	}
	got := unpack(t, out.Bytes())
	if len(got) != len(in) {
		t.Errorf("%d entries of %d", len(got), len(in))
	}
	hard := 0
	for _, want := range in {
		name := want.h.Name
		if want.h.Typeflag == tar.TypeDir {
			name += "/"
		}
		e, ok := got[name]
		if !ok {
			t.Errorf("%q is missing", name)
			continue
		}
		if e.h.Typeflag == tar.TypeLink { // either name may come first
			hard++
			e.h.Typeflag, e.body = want.h.Typeflag, want.body
			e.h.Linkname = want.h.Linkname
		} else if want.h.Typeflag == tar.TypeLink {
			want.h.Typeflag, want.h.Linkname, want.body = e.h.Typeflag, e.h.Linkname, e.body
		}
		if e.h.Typeflag != want.h.Typeflag || e.h.Linkname != want.h.Linkname || e.body != want.body ||
			e.h.Mode != want.h.Mode || e.h.Uid != uid || e.h.Gid != gid || !e.h.ModTime.Equal(when) {
			t.Errorf("%q: %+v, want %+v", name, e.h, want.h)
		}
	}
	if hard != 1 {
		t.Errorf("%d hard links came back, want 1", hard)
	}
	if v := got["d/attr"].h.PAXRecords["SCHILY.xattr.user.note"]; v != "a\x00b" && xattrsWork(root) {
		t.Errorf("extended attribute %q", v)
	}
}

func xattrsWork(dir string) bool { return unix.Setxattr(dir, "user.probe", []byte("1"), 0) == nil }

func TestCopyOutNamesTheEntryAsAsked(t *testing.T) {
	root, c := inRoot(t)
	for _, d := range []string{"real/sub", "abs"} {
		os.MkdirAll(filepath.Join(root, d), 0o755)
	}
	os.WriteFile(filepath.Join(root, "real/sub/f"), []byte("f"), 0o644)
	// Links as a guest sees them: absolute ones count from its root.
	os.Symlink("/real", filepath.Join(root, "absolute"))
	os.Symlink("../../../../real", filepath.Join(root, "abs/climbing"))
	os.Symlink("/etc/passwd", filepath.Join(root, "outside"))
	os.Symlink("loop", filepath.Join(root, "loop"))
	for _, tt := range []struct {
		path  string
		names []string
		code  string
	}{
		{path: "/real/sub/f", names: []string{"f"}},
		{path: "real/sub", names: []string{"sub/", "sub/f"}},
		{path: "/absolute/sub/f", names: []string{"f"}},
		{path: "/abs/climbing/sub", names: []string{"sub/", "sub/f"}},
		{path: "/../../real/sub/f", names: []string{"f"}},
		{path: "/absolute", names: []string{"absolute"}}, // the link itself
		{path: "/absolute/", names: []string{"absolute/", "absolute/sub/", "absolute/sub/f"}},
		{path: "/outside", names: []string{"outside"}},
		{path: "/outside/", code: agentproto.CodePath}, // is not there below this root
		{path: "/loop/x", code: agentproto.CodePath},
		{path: "/missing", code: agentproto.CodePath},
		{path: "/real/sub/f/x", code: agentproto.CodePath},
		{path: "/a\x00b", code: agentproto.CodeInvalid},
		{path: "", code: agentproto.CodeInvalid},
	} {
		t.Run(tt.path, func(t *testing.T) {
			var out bytes.Buffer
			err := c.CopyOut(deadline(t), tt.path, &out)
			if agentproto.CodeOf(err) != tt.code {
				t.Fatalf("%v, want %q", err, tt.code)
			}
			if tt.code != "" {
				return
			}
			names := []string{}
			for n := range unpack(t, out.Bytes()) {
				names = append(names, n)
			}
			slices.Sort(names)
			if !slices.Equal(names, tt.names) {
				t.Errorf("%q, want %q", names, tt.names)
			}
		})
	}
}

// Whatever a tar says, nothing is made or changed outside the folder it is unpacked into.
func TestCopyInCannotEscape(t *testing.T) {
	for _, tt := range []struct {
		name    string
		entries []entry
	}{
		{"dot dot", []entry{file("../evil", "x")}},
		{"dot dot inside", []entry{file("a/../../evil", "x")}},
		{"absolute", []entry{file("/evil", "x")}},
		{"through a link made by the tar", []entry{link(tar.TypeSymlink, "l", ".."), file("l/evil", "x")}},
		{"through an absolute link made by the tar", []entry{link(tar.TypeSymlink, "l", "/"), file("l/evil", "x")}},
		{"through a chain of links", []entry{link(tar.TypeSymlink, "a", "b"), link(tar.TypeSymlink, "b", ".."), file("a/evil", "x")}},
		{"through a link that is there", []entry{file("out/evil", "x")}},
		{"a folder over a link that is there", []entry{folder("out", 0o777), file("out/evil", "x")}},
		{"a folder in a link that is there", []entry{folder("out/evil", 0o777)}},
		{"hard link to a file outside", []entry{link(tar.TypeLink, "h", "../secret")}},
		{"hard link to an absolute file", []entry{link(tar.TypeLink, "h", "/secret")}},
		{"hard link through a link", []entry{link(tar.TypeSymlink, "l", ".."), link(tar.TypeLink, "h", "l/secret")}},
		{"symbolic link in a link", []entry{link(tar.TypeSymlink, "out/evil", "x")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root, c := inRoot(t)
			dst := filepath.Join(root, "dst")
			os.Mkdir(dst, 0o755)
			os.WriteFile(filepath.Join(root, "secret"), []byte("secret"), 0o600)
			os.Symlink("..", filepath.Join(dst, "out"))
			before := tree(t, root)
			_, err := c.CopyIn(deadline(t), "/dst", bytes.NewReader(pack(t, tt.entries...)))
			if code := agentproto.CodeOf(err); code != agentproto.CodePath && code != agentproto.CodeCopy {
				t.Errorf("%v", err)
			}
			after := tree(t, root)
			for name, was := range before {
				if after[name] != was {
					t.Errorf("%s was %q and is %q", name, was, after[name])
				}
			}
			for name := range after {
				if _, ok := before[name]; !ok && !strings.HasPrefix(name, "dst/") {
					t.Errorf("%s appeared", name)
				}
				if strings.Contains(name, "mvm-copy") {
					t.Errorf("%s was left", name)
				}
			}
		})
	}
}

// tree describes all files outside dst's content: their modes and bodies.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			t.Fatal(err)
		}
		rel, _ := filepath.Rel(root, p)
		st, _ := d.Info()
		body := ""
		if st.Mode().IsRegular() {
			data, _ := os.ReadFile(p)
			body = string(data)
		}
		out[rel] = st.Mode().String() + body
		return nil
	})
	return out
}

// A file that is replaced is the old or the new one; a link in its place is replaced and not
// written through.
func TestCopyInReplaces(t *testing.T) {
	root, c := inRoot(t)
	outside := filepath.Join(t.TempDir(), "outside")
	os.WriteFile(outside, []byte("untouched"), 0o644)
	os.Symlink(outside, filepath.Join(root, "link"))
	os.WriteFile(filepath.Join(root, "old"), []byte("old"), 0o644)
	os.Mkdir(filepath.Join(root, "dir"), 0o755)
	if _, err := c.CopyIn(deadline(t), "/", bytes.NewReader(pack(t, file("link", "new"), file("old", "new"), file("deep/er/file", "new")))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "old", "deep/er/file"} {
		if data, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(data) != "new" {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	if data, _ := os.ReadFile(outside); string(data) != "untouched" {
		t.Errorf("written through a link: %q", data)
	}
	_, err := c.CopyIn(deadline(t), "/", bytes.NewReader(pack(t, file("dir", "x"))))
	if agentproto.CodeOf(err) != agentproto.CodeCopy {
		t.Errorf("a file over a folder: %v", err)
	}
	_, err = c.CopyIn(deadline(t), "/old", bytes.NewReader(pack(t)))
	if agentproto.CodeOf(err) != agentproto.CodePath {
		t.Errorf("into a file: %v", err)
	}
	_, err = c.CopyIn(deadline(t), "/missing", bytes.NewReader(pack(t)))
	if agentproto.CodeOf(err) != agentproto.CodePath {
		t.Errorf("into nothing: %v", err)
	}
}

func TestCopyInLeavesDevicesOut(t *testing.T) {
	root, c := inRoot(t)
	res, err := c.CopyIn(deadline(t), "/", bytes.NewReader(pack(t,
		entry{tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}, ""},
		entry{tar.Header{Typeflag: tar.TypeBlock, Name: "sda", Devmajor: 8}, ""},
		entry{tar.Header{Typeflag: tar.TypeFifo, Name: "fifo"}, ""},
		file("good", "x"),
	)))
	if agentproto.CodeOf(err) != agentproto.CodeCopy || res.Files != 1 || !strings.Contains(err.Error(), "null") || !strings.Contains(err.Error(), "2 more") {
		t.Errorf("%+v, %v", res, err)
	}
	entries, _ := os.ReadDir(root)
	if len(entries) != 1 || entries[0].Name() != "good" {
		t.Errorf("%v", entries)
	}
}

func TestCopyInRefusesBrokenTars(t *testing.T) {
	whole := pack(t, file("a", strings.Repeat("a", 3000)), file("b", "b"))
	for name, data := range map[string][]byte{
		"empty":                   nil,
		"no end mark":             whole[:len(whole)-1024],
		"half an end mark":        whole[:len(whole)-512],
		"cut in a body":           whole[:2000],
		"cut in a header":         whole[:700],
		"noise":                   bytes.Repeat([]byte("noise"), 1000),
		"cut between two entries": whole[:512*3+3072],
	} {
		t.Run(name, func(t *testing.T) {
			root, c := inRoot(t)
			_, err := c.CopyIn(deadline(t), "/", bytes.NewReader(data))
			if agentproto.CodeOf(err) != agentproto.CodeCopy {
				t.Errorf("%v", err)
			}
			for name := range tree(t, root) {
				if strings.Contains(name, "mvm-copy") {
					t.Errorf("%s was left", name)
				}
			}
		})
	}
}

// A host that fails or goes in the middle leaves the old file.
func TestCopyInThatBreaksLeavesTheOldFile(t *testing.T) {
	root, c := inRoot(t)
	os.WriteFile(filepath.Join(root, "f"), []byte("old"), 0o644)
	broken := errors.New("disk on fire")
	whole := pack(t, file("f", strings.Repeat("new", 100_000)))
	_, err := c.CopyIn(deadline(t), "/", io.MultiReader(bytes.NewReader(whole[:100_000]), errReader{broken}))
	if !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	eventually(t, "the agent is idle", func() bool {
		s, err := c.Status(deadline(t))
		return err == nil && s.Worker == "idle"
	})
	entries, _ := os.ReadDir(root)
	if data, _ := os.ReadFile(filepath.Join(root, "f")); string(data) != "old" || len(entries) != 1 {
		t.Errorf("%.10q, %v", data, entries)
	}
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

func TestCopyOutLeavesSpecialFilesOut(t *testing.T) {
	root, c := inRoot(t)
	os.WriteFile(filepath.Join(root, "good"), []byte("x"), 0o644)
	if err := syscall.Mkfifo(filepath.Join(root, "fifo"), 0o644); err != nil {
		t.Skipf("missing: a file system with FIFOs: %v", err)
	}
	var out bytes.Buffer
	err := c.CopyOut(deadline(t), "/", &out)
	if agentproto.CodeOf(err) != agentproto.CodeCopy || !strings.Contains(err.Error(), "fifo") {
		t.Errorf("%v", err)
	}
	if got := unpack(t, out.Bytes()); len(got) != 2 || got["good"].body != "x" || got["./"].h.Typeflag != tar.TypeDir {
		t.Errorf("%v", got)
	}
}

// What is asked for by name is refused before anything is sent, so that nobody takes an empty
// tar for a copy.
func TestCopyOutRefusesASpecialFile(t *testing.T) {
	root, c := inRoot(t)
	if err := syscall.Mkfifo(filepath.Join(root, "fifo"), 0o644); err != nil {
		t.Skipf("missing: a file system with FIFOs: %v", err)
	}
	os.WriteFile(filepath.Join(root, "file"), []byte("x"), 0o644)
	for name, want := range map[string]string{"/fifo": "FIFOs are not copied", "/file/.": "not a directory"} {
		var out bytes.Buffer
		err := c.CopyOut(deadline(t), name, &out)
		if err == nil || !strings.Contains(err.Error(), want) || out.Len() > 0 {
			t.Errorf("%s: %v after %d bytes", name, err, out.Len())
		}
	}
}

// Files of procfs and sysfs are copied by what they hold, not by the size that they state.
func TestCopyOutOfTheKernelsFiles(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skipf("missing: Linux's procfs: %v", err)
	}
	g := boot(t, func(o *agent.Options) { o.Root = "/" })
	c := g.connect()
	for _, name := range []string{"/proc/version", "/proc/filesystems", "/sys/kernel/mm/transparent_hugepage/enabled"} {
		want, err := os.ReadFile(name)
		if err != nil {
			t.Logf("not here: %v", err)
			continue
		}
		var out bytes.Buffer
		if err := c.CopyOut(deadline(t), name, &out); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := unpack(t, out.Bytes())[filepath.Base(name)]; got.body != string(want) {
			t.Errorf("%s: %d bytes, want %d", name, len(got.body), len(want))
		}
	}
	for name, want := range map[string]string{"/proc/self/pagemap": "does not state its size", "/proc/kcore": "does not state its size", "/proc/sys": "makes up", "/proc/kmsg": "it has no end"} {
		if _, err := os.Stat(name); err != nil {
			t.Logf("not here: %v", err)
			continue
		}
		if err := c.CopyOut(deadline(t), name, io.Discard); agentproto.CodeOf(err) != agentproto.CodeCopy || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is no tar, or cannot be written, is refused with what to do instead.
func TestCopyInThatCannotBe(t *testing.T) {
	_, c := inRoot(t)
	for _, text := range []string{"", "junk"} {
		_, err := c.CopyIn(deadline(t), "/", strings.NewReader(text))
		if pe, ok := errors.AsType[*agentproto.Error](err); !ok || pe.Code != agentproto.CodeCopy || !strings.Contains(pe.Remedy, "tar c FILES") {
			t.Errorf("%q: %#v", text, err)
		}
	}
}

func TestCopyInToTheKernelsFolders(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skipf("missing: Linux's procfs: %v", err)
	}
	g := boot(t, func(o *agent.Options) { o.Root = "/proc" })
	_, err := g.connect().CopyIn(deadline(t), "/", bytes.NewReader(pack(t, file("x", "x"))))
	if pe, ok := errors.AsType[*agentproto.Error](err); !ok || !strings.Contains(pe.Message, "takes no copy") || pe.Remedy == "" {
		t.Errorf("%#v", err)
	}
}

// A log that is written to all the while comes out as a whole file of some moment.
func TestCopyOutOfAFileThatGrows(t *testing.T) {
	root, c := inRoot(t)
	for name, size := range map[string]int{"small": 1000, "large": 300_000} {
		path := filepath.Join(root, name)
		if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var writer sync.WaitGroup
		writer.Go(func() {
			for i := 0; ctx.Err() == nil && i < 10_000; i++ {
				f.Write(make([]byte, 1000))
			}
		})
		for range 10 {
			var out bytes.Buffer
			err := c.CopyOut(deadline(t), "/"+name, &out)
			if got := len(unpack(t, out.Bytes())[name].body); err != nil || got < size {
				t.Errorf("%s: %d bytes, %v", name, got, err)
			}
		}
		stop()
		writer.Wait()
		f.Close()
	}
}

func TestCopyOutBulkIsFlat(t *testing.T) {
	root, c := inRoot(t)
	f, err := os.Create(filepath.Join(root, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	f.Truncate(256 << 20)
	f.Close()
	n := &countingWriter{}
	if err := c.CopyOut(deadline(t), "/sparse", n); err != nil || n.n < 256<<20 {
		t.Errorf("%d bytes, %v", n.n, err)
	}
	full := errors.New("no space left")
	if err := c.CopyOut(deadline(t), "/sparse", writerFunc(func([]byte) (int, error) { return 0, full })); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
}

type countingWriter struct{ n int64 }

func (c *countingWriter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }
