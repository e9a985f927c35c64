package disk

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestEmptyDisks(t *testing.T) {
	for _, size := range []int64{
		0, 64 << 10, 1 << 20, 8 << 20, 128 << 20, 128<<20 + 4096, 129 << 20, 1 << 30,
		16 << 30, 16<<30 + 50*4096, 100<<30 + 4096*7, 1 << 40,
	} {
		for _, journal := range []bool{false, true} {
			if journal && size < 8<<20 {
				continue
			}
			t.Run(fmt.Sprintf("%d-%v", size, journal), func(t *testing.T) {
				image := filepath.Join(t.TempDir(), "image")
				if err := CreateEmpty(image, Options{Size: size, Journal: journal}); err != nil {
					t.Fatal(err)
				}
				fsck(t, image)
				st, err := os.Stat(image)
				if err != nil {
					t.Fatal(err)
				}
				if size > 0 && st.Size() != size || st.Mode() != 0o600 {
					t.Errorf("size %d, mode %v", st.Size(), st.Mode())
				}
				if used, err := UsedBytes(image); err != nil || used > 1<<20+size/4096 {
					t.Errorf("%d bytes used, error %v", used, err)
				}
			})
		}
	}
}

func TestSizesThatCannotBe(t *testing.T) {
	for _, o := range []Options{
		{Size: -4096},
		{Inodes: -1},
		{Size: 4097 * 3},
		{Size: 16 << 40},
		{Journal: true},
		{Label: strings.Repeat("l", 17)},
	} {
		image := filepath.Join(t.TempDir(), "image")
		if err := CreateEmpty(image, o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

func TestLargeDiskIsMadeAtOnce(t *testing.T) {
	dir := t.TempDir()
	best := time.Hour
	for i := range 5 { // fsync depends on what else the host does
		start := time.Now()
		if err := CreateEmpty(filepath.Join(dir, fmt.Sprint(i)), Options{Size: 16 << 30, Journal: true}); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(start))
	}
	used, err := UsedBytes(filepath.Join(dir, "0"))
	t.Logf("16 GiB with a journal: %v, %d bytes on disk, %v", best, used, err)
	if best > 20*time.Millisecond || used > 256<<10 || err != nil {
		t.Errorf("took %v and %d bytes, want at most 20ms and 256 KiB", best, used)
	}
}

func TestDumpe2fsSeesWhatWasAskedFor(t *testing.T) {
	needTool(t, "dumpe2fs")
	image := filepath.Join(t.TempDir(), "image")
	o := Options{
		Size: 2 << 30, Label: "sixteen-letters-", Journal: true, Inodes: 5000,
		UUID: [16]byte{0xde, 0xad, 0xbe, 0xef, 15: 1}, Time: time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC),
	}
	if err := CreateEmpty(image, o); err != nil {
		t.Fatal(err)
	}
	fsck(t, image)
	t.Setenv("TZ", "UTC")
	out := runTool(t, "dumpe2fs", image)
	for field, value := range map[string]string{
		"Filesystem volume name": "sixteen-letters-",
		"Filesystem UUID":        "deadbeef-0000-0000-0000-000000000001",
		"Filesystem features": "has_journal ext_attr dir_index filetype extent flex_bg sparse_super " +
			"large_file huge_file dir_nlink extra_isize metadata_csum",
		"Filesystem state":     "clean",
		"Reserved block count": "0",
		"Block count":          "524288",
		"Inode count":          "5120",
		"Block size":           "4096",
		"Inode size":           "256",
		"Filesystem created":   "Mon May  6 07:08:09 2024",
		"Journal inode":        "8",
		"Total journal size":   "64M",
		"Journal start":        "0",
		"Checksum type":        "crc32c",
	} {
		m := regexp.MustCompile(`(?m)^` + field + `:\s+(.*?)\s*$`).FindStringSubmatch(out)
		if m == nil || m[1] != value {
			t.Errorf("%s: %q, want %q", field, m, value)
		}
	}
	for i := range 16 {
		m := regexp.MustCompile(fmt.Sprintf(`(?m)^Group %d: .*\[(.*)\]`, i)).FindStringSubmatch(out)
		if m == nil || !strings.Contains(m[1], "ITABLE_ZEROED") {
			t.Errorf("group %d: %q", i, m)
		} else if uninit := strings.Contains(m[1], "BLOCK_UNINIT"); uninit != (i > 0 && i < 15) {
			t.Errorf("group %d: %q", i, m)
		}
	}
	info := openImage(t, image).Info()
	if info.Label != o.Label || info.UUID != o.UUID || !info.HasJournal || info.NeedsReplay ||
		info.Inodes != 5120 || info.Blocks != 524288 || !slices.Contains(info.Features, "metadata_csum") {
		t.Errorf("Info: %+v", info)
	}
}

func TestDrive(t *testing.T) {
	image := filepath.Join(t.TempDir(), "drive")
	files := []File{{"b/c/secret", 0o400, []byte("hunter2")}, {"a.json", 0o644, []byte("{}")}, {"b/empty", 0o600, nil}}
	if err := CreateDrive(image, "mvm-config", 0, files); err != nil {
		t.Fatal(err)
	}
	fsck(t, image)
	st, err := os.Stat(image)
	if err != nil || st.Mode() != 0o600 || st.Size() > 128<<10 {
		t.Errorf("%v, %v", st, err)
	}
	epoch := time.Unix(0, 0).UTC()
	want := []Entry{
		{Path: ".", Type: TypeDir, Mode: 0o700, ModTime: epoch},
		{Path: "a.json", Type: TypeFile, Mode: 0o644, Size: 2, ModTime: epoch},
		{Path: "b", Type: TypeDir, Mode: 0o700, ModTime: epoch},
		{Path: "b/c", Type: TypeDir, Mode: 0o700, ModTime: epoch},
		{Path: "b/c/secret", Type: TypeFile, Mode: 0o400, Size: 7, ModTime: epoch},
		{Path: "b/empty", Type: TypeFile, Mode: 0o600, ModTime: epoch},
	}
	fs := openImage(t, image)
	if d := diffEntries(want, walkAll(t, fs)); d != "" {
		t.Errorf("tree differs (-want +got):\n%s", d)
	}
	if p, err := readFrom(fs)("b/c/secret"); err != nil || string(p) != "hunter2" {
		t.Errorf("%q, %v", p, err)
	}
	slices.Reverse(files)
	other := filepath.Join(t.TempDir(), "drive")
	if err := CreateDrive(other, "mvm-config", 0, files); err != nil || imageSum(t, other) != imageSum(t, image) {
		t.Errorf("order of files matters, or %v", err)
	}
	for _, path := range []string{"/abs", "../x", "a/../b", ""} {
		if err := CreateDrive(other, "l", 0, []File{{Path: path}}); err == nil {
			t.Errorf("path %q: no error", path)
		}
	}
}

func TestCreateFileIsAtomic(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	if err := os.WriteFile(image, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	if err := CreateFile(image, Options{}, func(*Writer) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("error %v", err)
	}
	func() {
		defer func() { _ = recover() }()
		_ = CreateFile(image, Options{}, func(*Writer) error { panic("boom") })
	}()
	if p, err := os.ReadFile(image); err != nil || string(p) != "old" {
		t.Errorf("the old file is %q, %v", p, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	if err := CreateEmpty(image, Options{}); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(image); err != nil || st.Mode() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
}

func TestCopySparse(t *testing.T) {
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	for name, data := range map[string][]byte{
		"empty": nil, "byte": {1}, "odd": noise(100001), "hole": make([]byte, 1<<20),
		"tail": append(noise(4096), make([]byte, 1<<20+5)...), "fragments": fragments(50),
		"odd end": append(make([]byte, 3<<20), 1, 2, 3),
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(src, data, 0o640); err != nil {
				t.Fatal(err)
			}
			if err := CopySparse(dst, src); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(dst)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("copy differs, or %v", err)
			}
			used, err := UsedBytes(dst)
			data := int64(len(bytes.ReplaceAll(data, make([]byte, 4096), nil)))
			if err != nil || used > data+64<<10+data { // fragments: one block each
				t.Errorf("%d bytes used for about %d, error %v", used, data, err)
			}
		})
	}
	if err := CopySparse(dst, dir); err == nil {
		t.Error("a directory can be copied")
	}
	if err := CopySparse(dst, filepath.Join(dir, "nothing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 2 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCopyOfLargeSparseImage(t *testing.T) {
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	if err := CreateEmpty(src, Options{Size: 64 << 30, Journal: true}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := CopySparse(dst, src); err != nil {
		t.Fatal(err)
	}
	used, err := UsedBytes(dst)
	t.Logf("64 GiB copied in %v to %d bytes, %v", time.Since(start), used, err)
	if used > 1<<20 {
		t.Errorf("%d bytes used", used)
	}
	fsck(t, dst)
}
