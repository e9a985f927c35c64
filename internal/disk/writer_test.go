package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// manyNames is a directory of n hard links with long names, so that an image of it is
// little else than the directory.
func manyNames(n int) []object {
	list := []object{file("big/0-first", 0o644, nil)}
	for i := range n {
		if i%60000 == 0 {
			list = append(list, file(fmt.Sprintf("big/file-%d", i), 0o644, nil))
			continue
		}
		name := fmt.Sprintf("big/%s-%d", strings.Repeat("x", 60+i%100), i)
		target := fmt.Sprintf("big/file-%d", i-i%60000)
		list = append(list, object{Entry: Entry{Path: name, Type: TypeHardlink, Target: target}})
	}
	return list
}

func TestLargeDirectoriesAreIndexed(t *testing.T) {
	needTool(t, "debugfs")
	for _, tt := range []struct {
		names           int
		indexed, levels bool
	}{{20, false, false}, {60, true, false}, {500, true, false}, {20000, true, true}} {
		t.Run(fmt.Sprint(tt.names), func(t *testing.T) {
			list := manyNames(tt.names)
			image := build(t, Options{}, list)
			fsck(t, image)
			if d := diffEntries(want(list, Options{}), walkAll(t, openImage(t, image))); d != "" {
				t.Errorf("tree differs (-want +got):\n%s", d)
			}
			out := runTool(t, "debugfs", "-R", "htree_dump big", image)
			if got := strings.Contains(out, "Number of entries"); got != tt.indexed {
				t.Errorf("indexed: %v\n%.300s", got, out)
			}
			if got := strings.Contains(out, "Indirect levels: 1"); got != tt.levels {
				t.Errorf("second level: %v\n%.300s", got, out)
			}
		})
	}
}

func TestNameHashAgreesWithDebugfs(t *testing.T) {
	needTool(t, "debugfs")
	seed := [16]byte{0x67, 0x45, 0x23, 1, 9: 7, 15: 0xFF}
	uuid := fmt.Sprintf("%x-%x-%x-%x-%x", seed[:4], seed[4:6], seed[6:8], seed[8:10], seed[10:])
	for _, name := range []string{"a", "abcd", "hello.txt", strings.Repeat("q", 32), strings.Repeat("w", 33), strings.Repeat("e", 255)} {
		out := runTool(t, "debugfs", "-R", "dx_hash -h half_md4 -s "+uuid+" "+name, "/dev/null")
		hash, minor := halfMD4(name, seed)
		if w := fmt.Sprintf("0x%08x (minor 0x%08x)", hash, minor); !strings.Contains(out, w) {
			t.Errorf("%q: want %s, debugfs says %s", name, w, out)
		}
	}
}

func TestSameInputsGiveSameBytes(t *testing.T) {
	list := nastyTree()
	for name, o := range map[string]Options{
		"fitted": {Label: "x"}, "sized": {Size: 256 << 20, Journal: true, UUID: [16]byte{1, 2, 3}, Time: testTime},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := imageSum(t, build(t, o, list)), imageSum(t, build(t, o, list))
			if a != b {
				t.Errorf("two images of the same tree differ: %s, %s", a, b)
			}
		})
	}
	// Over systems and releases of mvmctl too; a change here is a change of the format.
	const golden = "2910feee4e7fc7637dfdf7e4e56bcecc044ffb2b0ce27b61e6510ec74709390a"
	small := []object{dirAt("d", 0o755), file("d/f", 0o644, noise(10000)), symlink("l", "d/f")}
	if got := imageSum(t, build(t, Options{Label: "golden"}, small)); got != golden {
		t.Errorf("image of the small tree: sha256 %s, want %s", got, golden)
	}
}

