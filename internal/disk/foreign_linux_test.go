package disk

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// unpack puts a tree into a host directory.
func unpack(t *testing.T, dir string, list []object) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make devices and owners")
	}
	for _, o := range list {
		full := filepath.Join(dir, o.Path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unpackOne(dir, full, o); err != nil {
			t.Fatalf("%q: %v", o.Path, err)
		}
	}
	for _, o := range slices.Backward(list) { // content changes a directory's time
		when := unix.NsecToTimespec(o.ModTime.Truncate(time.Second).UnixNano()) // mke2fs keeps no more
		if o.Type == TypeHardlink {
			continue
		}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, o.Path),
			[]unix.Timespec{when, when}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(dir, func(full string, d os.DirEntry, err error) error { // implicit ones
		if err == nil && d.IsDir() {
			return os.Chtimes(full, testTime.Truncate(time.Second), testTime.Truncate(time.Second))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func unpackOne(dir, full string, o object) error {
	var err error
	switch o.Type {
	case TypeFile:
		err = writeSparsely(full, o.data)
	case TypeDir:
		err = os.MkdirAll(full, 0o755)
	case TypeSymlink:
		err = os.Symlink(o.Target, full)
	case TypeHardlink:
		return os.Link(filepath.Join(dir, o.Target), full)
	default:
		_, mode := o.Type.codes()
		err = unix.Mknod(full, uint32(mode), int(unix.Mkdev(o.Major, o.Minor)))
	}
	if err != nil {
		return err
	}
	if err := unix.Lchown(full, int(o.UID), int(o.GID)); err != nil {
		return err
	}
	if o.Type != TypeSymlink {
		if err := unix.Chmod(full, uint32(o.Mode)); err != nil {
			return err
		}
	}
	for name, value := range o.Xattrs {
		if err := unix.Lsetxattr(full, name, value, 0); err != nil {
			return err
		}
	}
	return nil
}

func writeSparsely(full string, data []byte) error {
	f, err := os.Create(full)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(int64(len(data))); err != nil {
		return err
	}
	zeros := make([]byte, blockSize)
	for i := 0; i < len(data); i += blockSize {
		p := data[i:min(i+blockSize, len(data))]
		if string(p) == string(zeros[:len(p)]) {
			continue
		}
		if _, err := f.WriteAt(p, int64(i)); err != nil {
			return err
		}
	}
	return nil
}

// without drops what a host file system or mke2fs cannot keep.
func without(list []object, skip func(object) bool) []object {
	return slices.DeleteFunc(slices.Clone(list), skip)
}

func TestReaderReadsMke2fsImages(t *testing.T) {
	needTool(t, "mke2fs")
	list := without(nastyTree(), func(o object) bool {
		return strings.HasPrefix(o.Path, "attr/time-2") || // mke2fs 1.47 wraps at 2038
			strings.HasPrefix(o.Path, "docs/") && len(o.Path) > len("docs/1/page999.md") // enough
	})
	source := t.TempDir()
	unpack(t, source, list)
	expect := hostTree(t, source)
	for name, args := range map[string]string{
		"ext4":            "-t ext4 -b 4096",
		"no journal":      "-t ext4 -b 4096 -O ^has_journal",
		"64bit":           "-t ext4 -b 4096 -O 64bit",
		"no 64bit":        "-t ext4 -b 4096 -O ^64bit,^metadata_csum",
		"meta_bg":         "-t ext4 -b 4096 -O meta_bg,^resize_inode",
		"csum seed":       "-t ext4 -b 4096 -O metadata_csum_seed",
		"128-byte inodes": "-t ext4 -b 4096 -I 128 -O ^metadata_csum",
		"sparse_super2":   "-t ext4 -b 4096 -O sparse_super2",
		"64 KiB blocks":   "-t ext4 -b 65536 -N 6000 -T default",
		"ext3":            "-t ext3 -b 4096 -I 256",
		"ext2":            "-t ext2 -b 4096 -I 256",
		"no filetype":     "-t ext2 -b 4096 -O ^filetype -I 256",
	} {
		t.Run(name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			argv := append(strings.Fields(args), "-F", "-q", "-d", source, image, "400M")
			runTool(t, "mke2fs", argv...)
			fs := openImage(t, image)
			compareForeign(t, fs, image, expect)
			checkContents(t, list, readFrom(fs))
		})
	}
}

// Blocks of 1 KiB have no room for the larger xattrs, and inodes of 128 bytes for any.
func TestReaderReadsSmallMke2fsImages(t *testing.T) {
	needTool(t, "mke2fs")
	list := without(nastyTree(), func(o object) bool {
		return strings.HasPrefix(o.Path, "attr/") || o.Path == "links/4095" ||
			strings.HasPrefix(o.Path, "docs/") && len(o.Path) > len("docs/1/page999.md")
	})
	source := t.TempDir()
	unpack(t, source, list)
	expect := hostTree(t, source)
	for name, args := range map[string]string{
		"ext4":            "-t ext4",
		"meta_bg":         "-t ext4 -O meta_bg,^resize_inode",
		"64bit":           "-t ext4 -O 64bit",
		"2 KiB":           "-t ext4 -b 2048",
		"128-byte inodes": "-t ext4 -I 128 -O ^metadata_csum",
		"ext2":            "-t ext2",
	} {
		t.Run(name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			runTool(t, "mke2fs", append(strings.Fields("-b 1024 "+args), "-F", "-q", "-d", source, image, "200M")...)
			fs := openImage(t, image)
			compareForeign(t, fs, image, expect)
			checkContents(t, list, readFrom(fs))
		})
	}
}

// compareForeign compares what we read with what the kernel reads, or with the source of
// the image if the kernel does not mount it.
func compareForeign(t *testing.T, fs *FS, image string, source []Entry) {
	t.Helper()
	got := walkAll(t, fs)
	if fs.Info().BlockSize > 4096 {
		// mke2fs 1.47 leaves out the root's attributes and hard links between symlinks.
		odd := func(e Entry) bool {
			return e.Path == "." || e.Path == "lost+found" || strings.HasPrefix(e.Path, "links/")
		}
		got, source = slices.DeleteFunc(got, odd), slices.DeleteFunc(slices.Clone(source), odd)
	} else {
		dir, unmount := mount(t, image, "ro,noload")
		source = hostTree(t, dir)
		unmount()
	}
	if d := diffEntries(source, got); d != "" {
		t.Errorf("tree differs (-want +got):\n%.3000s", d)
	}
}

// With dir_index, mke2fs -d makes linear directories; e2fsck -D indexes them.
func TestReaderReadsHTreesOfE2fsck(t *testing.T) {
	needTool(t, "mke2fs", "e2fsck")
	source := t.TempDir()
	list := []object{}
	for _, o := range nastyTree() {
		if strings.HasPrefix(o.Path, "crowd/") {
			list = append(list, o)
		}
	}
	unpack(t, source, list)
	image := filepath.Join(t.TempDir(), "image")
	runTool(t, "mke2fs", "-q", "-t", "ext4", "-b", "1024", "-d", source, image, "50M")
	runToolRC(t, []int{0, 1}, "e2fsck", "-fyD", image)
	got := walkAll(t, openImage(t, image))
	if d := diffEntries(hostTree(t, source)[1:], slices.DeleteFunc(got, func(e Entry) bool {
		return e.Path == "." || e.Path == "lost+found"
	})); d != "" {
		t.Errorf("tree differs (-want +got):\n%.3000s", d)
	}
}

// A machine killed while writing leaves its journal full. Reading must give what mounting
// would, and must leave the image alone.
func TestReaderHonoursTheJournal(t *testing.T) {
	needTool(t, "mke2fs")
	for name, tt := range map[string]struct{ args, options string }{
		"ours":             {"", "rw"},
		"data in journal":  {"", "rw,data=journal"},
		"async commit":     {"", "rw,journal_async_commit,data=writeback"},
		"mke2fs":           {"-t ext4", "rw"},
		"1 KiB, 64bit":     {"-t ext4 -b 1024 -O 64bit", "rw,data=journal"},
		"no metadata_csum": {"-t ext4 -O ^metadata_csum,^64bit", "rw,data=journal"},
		"journal_checksum": {"-t ext3", "rw,journal_checksum"},
	} {
		t.Run(name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			if tt.args == "" {
				image = build(t, Options{Size: 200 << 20, Journal: true}, nil)
			} else {
				runTool(t, "mke2fs", append(strings.Fields(tt.args), "-q", "-F", image, "200M")...)
			}
			dir, unmount := mount(t, image, tt.options)
			busyTree(t, dir)
			killed := image + ".killed"
			if err := CopySparse(killed, image); err != nil {
				t.Fatal(err)
			}
			unmount()
			before := imageSum(t, killed)
			fs := openImage(t, killed)
			if !fs.Info().NeedsReplay {
				t.Fatal("the journal is empty; the test shows nothing")
			}
			got := walkAll(t, fs)
			magic, err := readFrom(fs)("magic")
			if err != nil || string(magic) != journalMagicFile {
				t.Errorf("escaped block reads as %.20q, %v", magic, err)
			}
			if len(fs.replay) == 0 {
				t.Error("nothing was in the journal; the test shows nothing")
			}
			if imageSum(t, killed) != before {
				t.Error("reading changed the image")
			}
			dir, unmount = mount(t, killed, "rw") // replays
			if d := diffEntries(hostTree(t, dir), got); d != "" {
				t.Errorf("differs from what the kernel recovers (-kernel +ours):\n%.3000s", d)
			}
			unmount()
			after := openImage(t, killed).Info()
			if after.NeedsReplay || after.FreeInodes != fs.Info().FreeInodes && fs.Info().FreeInodes == 0 {
				t.Errorf("after the kernel's replay: %+v", after)
			}
		})
	}
}

// journalMagicFile begins as journal blocks do, so the journal must escape it.
var journalMagicFile = "\xC0\x3B\x39\x98" + strings.Repeat("magic", 100)

// busyTree leaves much in the journal: metadata written, removed, its blocks used again.
func busyTree(t *testing.T, dir string) {
	t.Helper()
	for round := range 3 {
		for i := range 40 {
			sub := filepath.Join(dir, "d", string(rune('a'+i%26)), strings.Repeat("n", 50+i))
			if err := os.MkdirAll(sub, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(sub, "f"), noise(5000*(i%3)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		unix.Sync()
		if round < 2 {
			if err := os.RemoveAll(filepath.Join(dir, "d")); err != nil {
				t.Fatal(err)
			}
			unix.Sync() // revokes
			if err := os.WriteFile(filepath.Join(dir, "reuse"), noise(400000), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "magic"), []byte(journalMagicFile), 0o600); err != nil {
		t.Fatal(err)
	}
	unix.Sync()
}
