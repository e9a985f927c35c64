package kernel

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// Builders of small kernels, modules and packages. They follow the formats' own documents and
// share no code with the readers under test.

const testRelease = "6.1.0-9-test-amd64"

var le = binary.LittleEndian

type segment struct {
	kind                            uint32
	offset, vaddr, paddr, file, mem uint64
}

// vmlinux builds an ELF kernel: 8 KiB with one loadable segment, a note segment, the banner, and
// what change makes of its header and segments.
func vmlinux(change func(header []byte, segs []segment) []segment, extra ...[]byte) []byte {
	const size = 8192
	b := make([]byte, size)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 2)  // ET_EXEC
	le.PutUint16(b[18:], 62) // EM_X86_64
	le.PutUint64(b[24:], 0x1000100)
	le.PutUint64(b[32:], 64)
	le.PutUint16(b[54:], 56)
	note := b[4096:]
	le.PutUint32(note, 4)
	le.PutUint32(note[4:], 4)
	le.PutUint32(note[8:], 18)
	copy(note[12:], "Xen\x00\x00\x01\x00\x01")
	copy(b[5000:], "%s version %s Linux version %s (builder) Linux version "+testRelease+" (builder@test) #1 SMP\x00")
	segs := []segment{
		{kind: 1, offset: 2048, vaddr: 0xffffffff81000000, paddr: 0x1000000, file: 4096, mem: 8192},
		{kind: 1, offset: 6144, vaddr: 0, paddr: 0x1002000, file: 2048, mem: 4096},
		{kind: 4, offset: 4096, file: 20},
	}
	if change != nil {
		segs = change(b, segs)
	}
	le.PutUint16(b[56:], uint16(len(segs)))
	at := b[le.Uint64(b[32:])%4096:]
	for i, s := range segs {
		p := at[i*56:]
		le.PutUint32(p, s.kind)
		for j, v := range []uint64{s.offset, s.vaddr, s.paddr, s.file, s.mem} {
			le.PutUint64(p[8+8*j:], v)
		}
	}
	return slices.Concat(append([][]byte{b}, extra...)...)
}

// packer compresses as the kernel's build does.
type packer func(raw []byte) []byte

func mustWrite(w interface {
	Write([]byte) (int, error)
	Close() error
}, err error, raw []byte,
) {
	if err == nil {
		_, err = w.Write(raw)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err)
	}
}

func packGzip(raw []byte) []byte {
	var b bytes.Buffer
	mustWrite(gzip.NewWriter(&b), nil, raw)
	return b.Bytes()
}

func packXZ(raw []byte) []byte {
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	mustWrite(w, err, raw)
	return b.Bytes()
}

func packLZMA(raw []byte) []byte {
	var b bytes.Buffer
	w, err := lzma.NewWriter(&b)
	mustWrite(w, err, raw)
	return b.Bytes()
}

func packZstd(raw []byte) []byte {
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b)
	mustWrite(w, err, raw)
	return b.Bytes()
}

func packLZ4(raw []byte) []byte {
	var b bytes.Buffer
	w := lz4.NewWriter(&b)
	mustWrite(w, w.Apply(lz4.LegacyOption(true)), raw)
	return b.Bytes()
}

// sized appends the uncompressed size, as scripts/Makefile.lib does for all but gzip.
func sized(p packer) packer {
	return func(raw []byte) []byte { return le.AppendUint32(p(raw), uint32(len(raw))) }
}

// bzImage wraps a payload into a boot image; change may break the header.
func bzImage(payload []byte, change func(b []byte)) []byte {
	const setup = 5 * 512
	b := make([]byte, setup+256)
	b[0x1f1] = 4
	le.PutUint16(b[0x1fe:], 0xaa55)
	copy(b[0x202:], "HdrS")
	le.PutUint16(b[0x206:], 0x020f)
	le.PutUint16(b[0x20e:], 0x600)
	copy(b[0x800:], testRelease+" (builder@test) #1 SMP\x00")
	le.PutUint16(b[0x236:], 1)
	le.PutUint32(b[0x248:], 256)
	le.PutUint32(b[0x24c:], uint32(len(payload)))
	b = append(b, payload...)
	for (len(b)-setup)%16 != 0 {
		b = append(b, 0)
	}
	le.PutUint32(b[0x1f4:], uint32((len(b)-setup)/16))
	if change != nil {
		change(b)
	}
	return b
}

func goodBzImage() []byte { return bzImage(sized(packLZ4)(vmlinux(nil)), nil) }

