package disk

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// memory is an image in memory.
type memory struct{ p []byte }

func (m *memory) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(m.p).ReadAt(p, off) }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if end := off + int64(len(p)); end > int64(len(m.p)) {
		_ = m.Truncate(end)
	}
	return copy(m.p[off:], p), nil
}

func (m *memory) Truncate(size int64) error {
	if size < int64(len(m.p)) {
		m.p = m.p[:size]
	}
	m.p = append(m.p, make([]byte, size-int64(len(m.p)))...)
	return nil
}

// baseImages are small sound images to be spoiled: ours; ext2 with block maps and an ext4
// that was copied while mounted (journal with data, revokes and an escaped block), both of
// mke2fs 1.47 with blocks of 1 KiB.
func baseImages(t testing.TB) [][]byte {
	t.Helper()
	list := append(nastyAttributes(),
		file("frag", 0o644, fragments(1500)[:40*blockSize]), symlink("long", strings.Repeat("l", 80)),
		file("a/b/c", 0o644, noise(5000)), object{Entry: Entry{Path: "a/hard", Type: TypeHardlink, Target: "a/b/c"}},
		object{Entry: Entry{Path: "dev", Type: TypeChar, Major: 300, Minor: 300}})
	list = append(list, manyNames(60)...)
	m := &memory{}
	w, err := NewWriter(m, Options{})
	if err == nil {
		err = errors.Join(addAll(list)(w), w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return append([][]byte{m.p}, unzip(t, "ext2-1k.img.gz"), unzip(t, "ext4-1k-killed.img.gz"))
}

func unzip(t testing.TB, name string) []byte {
	t.Helper()
	p, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(p))
	if err != nil {
		t.Fatal(err)
	}
	p, err = io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// spoil applies patches: offset (3 bytes, times 4), length (1 byte), bytes.
func spoil(image, patches []byte) []byte {
	image = slices.Clone(image)
	for len(patches) > 4 {
		at := int(binary.LittleEndian.Uint32(patches)&0xFFFFFF) * 4 % len(image)
		n := min(int(patches[3]), len(patches)-4, len(image)-at)
		copy(image[at:], patches[4:4+n])
		patches = patches[4+n:]
	}
	return image
}

func patch(at int, p ...byte) []byte {
	return append([]byte{byte(at / 4), byte(at / 4 >> 8), byte(at / 4 >> 16), byte(len(p))}, p...)
}

// counting says how much was read.
type counting struct {
	io.ReaderAt
	n int64
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	c.n += int64(len(p))
	return c.ReaderAt.ReadAt(p, off)
}

// explore reads everything that an image has, up to limits, and reports broken promises.
func explore(t *testing.T, image []byte, verify bool) {
	start := time.Now()
	in := &counting{ReaderAt: bytes.NewReader(image)}
	f, err := open(in, int64(len(image)), verify)
	if err != nil {
		return
	}
	f.Info()
	seen := map[string]bool{}
	var files []string
	err = f.Walk(func(e Entry) error {
		switch {
		case seen[e.Path]:
			t.Errorf("%q twice", e.Path)
		case e.Path != "." && checkPath(e.Path) != nil:
			t.Errorf("path %q", e.Path)
		case e.Path != "." && !seen[filepath.ToSlash(filepath.Dir(e.Path))]:
			t.Errorf("%q before its directory", e.Path)
		case e.Type == TypeSymlink && (e.Target == "" || len(e.Target) > maxTarget):
			t.Errorf("target %q", e.Target)
		case e.Mode > 0o7777 || e.Size < 0:
			t.Errorf("entry %+v", e)
		case e.Type == TypeHardlink && !seen[e.Target]:
			t.Errorf("hard link %q to %q", e.Path, e.Target)
		case e.Type == TypeFile && len(files) < 100:
			files = append(files, e.Path)
		}
		seen[e.Path] = true
		return nil
	})
	if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnsupported) {
		t.Errorf("Walk: %v", err)
	}
	for _, path := range files {
		r, e, err := f.Open(path)
		if err != nil {
			t.Errorf("Open %q: %v", path, err)
			continue
		}
		n, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20))
		if err == nil && n != min(e.Size, 1<<20) {
			t.Errorf("%q has %d bytes of %d", path, n, e.Size)
		}
		_, _, _ = r.(*openFile).NextData(0)
	}
	if took := time.Since(start); took > 10*time.Second || in.n > 200<<20 {
		t.Errorf("took %v and read %d bytes", took, in.n)
	}
}

