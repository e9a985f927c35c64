package kernel

import (
	"bytes"
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// smallBzip2 is "hello\n" by bzip2; Go has no compressor.
const smallBzip2 = "QlpoOTFBWSZTWcHAgOIAAAFBAAAQAkSgADDNAMNGKZcXckU4UJDBwIDi"

func TestEveryCompressionOfTheKernelsBuildIsRead(t *testing.T) {
	elf := vmlinux(nil)
	for name, payload := range map[string][]byte{
		"gzip": packGzip(elf), "xz": sized(packXZ)(elf), "zstd": sized(packZstd)(elf),
		"lz4": sized(packLZ4)(elf), "lzma": sized(packLZMA)(elf), "none": elf,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "bzImage")
			if err := os.WriteFile(path, bzImage(payload, nil), 0o644); err != nil {
				t.Fatal(err)
			}
			img, err := unpackImage(context.Background(), path, dir)
			if err != nil {
				t.Fatal(err)
			}
			if img.release != testRelease || img.arch != "amd64" || !img.pvh || img.vmlinux == "" {
				t.Errorf("unpacked %+v", img)
			}
			got, err := os.ReadFile(filepath.Join(dir, img.vmlinux))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, elf) {
				t.Error("the unpacked kernel is not the one that was packed")
			}
		})
	}
	t.Run("bzip2", func(t *testing.T) {
		raw, err := base64.StdEncoding.DecodeString(smallBzip2)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if _, err := decompress(context.Background(), &out, bytes.NewReader(raw), sniffCompression(raw), 100); err != nil {
			t.Fatal(err)
		}
		if out.String() != "hello\n" {
			t.Errorf("got %q", out.String())
		}
	})
}

// A kernel with LZO is good, but only as the bzImage that it is.
func TestUnknownCompressionLeavesTheBzImage(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "bzImage")
	payload := append([]byte("\x89LZO\x00\x0d\x0a\x1a\x0a whatever"), 0, 32, 0, 0)
	if err := os.WriteFile(path, bzImage(payload, nil), 0o644); err != nil {
		t.Fatal(err)
	}
	img, err := unpackImage(context.Background(), path, dir)
	if err != nil {
		t.Fatal(err)
	}
	if img.vmlinux != "" || img.image == "" || img.release != testRelease {
		t.Errorf("unpacked %+v", img)
	}
	if _, err := os.Stat(filepath.Join(dir, fileVMLinux)); err == nil {
		t.Error("an empty vmlinux is left")
	}
}