func imageSum(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func TestExtentTreesGrowDeep(t *testing.T) {
	needTool(t, "debugfs")
	for _, tt := range []struct{ fragments, depth int }{{4, 0}, {5, 1}, {4 * 340, 1}, {4*340 + 1, 2}, {20000, 2}} {
		t.Run(fmt.Sprint(tt.fragments), func(t *testing.T) {
			list := []object{file("f", 0o644, fragments(tt.fragments))}
			image := build(t, Options{}, list)
			fsck(t, image)
			checkContents(t, list, readFrom(openImage(t, image)))
			out := runTool(t, "debugfs", "-R", "extents -n f", image)
			if w := fmt.Sprintf("0/%2d", tt.depth); tt.depth > 0 && !strings.Contains(out, w) {
				t.Errorf("want depth %d, debugfs says %.300s", tt.depth, out)
			}
		})
	}
}

func TestMoreInodesThanTheFirstGroupHas(t *testing.T) {
	var list []object
	for i := range 10000 { // 16 GiB have 8192 inodes in each group
		list = append(list, file(fmt.Sprintf("%d/%d", i%10, i), 0o644, nil))
	}
	for _, o := range []Options{{Size: 16 << 30, Journal: true}, {Size: 16 << 30, Inodes: 1000}, {}, {Size: 8 << 20}} {
		image := build(t, o, list)
		fsck(t, image)
		if d := diffEntries(want(list, o), walkAll(t, openImage(t, image))); d != "" {
			t.Errorf("%+v: tree differs (-want +got):\n%s", o, d)
		}
	}
}

func TestContentOverGroupsAndGDTCopies(t *testing.T) {
	// 300 MiB: through groups 0 and 1 (both start with copies) into 2; 600: past group 3.
	for _, size := range []int64{300 << 20, 600 << 20} {
		pattern := noise(1 << 20)
		content := func() io.Reader { return io.LimitReader(repeat{pattern}, size) }
		image := filepath.Join(t.TempDir(), "image")
		err := CreateFile(image, Options{}, func(w *Writer) error {
			return w.Add(Entry{Path: "f", Type: TypeFile, Size: size}, content())
		})
		if err != nil {
			t.Fatal(err)
		}
		fsck(t, image)
		r, _, err := openImage(t, image).Open("f")
		if err != nil {
			t.Fatal(err)
		}
		if !sameBytes(r, content()) {
			t.Errorf("%d bytes: content differs", size)
		}
	}
}

// repeat reads one piece over and over.
type repeat struct{ p []byte }

func (r repeat) Read(p []byte) (int, error) { return copy(p, r.p), nil }

func sameBytes(a, b io.Reader) bool {
	p, q := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, err := io.ReadFull(a, p)
		m, err2 := io.ReadFull(b, q)
		if n != m || !bytes.Equal(p[:n], q[:m]) {
			return false
		}
		if err != nil || err2 != nil {
			return err != nil && err2 != nil
		}
	}
}

