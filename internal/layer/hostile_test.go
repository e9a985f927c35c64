package layer

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/mvmctl/mvmctl/internal/disk"
)

func TestHostileEntries(t *testing.T) {
	ustar := func(i item) item {
		return i.with(func(h *tar.Header) { h.Format, h.ModTime = tar.FormatUSTAR, time.Unix(1, 0) })
	}
	gnu := func(i item) item {
		return i.with(func(h *tar.Header) { h.Format, h.ModTime = tar.FormatGNU, time.Unix(1, 0) })
	}
	long := strings.Repeat("n", 256)
	for name, tt := range map[string]struct {
		code   string
		layers [][]byte
	}{
		"..":                       {"archive.path_escape", [][]byte{pack(t, file("../x", ""))}},
		".. inside":                {"archive.path_escape", [][]byte{pack(t, file("a/../../x", ""))}},
		"./..":                     {"archive.path_escape", [][]byte{pack(t, file("./../x", ""))}},
		"/..":                      {"archive.path_escape", [][]byte{pack(t, dir("/.."))}},
		"hard link to ..":          {"archive.path_escape", [][]byte{pack(t, hardlink("a", "../etc/passwd"))}},
		"whiteout below ..":        {"archive.path_escape", [][]byte{pack(t, whiteout("../.wh.x"))}},
		"file far below a file":    {"archive.conflict", [][]byte{pack(t, file(strings.Repeat("ü\x1b/", 600)+"d", ""), file(strings.Repeat("ü\x1b/", 600)+"d/x", ""))}},
		"file below a file":        {"archive.conflict", [][]byte{pack(t, file("d", ""), file("d/x", ""))}},
		"opaque below a symlink":   {"archive.conflict", [][]byte{pack(t, file("e/x", ""), symlink("d", "e")), pack(t, whiteout("d/.wh..wh..opq"))}},
		"hard link through a link": {"archive.conflict", [][]byte{pack(t, symlink("d", "/proc/self/root"), hardlink("a", "d/etc"))}},
		"whiteout of nothing":      {"archive.name", [][]byte{pack(t, whiteout(".wh."))}},
		"whiteout of .":            {"archive.name", [][]byte{pack(t, whiteout("d/.wh.."))}},
		"whiteout of ..":           {"archive.name", [][]byte{pack(t, whiteout(".wh..."))}},
		"AUFS's nothing":           {"archive.name", [][]byte{pack(t, whiteout(".wh..wh."))}},
		"opaque directory":         {"archive.invalid", [][]byte{pack(t, dir(".wh..wh..opq"))}},
		"whiteout directory":       {"archive.invalid", [][]byte{pack(t, dir(".wh.x"))}},
		"below a whiteout":         {"archive.name", [][]byte{pack(t, file(".wh.x/y", ""))}},
		"long name":                {"archive.name", [][]byte{pack(t, file(long, ""))}},
		"long path":                {"archive.name", [][]byte{pack(t, file(strings.Repeat("d/", 2048)+"x", ""))}},
		"deep path":                {"archive.limit", [][]byte{pack(t, dir(strings.Repeat("d/", 1025)))}},
		"no name":                  {"archive.name", [][]byte{raw(t, ustar(file("x", "")), 0, "\x00")}},
		"long link":                {"archive.invalid", [][]byte{pack(t, symlink("l", strings.Repeat("t", 4096)))}},
		"empty link":               {"archive.invalid", [][]byte{raw(t, ustar(symlink("l", "t")), 157, "\x00")}},
		"hard link to nothing":     {"archive.invalid", [][]byte{pack(t, hardlink("a", "b"))}},
		"hard link to what comes":  {"archive.invalid", [][]byte{pack(t, hardlink("a", "b"), file("b", ""))}},
		"hard link to a directory": {"archive.invalid", [][]byte{pack(t, dir("d"), hardlink("a", "d"))}},
		"hard link to the root":    {"archive.invalid", [][]byte{pack(t, hardlink("a", "/"))}},
		"hard link to what is hidden": {"archive.invalid", [][]byte{
			pack(t, file("a", "")), pack(t, whiteout(".wh.a"), hardlink("b", "a")),
		}},
		"root is a file": {"archive.invalid", [][]byte{pack(t, symlink(".", "/"))}},
		"owner -1":       {"archive.owner", [][]byte{raw(t, gnu(file("x", "")), 108, "\xff\xff\xff\xff\xff\xff\xff\xff")}},
		"owner 2^32":     {"archive.owner", [][]byte{pack(t, file("x", "").with(func(h *tar.Header) { h.Uid = 1 << 32 }))}},
		"group 2^32-1":   {"archive.owner", [][]byte{pack(t, file("x", "").with(func(h *tar.Header) { h.Gid = 1<<32 - 1 }))}},
		"unknown type":   {"archive.invalid", [][]byte{raw(t, ustar(file("x", "")), 156, "M")}},
		"big device":     {"archive.invalid", [][]byte{pack(t, item{Header: header("c", tar.TypeChar, 0o666)}.with(func(h *tar.Header) { h.Devmajor = 4096 }))}},
		"negative size":  {"archive.invalid", [][]byte{raw(t, gnu(file("x", "")), 124, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")}},
		"size of 2^62":   {"archive.limit", [][]byte{raw(t, gnu(file("x", "")), 124, "\x80\x00\x00\x00\x40\x00\x00\x00\x00\x00\x00\x00")}},
		"wrong size":     {"archive.truncated", [][]byte{raw(t, ustar(file("x", "abc")), 124, "00000777777\x00")}},
		"xattrs too large": {"archive.invalid", [][]byte{pack(t, file("x", "").with(func(h *tar.Header) {
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.a": strings.Repeat("v", 4097)}
		}))}},
		"damaged ACL":          {"archive.invalid", [][]byte{pack(t, file("x", "").with(func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr.system.posix_acl_access": "x"} }))}},
		"too many PAX records": {"archive.limit", [][]byte{raw(t, ustar(file("x", strings.Repeat("9 a=vvvv\n", 200000))), 156, "x")}},
		"no tar":               {"archive.invalid", [][]byte{bytes.Repeat([]byte("hello"), 1000)}},
		"compressed twice":     {"archive.invalid", [][]byte{compressed(t, "gzip", compressed(t, "gzip", bytes.Repeat(pack(t, file("x", noise(3000))), 3)))}},
		"nothing stored":       {"archive.truncated", [][]byte{nil}},
		"garbage after it":     {"archive.trailing", [][]byte{append(pack(t, file("x", "")), 'x')}},
		"two tar files":        {"archive.trailing", [][]byte{append(pack(t, file("x", "")), pack(t, file("y", ""))...)}},
		"garbage, gzip":        {"archive.trailing", [][]byte{append(compressed(t, "gzip", pack(t, file("x", ""))), "garbage"...)}},
		"zeros and a byte":     {"archive.trailing", [][]byte{append(compressed(t, "gzip", pack(t, file("x", ""))), "\x00\x00\x01"...)}},
		"garbage, zstd":        {"archive.trailing", [][]byte{append(compressed(t, "zstd", pack(t, file("x", ""))), "garbage"...)}},
		"garbage, xz":          {"archive.trailing", [][]byte{append(compressed(t, "xz", pack(t, file("x", ""))), "garbage and more of it"...)}},
		"tar after a tar":      {"archive.trailing", [][]byte{append(compressed(t, "gzip", pack(t, file("x", ""))), compressed(t, "gzip", pack(t, file("y", "")))...)}},
		"damaged gzip":         {"archive.invalid", [][]byte{damaged(compressed(t, "gzip", pack(t, file("x", noise(100000)))))}},
		"damaged zstd":         {"archive.invalid", [][]byte{damaged(compressed(t, "zstd", pack(t, file("x", noise(100000)))))}},
		"damaged xz":           {"archive.invalid", [][]byte{damaged(compressed(t, "xz", pack(t, file("x", noise(100000)))))}},
		"damaged in layer 2":   {"archive.path_escape", [][]byte{pack(t, file("x", "")), pack(t, file("..", ""))}},
	} {
		t.Run(name, func(t *testing.T) {
			wantCode(t, tryAll(t, Options{}, tt.layers...), tt.code)
		})
	}
}

// noise is incompressible.
func noise(n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		sum := sha256.Sum256(fmt.Append(nil, i))
		b.Write(sum[:])
	}
	return b.String()[:n]
}

func damaged(p []byte) []byte {
	p[len(p)/2] ^= 0x55
	return p
}

func TestHiddenTargetOfASymlinkStays(t *testing.T) {
	a := apply(t, pack(t, file("etc/passwd", "root"), symlink("d", "etc")), pack(t, dir("d"), whiteout("d/.wh.passwd")))
	if got, want := a.tree(t), lines("d directory", "etc directory", `etc/passwd file "root"`); got != want {
		t.Errorf("got %s want %s", got, want)
	}
}

// TestCuts cuts a small layer after every byte.
func TestCuts(t *testing.T) {
	ustar := func(h *tar.Header) { h.Format, h.ModTime = tar.FormatUSTAR, time.Unix(1, 0) }
	layer := pack(t, dir("d").with(ustar), file("zeros", string(make([]byte, 1100))).with(ustar),
		symlink(strings.Repeat("long", 40), "t"))
	for _, how := range []string{"none", "gzip", "zstd", "xz"} {
		t.Run(how, func(t *testing.T) {
			whole := compressed(t, how, layer)
			if err := tryAll(t, Options{}, whole); err != nil {
				t.Fatal(err)
			}
			for n := range whole {
				wantCode(t, tryAll(t, Options{}, whole[:n]), "archive.truncated")
				if t.Failed() {
					t.Fatalf("cut after %d of %d bytes", n, len(whole))
				}
			}
		})
	}
}

func TestWaysToEnd(t *testing.T) {
	layer := pack(t, file("a", "1"))
	for name, p := range map[string][]byte{
		"records of 10 KiB":    append(bytes.Clone(layer), make([]byte, 10240)...),
		"one byte more":        append(bytes.Clone(layer), 0),
		"gzip and zeros":       append(compressed(t, "gzip", layer), 0, 0, 0),
		"gzip members":         append(compressed(t, "gzip", layer[:700]), compressed(t, "gzip", layer[700:])...),
		"empty gzip members":   append(bytes.Repeat(compressed(t, "gzip", nil), 100), compressed(t, "gzip", layer)...),
		"zstd frames":          append(compressed(t, "zstd", layer[:700]), compressed(t, "zstd", layer[700:])...),
		"skippable zstd frame": append([]byte{0x5f, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 'x'}, compressed(t, "zstd", layer)...),
		"xz streams":           append(compressed(t, "xz", layer[:700]), compressed(t, "xz", layer[700:])...),
	} {
		t.Run(name, func(t *testing.T) {
			if got := apply(t, p).tree(t); got != lines(`a file "1"`) {
				t.Errorf("got %s", got)
			}
		})
	}
}

func TestDiffID(t *testing.T) {
	p := pack(t, file("a", "1"))
	l := stored(compressed(t, "gzip", p))
	l.DiffID = fmt.Sprintf("sha256:%x", sha256.Sum256(p))
	if _, _, err := try(t.Context(), Options{}, l); err != nil {
		t.Error(err)
	}
	l = stored(compressed(t, "gzip", append(p, 0)))
	l.DiffID = fmt.Sprintf("sha256:%x", sha256.Sum256(p))
	_, _, err := try(t.Context(), Options{}, l)
	wantCode(t, err, "integrity.diffid")
}

func TestLiteralNames(t *testing.T) {
	p := pack(t, file(".wh.a", "1"), dir(".wh..wh..opq"), file(".wh.", ""))
	a := imageOf(t, func(w *disk.Writer) (Stats, error) { return FromTar(t.Context(), w, stored(p), Options{}) })
	if got, want := a.tree(t), lines(`.wh. file ""`, ".wh..wh..opq directory", `.wh.a file "1"`); got != want {
		t.Errorf("got %s want %s", got, want)
	}
}

func TestTooSmallImage(t *testing.T) {
	m := &memory{}
	w, err := disk.NewWriter(m, disk.Options{Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	_, err = Apply(t.Context(), w, []Layer{stored(pack(t, file("a", noise(2<<20))))}, Options{})
	wantCode(t, err, "archive.limit")
}

func TestGzipHeaderWithName(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Name, z.Comment, z.Extra = "layer.tar", "c", []byte("extra")
	if _, err := z.Write(pack(t, file("a", "1"))); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if got := apply(t, b.Bytes()).tree(t); got != lines(`a file "1"`) {
		t.Errorf("got %s", got)
	}
}