// Threat A051: whatever file is called a kernel, it is refused with a reason, and nothing is left.
func TestHostileKernelFiles(t *testing.T) {
	good := goodBzImage()
	elfWith := func(change func(h []byte, segs []segment) []segment) []byte { return vmlinux(change) }
	pkg := deb("data.tar.xz", packXZ, map[string][]byte{"boot/vmlinuz-1": good})
	bomb := sized(packZstd)(make([]byte, 64<<20))
	for _, c := range []struct {
		name   string
		file   []byte
		reason string
	}{
		{"empty", nil, "empty"},
		{"zero bytes", make([]byte, 1<<20), "zero bytes"},
		{"text", []byte(strings.Repeat("no kernel ", 1000)), "neither"},
		{"header only", good[:0x210], "truncated"},
		{"half a bzImage", good[:len(good)/2], "truncated"},
		{"last byte missing", good[:len(good)-17], "truncated"},
		{"old boot protocol", bzImage(packGzip(vmlinux(nil)), func(b []byte) { le.PutUint16(b[0x206:], 0x0202) }), "older"},
		{"32-bit kernel", bzImage(packGzip(vmlinux(nil)), func(b []byte) { b[0x236] = 0 }), "32-bit"},
		{"payload outside", bzImage(packGzip(vmlinux(nil)), func(b []byte) { le.PutUint32(b[0x248:], 0xfffffff0) }), "outside"},
		{"payload endless", bzImage(packGzip(vmlinux(nil)), func(b []byte) { le.PutUint32(b[0x24c:], 0xffffffff) }), "outside"},
		{"payload unknown", bzImage([]byte(strings.Repeat("?", 64)), nil), "no compression"},
		{"no version", bzImage(packGzip(vmlinux(nil)), func(b []byte) { le.PutUint16(b[0x20e:], 0) }), "version"},
		{"version outside", bzImage(packGzip(vmlinux(nil)), func(b []byte) { le.PutUint16(b[0x20e:], 0xffff) }), "version"},
		{"version with a path", bzImage(packGzip(vmlinux(nil)), func(b []byte) { copy(b[0x800:], "6.1/../../etc ") }), "release"},
		{"damaged payload", bzImage(damaged(sized(packLZ4)(vmlinux(nil))), nil), ""},
		{"decompression bomb", bzImage(append(bomb[:len(bomb)-4], 0, 16, 0, 0), nil), "expands beyond"},
		{"bomb that admits it", bzImage(append(bomb[:len(bomb)-4], 0, 0, 0, 0xff), nil), "claims"},
		{"shorter than it says", bzImage(le.AppendUint32(packZstd(vmlinux(nil)), 9000), nil), "instead of"},
		{"xz that wants 4 GiB", bzImage(sized(hugeXZ)(vmlinux(nil)), nil), "damaged"},
		{"lzma that wants 4 GiB", bzImage(sized(hugeLZMA)(vmlinux(nil)), nil), "window"},
		{"a bzImage of text", bzImage(packGzip([]byte(strings.Repeat("text", 50))), nil), "ELF"},
		{"ELF header only", vmlinux(nil)[:64], "outside"},
		{"32-bit ELF", elfWith(func(h []byte, s []segment) []segment { h[4] = 1; return s }), "64-bit"},
		{"other processor", elfWith(func(h []byte, s []segment) []segment { h[18] = 243; return s }), "another processor"},
		{"arm64 ELF", elfWith(func(h []byte, s []segment) []segment { h[18] = 183; return s }), "arm64"},
		{"object file", elfWith(func(h []byte, s []segment) []segment { h[16] = 1; return s }), "no executable"},
		{"segment past the end", elfWith(func(_ []byte, s []segment) []segment { s[0].file = 1 << 40; s[0].mem = 1 << 41; return s }), "outside"},
		{"segment offset wraps", elfWith(func(_ []byte, s []segment) []segment { s[0].offset = 1<<64 - 16; return s }), "outside"},
		{"huge memory", elfWith(func(_ []byte, s []segment) []segment { s[0].mem = 1 << 62; return s }), "memory"},
		{"huge in sum", elfWith(func(_ []byte, s []segment) []segment {
			s[0].mem, s[1].mem, s[1].paddr = 1<<30, 1<<30, 0x50000000
			return s
		}), "memory"},
		{"more file than memory", elfWith(func(_ []byte, s []segment) []segment { s[1].mem = 1; return s }), "memory"},
		{"overlap", elfWith(func(_ []byte, s []segment) []segment { s[1].paddr = 0x1001fff; return s }), "overlap"},
		{"entry outside", elfWith(func(h []byte, s []segment) []segment { le.PutUint64(h[24:], 0x400000); return s }), "entry point"},
		{"nothing to load", elfWith(func(_ []byte, s []segment) []segment { return s[2:] }), "nothing to load"},
		{"many segments", elfWith(func(_ []byte, s []segment) []segment { return append(s, make([]segment, 62)...) }), "program headers"},
		{"headers past the end", elfWith(func(h []byte, s []segment) []segment { le.PutUint64(h[32:], 1<<40+64); return s }), "outside"},
		{"no Linux", bytes.ReplaceAll(vmlinux(nil), []byte("Linux"), []byte("Other")), "Linux version"},
		{"gzip of text", packGzip([]byte(strings.Repeat("text", 50))), "arm64 Image"},
		{"package without a kernel", deb("data.tar.xz", packXZ, map[string][]byte{"usr/bin/x": {1}}), "vmlinuz"},
		{"half a package", pkg[:len(pkg)/2], "truncated|damaged"},
		{"package without its last bytes", pkg[:len(pkg)-20], "truncated|damaged"},
		{"package of another kind", deb("data.tar.br", plain, nil), "compression"},
		{"package with a bad header", []byte("!<arch>\n" + strings.Repeat("x", 60)), "header"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cache, path := t.TempDir(), filepath.Join(t.TempDir(), "kernel")
			if err := os.WriteFile(path, c.file, 0o644); err != nil {
				t.Fatal(err)
			}
			s := New(cache, WithHostRoot(t.TempDir()), WithArch("amd64"))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := s.Find(context.Background(), path)
			runtime.ReadMemStats(&after)
			wantCode(t, err, "boot.kernel_invalid")
			found := false
			for r := range strings.SplitSeq(c.reason, "|") {
				found = found || strings.Contains(err.Error(), r)
			}
			if !found {
				t.Errorf("the reason is %q, want something with %q", err, c.reason)
			}
			if !strings.Contains(err.Error(), path) {
				t.Errorf("%q does not name the file", err)
			}
			if left := leftovers(t, cache); left != nil {
				t.Errorf("left behind: %v", left)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 256<<20 {
				t.Errorf("%d MiB were allocated", used>>20)
			}
		})
	}
}