func TestImageFull(t *testing.T) {
	for name, tt := range map[string]struct {
		o    Options
		list []object
		what string
	}{
		"content":   {Options{Size: 1 << 20}, []object{file("f", 0o644, noise(2<<20))}, "bytes"},
		"by a hair": {Options{Size: 1 << 20}, []object{file("f", 0o644, noise(1<<20-5*blockSize))}, "bytes"},
		"inodes":    {Options{Size: 64 << 10, Inodes: 40000}, nil, "inodes"},
		"tables":    {Options{Size: 64 << 10, Inodes: 1000}, nil, "bytes"},
		"tiny":      {Options{Size: 4096}, nil, "bytes"},
		"journal":   {Options{Size: 2 << 20, Journal: true}, nil, "bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			err := CreateFile(filepath.Join(dir, "image"), tt.o, addAll(tt.list))
			var full *FullError
			if !errors.Is(err, ErrImageFull) || !errors.As(err, &full) {
				t.Fatalf("error %v, want ErrImageFull", err)
			}
			if full.What != tt.what || full.Needed <= full.Available {
				t.Errorf("%v", full)
			}
			if left, _ := os.ReadDir(dir); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
	// The most that fits does fit: superblock, descriptors, root, tables are 6 blocks.
	fsck(t, build(t, Options{Size: 1 << 20}, []object{file("f", 0o644, noise(1<<20-6*blockSize))}))
}

func TestAddRefuses(t *testing.T) {
	f := func(path string) Entry { return Entry{Path: path, Type: TypeFile} }
	for name, tt := range map[string]struct {
		e       Entry
		content string
	}{
		"absolute":           {e: f("/a")},
		"dot-dot":            {e: f("a/../b")},
		"not clean":          {e: f("a//b")},
		"trailing slash":     {e: f("a/")},
		"NUL":                {e: f("a\x00b")},
		"long name":          {e: f(strings.Repeat("a", 256))},
		"again":              {e: f("there")},
		"file over dir":      {e: f("dir")},
		"dir over file":      {e: Entry{Path: "there", Type: TypeDir}},
		"below a file":       {e: f("there/x")},
		"below a symlink":    {e: f("link/x")},
		"root as file":       {e: f(".")},
		"no type":            {e: Entry{Path: "x"}},
		"mode":               {e: Entry{Path: "x", Type: TypeFile, Mode: 0o100644}},
		"no content":         {e: Entry{Path: "x", Type: TypeFile, Size: 1}},
		"negative size":      {e: Entry{Path: "x", Type: TypeFile, Size: -1}},
		"empty target":       {e: Entry{Path: "x", Type: TypeSymlink}},
		"long target":        {e: Entry{Path: "x", Type: TypeSymlink, Target: strings.Repeat("a", 4096)}},
		"link to nothing":    {e: Entry{Path: "x", Type: TypeHardlink, Target: "nowhere"}},
		"link to a dir":      {e: Entry{Path: "x", Type: TypeHardlink, Target: "dir"}},
		"link to the root":   {e: Entry{Path: "x", Type: TypeHardlink, Target: "."}},
		"link over a file":   {e: Entry{Path: "there", Type: TypeHardlink, Target: "link"}},
		"major":              {e: Entry{Path: "x", Type: TypeChar, Major: 4096}},
		"minor":              {e: Entry{Path: "x", Type: TypeBlock, Minor: 1 << 20}},
		"xattr name":         {e: Entry{Path: "x", Type: TypeFile, Xattrs: map[string][]byte{"com.apple.x": nil}}},
		"xattr without name": {e: Entry{Path: "x", Type: TypeFile, Xattrs: map[string][]byte{"user.": nil}}},
		"xattr too big":      {e: Entry{Path: "x", Type: TypeFile, Xattrs: map[string][]byte{"user.a": noise(4090)}}},
		"xattrs too big":     {e: Entry{Path: "x", Type: TypeFile, Xattrs: map[string][]byte{"user.a": noise(3000), "user.b": noise(3000)}}},
		"bad ACL":            {e: Entry{Path: "x", Type: TypeFile, Xattrs: map[string][]byte{nameACLAccess: []byte("abc")}}},
	} {
		t.Run(name, func(t *testing.T) {
			list := []object{file("there", 0o644, []byte("content")), dirAt("dir", 0o755), symlink("link", "dir")}
			image := filepath.Join(t.TempDir(), "image")
			err := CreateFile(image, Options{}, func(w *Writer) error {
				if err := addAll(list)(w); err != nil {
					return err
				}
				if err := w.Add(tt.e, nil); err == nil {
					t.Error("no error")
				} else {
					t.Log(err)
				}
				return addAll([]object{file("after", 0o644, []byte("more"))})(w)
			})
			if err != nil {
				t.Fatalf("after a refused entry: %v", err)
			}
			list = append(list, file("after", 0o644, []byte("more")))
			if d := diffEntries(want(list, Options{}), walkAll(t, openImage(t, image))); d != "" {
				t.Errorf("a refused entry left traces:\n%s", d)
			}
			fsck(t, image)
		})
	}
}

func TestContentMustHaveItsSize(t *testing.T) {
	for name, content := range map[string]io.Reader{
		"short": strings.NewReader("1234"), "long": strings.NewReader("123456"),
		"broken": io.MultiReader(strings.NewReader("123"), errReader{}),
	} {
		t.Run(name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			err := CreateFile(image, Options{}, func(w *Writer) error {
				err := w.Add(Entry{Path: "f", Type: TypeFile, Size: 5}, content)
				if err == nil {
					t.Error("no error")
				}
				if again := w.Add(Entry{Path: "d", Type: TypeDir}, nil); !errors.Is(again, err) {
					t.Errorf("the writer goes on after %v: %v", err, again)
				}
				return nil
			})
			if err == nil {
				t.Error("Close accepts a broken image")
			}
		})
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("boom") }

func TestDirectoriesMayBeNamedAgain(t *testing.T) {
	big := map[string][]byte{"user.big": noise(2000)}
	list := []object{file("a/b/f", 0o644, []byte("x"))}
	again := dirAt("a", 0o700)
	again.Xattrs, again.UID = big, 5
	last := dirAt("a", 0o711)
	last.Xattrs = map[string][]byte{"user.small": []byte("s")}
	root := dirAt("", 0o700)
	root.Xattrs = big
	image := build(t, Options{}, append(list, again, last, root))
	fsck(t, image)
	root.Path = "."
	list = append(list, last, root)
	if d := diffEntries(want(list, Options{}), walkAll(t, openImage(t, image))); d != "" {
		t.Errorf("tree differs (-want +got):\n%s", d)
	}
}

func TestTimesOutOfRangeAreClamped(t *testing.T) {
	early, late := file("early", 0o644, nil), file("late", 0o644, nil)
	early.ModTime, late.ModTime = time.Date(1500, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC)
	fs := openImage(t, build(t, Options{}, []object{early, late}))
	for path, sec := range map[string]int64{"early": minSecond, "late": maxSecond} {
		if e, err := fs.Lstat(path); err != nil || e.ModTime.Unix() != sec {
			t.Errorf("%s: %v, %v", path, e.ModTime, err)
		}
	}
}