// ko builds a module: an ELF object whose only section of interest is .modinfo.
func ko(release string, depends ...string) []byte {
	info := "license=GPL\x00depends=" + strings.Join(depends, ",") + "\x00vermagic=" + release + " SMP mod_unload \x00"
	names := "\x00.modinfo\x00.shstrtab\x00"
	b := make([]byte, 64)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 1)
	le.PutUint16(b[18:], 62)
	le.PutUint32(b[20:], 1)
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[58:], 64)
	le.PutUint16(b[60:], 3)
	le.PutUint16(b[62:], 2)
	infoAt := len(b)
	b = append(b, info...)
	namesAt := len(b)
	b = append(b, names...)
	le.PutUint64(b[40:], uint64(len(b)))
	section := func(name, kind uint32, off, size int) {
		s := make([]byte, 64)
		le.PutUint32(s, name)
		le.PutUint32(s[4:], kind)
		le.PutUint64(s[24:], uint64(off))
		le.PutUint64(s[32:], uint64(size))
		b = append(b, s...)
	}
	section(0, 0, 0, 0)
	section(1, 1, infoAt, len(info))
	section(10, 3, namesAt, len(names))
	return b
}

// testModules is a tree like Debian's: overlay and virtio_blk as modules, ext4 built in.
func testModules(release string) map[string][]byte {
	return map[string][]byte{
		"kernel/drivers/virtio/virtio.ko":              ko(release, "virtio_ring"),
		"kernel/drivers/virtio/virtio_ring.ko":         ko(release),
		"kernel/drivers/virtio/virtio_pci.ko.xz":       packXZ(ko(release, "virtio_ring", "virtio")),
		"kernel/drivers/block/virtio_blk.ko.zst":       packZstd(ko(release, "virtio_ring", "virtio")),
		"kernel/drivers/char/hw_random/virtio-rng.ko":  ko(release, "rng_core", "virtio"),
		"kernel/drivers/gpu/huge.ko":                   ko(release),
		"kernel/fs/overlayfs/overlay.ko.gz":            packGzip(ko(release)),
		"kernel/drivers/char/hw_random/rng-core.ko":    ko(release),
		"kernel/drivers/char/hw_random/unrelated.ko":   []byte("not even a module"),
		"modules.builtin":                              []byte("kernel/fs/ext4/ext4.ko\nkernel/crypto/crc32c_generic.ko\n"),
		"kernel/drivers/char/virtio_console.ko":        ko(release, "virtio_ring", "virtio"),
		"kernel/drivers/virtio/virtio_pci_wrong.ko.xz": []byte("damaged, but nobody wants it"),
	}
}

const testConfig = "# comment\nCONFIG_BLK_DEV_INITRD=y\nCONFIG_VIRTIO_BLK=m\nCONFIG_EXT4_FS=y\nCONFIG_OVERLAY_FS=m\n" +
	"# CONFIG_NOT_HERE is not set\nCONFIG_NAME=\"a text\"\n"

// writeTree writes files below dir.
func writeTree(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// below puts all files under a directory.
func below(dir string, files map[string][]byte) map[string][]byte {
	moved := map[string][]byte{}
	for name, content := range files {
		moved[dir+"/"+name] = content
	}
	return moved
}

// install writes a whole kernel as a distribution would, below root; it returns the image's path.
func install(t *testing.T, root, release string) string {
	t.Helper()
	img := bzImage(sized(packLZ4)(vmlinux(nil)), func(b []byte) {
		clear(b[0x800:0x880])
		copy(b[0x800:], release+" (builder@test)\x00")
	})
	writeTree(t, root, below("lib/modules/"+release, testModules(release)))
	writeTree(t, root, map[string][]byte{"boot/vmlinuz-" + release: img, "boot/config-" + release: []byte(testConfig)})
	return filepath.Join(root, "boot", "vmlinuz-"+release)
}

// deb packs files into a Debian package with the named data member.
func deb(member string, pack packer, files map[string][]byte) []byte {
	var data bytes.Buffer
	tw := tar.NewWriter(&data)
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		h := &tar.Header{Name: "./" + n, Mode: 0o644, Size: int64(len(files[n])), Typeflag: tar.TypeReg}
		if err := tw.WriteHeader(h); err != nil {
			panic(err)
		}
		if _, err := tw.Write(files[n]); err != nil {
			panic(err)
		}
	}
	if err := tw.Close(); err != nil {
		panic(err)
	}
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, m := range []struct {
		name    string
		content []byte
	}{
		{"debian-binary", []byte("2.0\n")}, {"control.tar.xz", []byte("odd")}, {member, pack(data.Bytes())},
	} {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", m.name, 0, 0, 0, 0o100644, len(m.content))
		b.Write(m.content)
		if len(m.content)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func plain(raw []byte) []byte { return raw }

// wantCode fails the test unless err carries the code and a remedy.
func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if got := machine.CodeOf(err); got != code {
		t.Fatalf("error code %q (%v), want %q", got, err, code)
	}
	if e, ok := err.(*machine.Error); ok && e.Remedy == "" { //nolint:errorlint // the outermost one is shown
		t.Errorf("%v has no remedy", err)
	}
}

// leftovers lists what an aborted import or fetch left in a cache.
func leftovers(t *testing.T, cache string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(cache, "kernels"))
	if err != nil {
		return nil
	}
	var left []string
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".lock") && !isID(e.Name()) && e.Name() != refsDir {
			left = append(left, e.Name())
		}
	}
	return left
}