// FuzzOpen reads images that are sound but for some patches.
func FuzzOpen(f *testing.F) {
	bases := baseImages(f)
	for kind := range bases {
		f.Add(byte(kind), true, []byte{})
		for _, at := range []int{0x404, 0x418, 0x420, 0x428, 0x458, 0x460, 0x4FC, 0x504, 0x450} { // superblock
			for _, p := range [][]byte{{0, 0, 0, 0}, {0xFF, 0xFF, 0xFF, 0xFF}, {1, 0, 0, 0}, {0, 0, 0, 0x80}} {
				f.Add(byte(kind), false, patch(at, p...))
			}
		}
		for at := 0; at < len(bases[kind]) && at < 1<<20; at += 9973 &^ 3 {
			f.Add(byte(kind), false, patch(at, 0xFF, 0xFF, 0, 0xFF))
		}
	}
	f.Fuzz(func(t *testing.T, kind byte, verify bool, patches []byte) {
		explore(t, spoil(bases[int(kind)%len(bases)], patches), verify)
	})
}

// FuzzOpenRaw reads bytes that need not resemble an image.
func FuzzOpenRaw(f *testing.F) {
	for _, p := range baseImages(f) {
		f.Add(p[:min(len(p), 64<<10)])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, p []byte) { explore(t, p, false) })
}

// Metadata is covered by checksums: a flipped bit gives an error or changes nothing that a
// reader sees. (Targets of long symlinks count as content, which has none.)
func TestChecksumsFindFlippedBits(t *testing.T) {
	image := baseImages(t)[0]
	tree := func() []Entry {
		f, err := Open(bytes.NewReader(image), int64(len(image)))
		if err != nil {
			return nil
		}
		var got []Entry
		err = f.Walk(func(e Entry) error {
			if e.Path == "long" {
				e.Target = ""
			}
			got = append(got, e)
			return nil
		})
		if err != nil {
			return nil
		}
		return got
	}
	want := tree()
	found := 0
	for at := 0; at < len(image); at += 499 {
		bit := byte(1) << (at % 8)
		image[at] ^= bit
		if got := tree(); got == nil {
			found++
		} else if d := diffEntries(want, got); d != "" {
			t.Errorf("byte %#x: %s", at, d)
		}
		image[at] ^= bit
	}
	t.Logf("%d of %d flipped bits found, the others change nothing", found, len(image)/499)
}

func TestForeignImagesFromTheDrawer(t *testing.T) {
	for _, name := range []string{"ext2-1k.img.gz", "ext4-1k-killed.img.gz"} {
		image := unzip(t, name)
		f, err := Open(bytes.NewReader(image), int64(len(image)))
		if err != nil {
			t.Fatal(err)
		}
		got := walkAll(t, f)
		t.Logf("%s: %d entries, %+v", name, len(got), f.Info())
		big, err := readFrom(f)("a/big")
		if err != nil || len(big) != 500000 || !bytes.HasPrefix(big[487*1024:], []byte("block 487\n")) {
			t.Errorf("a/big: %d bytes, %v", len(big), err)
		}
		e, err := f.Lstat("a/sparse")
		if err != nil || e.Size != 3<<20 {
			t.Errorf("a/sparse: %+v, %v", e, err)
		}
		if strings.Contains(name, "killed") {
			if p, err := readFrom(f)("magic"); err != nil || string(p) != "\xC0\x3B\x39\x98magic" {
				t.Errorf("magic: %q, %v", p, err)
			}
			if _, err := f.Lstat("crowd/file-with-a-name-7"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a file that was removed: %v", err)
			}
		}
	}
}