func damaged(b []byte) []byte {
	b = bytes.Clone(b)
	for i := len(b) / 3; i < len(b)/3+40; i++ {
		b[i] ^= 0x55
	}
	return b
}

// hugeXZ sets the dictionary of an xz block to 4 GiB; its checksum is not mended, because the
// size must be refused first or the checksum after: both without allocating.
func hugeXZ(raw []byte) []byte {
	b := packXZ(raw)
	i := bytes.Index(b[12:], []byte{0x21, 0x01}) + 12
	b[i+2] = 40
	return b
}

func hugeLZMA(raw []byte) []byte {
	b := packLZMA(raw)
	le.PutUint32(b[1:], 0xffff0000)
	return b
}

func TestNotARegularFile(t *testing.T) {
	s := New(t.TempDir(), WithHostRoot(t.TempDir()), WithArch("amd64"))
	_, err := s.Find(context.Background(), t.TempDir())
	wantCode(t, err, "boot.kernel_invalid")
	if _, err = s.Find(context.Background(), os.DevNull); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("a device as kernel: %v", err)
	}
}

func TestPVHNote(t *testing.T) {
	for name, c := range map[string]struct {
		change func(h []byte, s []segment) []segment
		want   bool
	}{
		"with the note":       {nil, true},
		"without a segment":   {func(_ []byte, s []segment) []segment { return s[:2] }, false},
		"another note's type": {func(h []byte, s []segment) []segment { h[4096+8] = 17; return s }, false},
		"another owner":       {func(h []byte, s []segment) []segment { h[4096+12] = 'Y'; return s }, false},
		"endless name":        {func(h []byte, s []segment) []segment { le.PutUint32(h[4096:], 0xfffffffd); return s }, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := vmlinux(c.change)
			got, err := checkELF(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			if got.pvh != c.want {
				t.Errorf("PVH is %v", got.pvh)
			}
		})
	}
}

// arm64 kernels are stored and named, plain, gzipped or as an EFI zboot image.
func TestARM64Images(t *testing.T) {
	raw := make([]byte, 5000)
	copy(raw[56:], "ARM\x64")
	copy(raw[3000:], "Linux version 6.1.0-9-arm64 (x) #1")
	zb := make([]byte, 128)
	copy(zb, "MZ\x00\x00zimg")
	payload := sized(packZstd)(raw)
	le.PutUint32(zb[8:], 128)
	le.PutUint32(zb[12:], uint32(len(payload)))
	copy(zb[0x18:], "zstd22")
	for name, file := range map[string][]byte{"Image": raw, "Image.gz": packGzip(raw), "zboot": append(zb, payload...)} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "Image")
			if err := os.WriteFile(path, file, 0o644); err != nil {
				t.Fatal(err)
			}
			k, err := New(t.TempDir(), WithArch("arm64"), WithHostRoot(t.TempDir())).Find(context.Background(), path)
			if err != nil {
				t.Fatal(err)
			}
			if k.Release != "6.1.0-9-arm64" || k.Arch != "arm64" || k.BzImage == "" {
				t.Errorf("got %+v", k)
			}
			if got, err := os.ReadFile(k.VMLinux); err != nil || !bytes.Equal(got, raw) {
				t.Errorf("the uncompressed Image is wrong (%v)", err)
			}
			_, err = New(t.TempDir(), WithArch("amd64"), WithHostRoot(t.TempDir())).Find(context.Background(), path)
			wantCode(t, err, "boot.kernel_invalid")
		})
	}
}

func TestConfigInsideTheImage(t *testing.T) {
	ik := append([]byte("IKCFG_ST"), packGzip([]byte(testConfig))...)
	b := vmlinux(nil, bytes.Repeat([]byte{7}, 1<<20-8192-4), ik, []byte("IKCFG_ED"))
	got, err := scanKernel(context.Background(), bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"CONFIG_BLK_DEV_INITRD": "y", "CONFIG_VIRTIO_BLK": "m", "CONFIG_EXT4_FS": "y", "CONFIG_OVERLAY_FS": "m",
		"CONFIG_NAME": "a text",
	}
	if diff := cmp.Diff(want, got.config); diff != "" {
		t.Error(diff)
	}
	if got.release != testRelease {
		t.Errorf("release %q", got.release)
	}
}
