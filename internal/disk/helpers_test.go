package disk

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// object is an entry and the content of a file.
type object struct {
	Entry
	data []byte
}

func file(path string, mode uint16, data []byte) object {
	return object{Entry{Path: path, Type: TypeFile, Mode: mode, Size: int64(len(data)), ModTime: testTime}, data}
}

func dirAt(path string, mode uint16) object {
	return object{Entry: Entry{Path: path, Type: TypeDir, Mode: mode, ModTime: testTime}}
}

func symlink(path, target string) object {
	return object{Entry: Entry{
		Path: path, Type: TypeSymlink, Mode: 0o777, Target: target,
		Size: int64(len(target)), ModTime: testTime,
	}}
}

var testTime = time.Date(2024, 2, 29, 12, 34, 56, 123456789, time.UTC)

// noise is incompressible data that is the same each time.
func noise(n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)})
	_, _ = r.Read(p)
	return p
}

// capability is a version 2 security.capability with cap_net_bind_service.
func capability() []byte {
	return []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
}

// acl is user::rwx, user:70000:r-x, group::r-x, mask::r-x, other::r-- as getxattr gives it.
func acl() []byte {
	p := []byte{2, 0, 0, 0}
	for _, e := range [][3]uint32{{1, 7, aclNoID}, {2, 5, 70000}, {4, 5, aclNoID}, {0x10, 5, aclNoID}, {0x20, 4, aclNoID}} {
		p = append(p, byte(e[0]), 0, byte(e[1]), 0, byte(e[2]), byte(e[2]>>8), byte(e[2]>>16), byte(e[2]>>24))
	}
	return p
}

// nastyTree has at least one of everything that writers of ext4 images got wrong.
func nastyTree() []object {
	long := strings.Repeat("n", 255)
	list := []object{dirAt(".", 0o751), dirAt("docs", 0o755)}
	for i := range 2000 {
		list = append(list, file(fmt.Sprintf("docs/%d/page%d.md", i%40, i), 0o644, noise(i*13%9000)))
	}
	for i := range 1500 {
		list = append(list, file(fmt.Sprintf("crowd/an-empty-file-number-%d", i), 0o600, nil))
	}
	for i := range 100 { // in an indexed directory
		list = append(list, file(fmt.Sprintf("crowd/ümlaut-日本-\xff-%d", i), 0o600, nil))
	}
	for _, n := range []int{1, 4095, 4096, 4097, 8192, 3 << 20} {
		list = append(list, file(fmt.Sprintf("sizes/%d", n), 0o644, noise(n)))
	}
	hole := make([]byte, 20<<20)
	copy(hole[9<<20:], noise(5000))
	list = append(list,
		file("sparse/middle", 0o644, hole),
		file("sparse/all", 0o644, make([]byte, 1<<20+1)),
		file("sparse/tail", 0o644, append(noise(4096), make([]byte, 12345)...)),
		file("sparse/fragments", 0o644, fragments(2000)),
		file("names/"+long, 0o644, []byte("x")),
		file("names/größe-日本語-🐧", 0o644, []byte("x")),
		file("names/\xff\xfe\n\t", 0o644, []byte("x")),
		dirAt("names/"+long[1:], 0o700),
		file("names/"+long[1:]+"/"+long, 0o644, []byte("y")),
		dirAt("deep/"+strings.Repeat("d/", 100)+"end", 0o755),
		symlink("links/short", "../sizes/1"),
		symlink("links/59", strings.Repeat("a", 59)),
		symlink("links/60", strings.Repeat("b", 60)),
		symlink("links/4095", strings.Repeat("c", 4095)),
		object{Entry: Entry{Path: "links/hard", Type: TypeHardlink, Target: "links/short"}},
		object{Entry: Entry{Path: "sizes/zz-hard", Type: TypeHardlink, Target: "sizes/4097"}},
		object{Entry: Entry{Path: "dev/null", Type: TypeChar, Mode: 0o666, Major: 1, Minor: 3, ModTime: testTime}},
		object{Entry: Entry{Path: "dev/big", Type: TypeBlock, Mode: 0o660, Major: 4095, Minor: 1<<20 - 1, ModTime: testTime}},
		object{Entry: Entry{Path: "dev/minor", Type: TypeBlock, Mode: 0o660, Major: 8, Minor: 256, ModTime: testTime}},
		object{Entry: Entry{Path: "dev/whiteout", Type: TypeChar, ModTime: testTime}},
		object{Entry: Entry{Path: "dev/fifo", Type: TypeFIFO, Mode: 0o600, ModTime: testTime}},
		object{Entry: Entry{Path: "dev/socket", Type: TypeSocket, Mode: 0o755, ModTime: testTime}},
	)
	return append(list, nastyAttributes()...)
}

// nastyAttributes are files with odd owners, times and xattrs.
func nastyAttributes() []object {
	list := []object{file("attr/setuid", 0o6755, []byte("s")), dirAt("attr/sticky", 0o7777)}
	owned := file("attr/owned", 0o640, []byte("o"))
	owned.UID, owned.GID = 70000, 4294967294
	list = append(list, owned)
	for name, when := range map[string]time.Time{
		"1901": time.Unix(-1<<31, 0), "1969": time.Unix(-1, 999999999), "1970": time.Unix(0, 0),
		"2038": time.Unix(1<<31, 1), "2040": time.Date(2040, 1, 2, 3, 4, 5, 987654321, time.UTC),
		"2110": time.Unix(1<<32+5, 7), "2446": time.Unix(maxSecond, 999999999),
	} {
		f := file("attr/time-"+name, 0o644, []byte("t"))
		f.ModTime = when.UTC()
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b object) int { return strings.Compare(a.Path, b.Path) })

	cap := file("attr/cap", 0o755, []byte("c"))
	cap.Xattrs = map[string][]byte{"security.capability": capability(), "user.mvm": []byte("v")}
	many := file("attr/many", 0o644, []byte("m"))
	many.Xattrs = map[string][]byte{"security.capability": capability()}
	for i := range 20 {
		many.Xattrs[fmt.Sprintf("user.attribute%d", i)] = noise(i * 5)
	}
	big := dirAt("attr/big", 0o755)
	big.Xattrs = map[string][]byte{"user.big": noise(3900), "user.ünïcode": []byte("u"), "user.empty": {}}
	opaque := dirAt("attr/opaque", 0o755)
	opaque.Xattrs = map[string][]byte{"trusted.overlay.opaque": []byte("y"), nameACLDefault: acl()}
	access := file("attr/acl", 0o754, []byte("a"))
	access.Xattrs = map[string][]byte{nameACLAccess: acl()}
	link := symlink("attr/link", "nowhere")
	link.Xattrs = map[string][]byte{"trusted.t": []byte("l"), "security.selinux": []byte("system_u:object_r:etc_t:s0")}
	return append(list, cap, many, big, opaque, access, link)
}

// fragments has n blocks of data with a hole after each.
func fragments(n int) []byte {
	p := make([]byte, n*2*blockSize)
	for i := range n {
		copy(p[i*2*blockSize:], fmt.Sprintf("block %d", i))
	}
	return p
}

func addAll(list []object) func(*Writer) error {
	return func(w *Writer) error {
		for _, o := range list {
			var r io.Reader
			if o.Type == TypeFile {
				r = bytes.NewReader(o.data)
			}
			if err := w.Add(o.Entry, r); err != nil {
				return err
			}
		}
		return nil
	}
}

// build writes a tree to a new image file and returns its path.
func build(t testing.TB, o Options, list []object) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := CreateFile(path, o, addAll(list)); err != nil {
		t.Fatal(err)
	}
	return path
}

// want is what a reader should find: list with its implicit directories, in Walk's order,
// the later names of a file as hard links to the first in that order.
func want(list []object, o Options) []Entry {
	when := o.Time
	if when.IsZero() {
		when = time.Unix(0, 0).UTC()
	}
	all := map[string]Entry{".": {Path: ".", Type: TypeDir, Mode: 0o755, ModTime: when}}
	if o.Journal {
		all["lost+found"] = Entry{Path: "lost+found", Type: TypeDir, Mode: 0o700, ModTime: when}
	}
	for _, obj := range list {
		for dir := filepath.Dir(obj.Path); dir != "."; dir = filepath.Dir(dir) {
			if _, ok := all[dir]; !ok {
				all[dir] = Entry{Path: dir, Type: TypeDir, Mode: 0o755, ModTime: when}
			}
		}
		all[obj.Path] = obj.Entry
	}
	var out []Entry
	for _, path := range slices.SortedFunc(maps.Keys(all), walkOrder) {
		out = append(out, all[path])
	}
	for i, e := range out { // make the first name in order the file itself
		if e.Type != TypeHardlink {
			continue
		}
		j := slices.IndexFunc(out, func(x Entry) bool { return x.Path == e.Target })
		if i < j {
			out[i], out[j] = out[j], out[i]
			out[i].Path, out[j].Path = out[j].Path, out[i].Path
			out[j].Target = out[i].Path
		}
	}
	return out
}

func walkOrder(a, b string) int {
	if a == "." || b == "." {
		return len(strings.TrimPrefix(a, ".")) - len(strings.TrimPrefix(b, "."))
	}
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
}

// diffEntries compares entries; of hard links only path, type and target count.
func diffEntries(want, got []Entry) string {
	plain := func(in []Entry) []Entry {
		out := slices.Clone(in)
		for i, e := range out {
			if e.Type == TypeHardlink {
				out[i] = Entry{Path: e.Path, Type: e.Type, Target: e.Target}
			}
		}
		return out
	}
	return cmp.Diff(plain(want), plain(got), cmpopts.EquateEmpty(), cmpopts.EquateApproxTime(0))
}

func needTool(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("needs %s (e2fsprogs): %v", name, err)
		}
	}
}

func runTool(t testing.TB, name string, args ...string) string {
	t.Helper()
	return runToolRC(t, []int{0}, name, args...)
}

// runToolRC runs a tool that must exit with one of some codes.
func runToolRC(t testing.TB, rc []int, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || !slices.Contains(rc, cmd.ProcessState.ExitCode()) {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// fsck fails the test unless e2fsck finds nothing at all to say.
func fsck(t testing.TB, path string) {
	t.Helper()
	needTool(t, "e2fsck")
	out := runTool(t, "e2fsck", "-fn", path)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for _, line := range lines[:len(lines)-1] {
		if !strings.HasPrefix(line, "e2fsck ") && !strings.HasPrefix(line, "Pass ") {
			t.Errorf("e2fsck says: %s", out)
			return
		}
	}
}

// openImage opens an image file with our reader.
func openImage(t testing.TB, path string) *FS {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	fs, err := Open(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

func walkAll(t testing.TB, fs *FS) []Entry {
	t.Helper()
	var got []Entry
	if err := fs.Walk(func(e Entry) error { got = append(got, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return got
}

// checkContents compares the content of every file in list.
func checkContents(t testing.TB, list []object, read func(path string) ([]byte, error)) {
	t.Helper()
	for _, o := range list {
		if o.Type != TypeFile {
			continue
		}
		got, err := read(o.Path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, o.data) {
			t.Errorf("%q: content differs", o.Path)
		}
	}
}

func readFrom(fs *FS) func(string) ([]byte, error) {
	return func(path string) ([]byte, error) {
		r, _, err := fs.Open(path)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return io.ReadAll(r)
	}
}
