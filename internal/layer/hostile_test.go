package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// memory is an image in memory, without the parts that nobody wrote.
type memory struct {
	blocks map[int64][]byte
	size   int64
}

const pageSize = 4096

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	for i := 0; i < len(p); {
		at := off + int64(i)
		if at >= m.size {
			return i, io.EOF
		}
		n := min(len(p)-i, int(pageSize-at%pageSize), int(m.size-at))
		if b := m.blocks[at/pageSize]; b != nil {
			copy(p[i:i+n], b[at%pageSize:])
		} else {
			clear(p[i : i+n])
		}
		i += n
	}
	return len(p), nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.size = max(m.size, off+int64(len(p)))
	for i := 0; i < len(p); {
		at := off + int64(i)
		b := m.blocks[at/pageSize]
		if b == nil {
			b = make([]byte, pageSize)
			m.blocks[at/pageSize] = b
		}
		i += copy(b[at%pageSize:], p[i:])
	}
	return len(p), nil
}

func (m *memory) Truncate(size int64) error {
	if size == 0 {
		m.blocks = map[int64][]byte{}
	}
	m.size = size
	return nil
}

// try applies layers to an image in memory.
func try(ctx context.Context, o Options, layers ...Layer) (*memory, Stats, error) {
	m := &memory{}
	w, err := disk.NewWriter(m, disk.Options{})
	if err != nil {
		return nil, Stats{}, err
	}
	stats, err := Apply(ctx, w, layers, o)
	if err == nil {
		err = w.Close()
	}
	return m, stats, err
}

func tryAll(t *testing.T, o Options, layers ...[]byte) error {
	t.Helper()
	var list []Layer
	for _, l := range layers {
		list = append(list, stored(l))
	}
	_, _, err := try(t.Context(), o, list...)
	return err
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %s", code)
		return
	}
	e, ok := errors.AsType[*machine.Error](err)
	if !ok || e.Code != code {
		t.Errorf("error %q with code %q, want %s", err, machine.CodeOf(err), code)
		return
	}
	if e.Remedy == "" || strings.ContainsAny(e.Message, "\n\x1b\x00") || len(e.Message) > 600 {
		t.Errorf("not fit for people: %q, remedy %q", e.Message, e.Remedy)
	}
}

// raw makes a tar file whose first header has bytes changed and its checksum mended.
func raw(t *testing.T, i item, at int, p string) []byte {
	t.Helper()
	b := pack(t, i)
	copy(b[at:], p)
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

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
		"..":                         {"archive.path_escape", [][]byte{pack(t, file("../x", ""))}},
		".. inside":                  {"archive.path_escape", [][]byte{pack(t, file("a/../../x", ""))}},
		"./..":                       {"archive.path_escape", [][]byte{pack(t, file("./../x", ""))}},
		"/..":                        {"archive.path_escape", [][]byte{pack(t, dir("/.."))}},
		"hard link to ..":            {"archive.path_escape", [][]byte{pack(t, hardlink("a", "../etc/passwd"))}},
		"whiteout below ..":          {"archive.path_escape", [][]byte{pack(t, whiteout("../.wh.x"))}},
		"file below a symlink":       {"archive.conflict", [][]byte{pack(t, symlink("d", "/"), file("d/x", ""))}},
		"file below a lower symlink": {"archive.conflict", [][]byte{pack(t, dir("e"), symlink("d", "e")), pack(t, file("d/x", ""))}},
		"file far below a file":      {"archive.conflict", [][]byte{pack(t, file(strings.Repeat("ü\x1b/", 600)+"d", ""), file(strings.Repeat("ü\x1b/", 600)+"d/x", ""))}},
		"file below a file":          {"archive.conflict", [][]byte{pack(t, file("d", ""), file("d/x", ""))}},
		"whiteout below a symlink":   {"archive.conflict", [][]byte{pack(t, file("e/x", ""), symlink("d", "e")), pack(t, whiteout("d/.wh.x"))}},
		"opaque below a symlink":     {"archive.conflict", [][]byte{pack(t, file("e/x", ""), symlink("d", "e")), pack(t, whiteout("d/.wh..wh..opq"))}},
		"hard link through a link":   {"archive.conflict", [][]byte{pack(t, symlink("d", "/proc/self/root"), hardlink("a", "d/etc"))}},
		"whiteout of nothing":        {"archive.name", [][]byte{pack(t, whiteout(".wh."))}},
		"whiteout of .":              {"archive.name", [][]byte{pack(t, whiteout("d/.wh.."))}},
		"whiteout of ..":             {"archive.name", [][]byte{pack(t, whiteout(".wh..."))}},
		"AUFS's nothing":             {"archive.name", [][]byte{pack(t, whiteout(".wh..wh."))}},
		"opaque directory":           {"archive.invalid", [][]byte{pack(t, dir(".wh..wh..opq"))}},
		"whiteout directory":         {"archive.invalid", [][]byte{pack(t, dir(".wh.x"))}},
		"below a whiteout":           {"archive.name", [][]byte{pack(t, file(".wh.x/y", ""))}},
		"long name":                  {"archive.name", [][]byte{pack(t, file(long, ""))}},
		"long path":                  {"archive.name", [][]byte{pack(t, file(strings.Repeat("d/", 2048)+"x", ""))}},
		"deep path":                  {"archive.limit", [][]byte{pack(t, dir(strings.Repeat("d/", 1025)))}},
		"no name":                    {"archive.name", [][]byte{raw(t, ustar(file("x", "")), 0, "\x00")}},
		"long link":                  {"archive.invalid", [][]byte{pack(t, symlink("l", strings.Repeat("t", 4096)))}},
		"empty link":                 {"archive.invalid", [][]byte{raw(t, ustar(symlink("l", "t")), 157, "\x00")}},
		"hard link to nothing":       {"archive.invalid", [][]byte{pack(t, hardlink("a", "b"))}},
		"hard link to what comes":    {"archive.invalid", [][]byte{pack(t, hardlink("a", "b"), file("b", ""))}},
		"hard link to a directory":   {"archive.invalid", [][]byte{pack(t, dir("d"), hardlink("a", "d"))}},
		"hard link to the root":      {"archive.invalid", [][]byte{pack(t, hardlink("a", "/"))}},
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
			if tt.layers == nil {
				t.Skip("cannot be made")
			}
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

func TestLimits(t *testing.T) {
	many := make([]item, 100)
	for i := range many {
		many[i] = file(fmt.Sprintf("a-name-%d", i), "12345")
	}
	p := pack(t, many...)
	for name, tt := range map[string]struct {
		limits Limits
		layer  []byte
	}{
		"bytes":                {Limits{Bytes: 50000}, p},
		"sum of files":         {Limits{Bytes: 1 << 20}, sparse(t, 600<<10, 2)},
		"a file":               {Limits{File: 4}, p},
		"entries":              {Limits{Entries: 99}, p},
		"names":                {Limits{Names: 500}, p},
		"depth":                {Limits{Depth: 3}, pack(t, dir("a/b/c/d"))},
		"ratio":                {Limits{Ratio: 10, RatioFloor: 1 << 20}, compressed(t, "gzip", pack(t, file("z", string(make([]byte, 2<<20)))))},
		"ratio of zstd":        {Limits{Ratio: 10, RatioFloor: 1 << 20}, compressed(t, "zstd", pack(t, file("z", string(make([]byte, 2<<20)))))},
		"sparse":               {Limits{}, sparse(t, 1<<60, 1)},
		"after the end":        {Limits{Bytes: 1 << 20}, compressed(t, "gzip", append(bytes.Clone(p), make([]byte, 2<<20)...))},
		"folders nobody names": {Limits{Entries: 10}, pack(t, dir("a"+strings.Repeat("/d", 200)), dir("b"+strings.Repeat("/d", 200)))},
		"entries ignored":      {Limits{Entries: 10}, pack(t, repeated(dir(".wh..wh.plnk"), 11)...)},
	} {
		t.Run(name, func(t *testing.T) {
			wantCode(t, tryAll(t, Options{Limits: tt.limits}, tt.layer), "archive.limit")
		})
	}
	if err := tryAll(t, Options{Limits: Limits{Entries: 100, File: 5, Depth: 1, Ratio: 10}}, p); err != nil {
		t.Error(err)
	}
}

func repeated(i item, n int) []item {
	list := make([]item, n)
	for k := range list {
		list[k] = i
	}
	return list
}

// sparse makes a tar file with files of the old GNU kind: size bytes, of which one block is
// there.
func sparse(t *testing.T, size int64, n int) []byte {
	t.Helper()
	var out []byte
	for i := range n {
		b := pack(t, file(fmt.Sprintf("sparse%d", i), strings.Repeat("x", 512)).with(func(h *tar.Header) { h.Format, h.ModTime = tar.FormatGNU, time.Unix(1, 0) }))
		b = b[:1024]
		b[156] = 'S'
		put := func(at int, v int64) { copy(b[at:at+12], base256(v)) }
		put(386, size-512) // the one piece: its place,
		put(398, 512)      // its length
		put(483, size)     // and the size of the file
		copy(b[148:156], "        ")
		sum := 0
		for _, c := range b[:512] {
			sum += int(c)
		}
		copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
		out = append(out, b...)
	}
	return append(out, make([]byte, 1024)...)
}

func base256(v int64) []byte {
	p := make([]byte, 12)
	for i := 11; i > 0; i-- {
		p[i] = byte(v)
		v >>= 8
	}
	p[0] = 0x80
	return p
}

func TestSparseFilesStaySparse(t *testing.T) {
	a := apply(t, sparse(t, 100<<20, 1))
	e, err := a.fs.Lstat("sparse0")
	if err != nil || e.Size != 100<<20 {
		t.Fatal(e, err)
	}
	if used, err := disk.UsedBytes(a.path); err != nil || used > 1<<20 {
		t.Errorf("a file of 512 bytes takes %d bytes: %v", used, err)
	}
}

// endless is a layer that never ends; it says when it was read from.
type endless struct {
	head  []byte
	began chan struct{}
	read  int64
}

func (e *endless) Read(p []byte) (int, error) {
	if e.read == 0 && e.began != nil {
		close(e.began)
	}
	n := copy(p, e.head)
	e.head = e.head[n:]
	if n == 0 {
		n = len(p)
		clear(p)
	}
	e.read += int64(n)
	return n, nil
}

func (e *endless) Close() error { return nil }

func opens(r io.ReadCloser) Layer {
	return Layer{Name: "test", Open: func(context.Context) (io.ReadCloser, error) { return r, nil }}
}

// TestBombs: what has no end is stopped by its limit, or by the caller.
func TestBombs(t *testing.T) {
	member := compressed(t, "gzip", nil)
	bomb := compressed(t, "gzip", make([]byte, 8<<20))
	for name, r := range map[string]io.ReadCloser{
		"gzip members of nothing": &cycle{p: member},
		"gzip members of zeros":   &cycle{p: bomb},
		"zeros":                   &endless{head: pack(t, file("a", ""))},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := try(t.Context(), Options{Limits: Limits{Bytes: 64 << 20}}, opens(r))
			if code := machine.CodeOf(err); code != "archive.limit" && code != "archive.truncated" && code != "archive.invalid" {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestManyMarkers: a layer that hides the same again and again takes time for its own length
// only.
func TestManyMarkers(t *testing.T) {
	const n = 30000
	items := make([]item, 0, 3*n)
	for i := range n {
		items = append(items, file(fmt.Sprintf("d/e/%d", i), ""))
	}
	for range n {
		items = append(items, whiteout("d/e/.wh..wh..opq"), whiteout("d/.wh.e"))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, _, err := try(ctx, Options{}, stored(pack(t, file("d/e/old", ""))), stored(pack(t, items...))); err != nil {
		t.Error(err)
	}
}

// cycle repeats bytes for ever.
type cycle struct {
	p  []byte
	at int
}

func (c *cycle) Read(p []byte) (int, error) {
	n := copy(p, c.p[c.at:])
	c.at = (c.at + n) % len(c.p)
	return n, nil
}

func (c *cycle) Close() error { return nil }

func TestCancelled(t *testing.T) {
	stop := errors.New("stopped by the test")
	huge := pack(t, file("a", "x").with(func(h *tar.Header) { h.Format, h.ModTime = tar.FormatGNU, time.Unix(1, 0) }))[:512]
	copy(huge[124:136], base256(100<<30))
	copy(huge[148:156], "        ")
	sum := 0
	for _, c := range huge {
		sum += int(c)
	}
	copy(huge[148:], fmt.Sprintf("%06o\x00 ", sum))
	for name, r := range map[string]*endless{
		"content": {head: huge, began: make(chan struct{})},
		"gzip":    {head: compressed(t, "gzip", bytes.Repeat(huge, 1)), began: make(chan struct{})},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() {
				<-r.began
				cancel(stop)
			}()
			if _, _, err := try(ctx, Options{}, opens(r)); !errors.Is(err, stop) && name == "content" {
				t.Errorf("error %v", err)
			}
		})
	}
	t.Run("sparse", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		l := stored(sparse(t, 200<<30, 1))
		o := Options{Progress: func(int, int64) { cancel(stop) }}
		if _, _, err := try(ctx, o, l); !errors.Is(err, stop) {
			t.Errorf("error %v", err)
		}
	})
}

// TestSourceFails: an error of the source is told as it is.
func TestSourceFails(t *testing.T) {
	broken := errors.New("the network is down")
	p := compressed(t, "gzip", pack(t, file("a", noise(1<<20))))
	for _, n := range []int{0, 1, 100, len(p) / 2, len(p)} {
		r := io.NopCloser(io.MultiReader(bytes.NewReader(p[:n]), failing{broken}))
		_, _, err := try(t.Context(), Options{}, opens(r))
		if !errors.Is(err, broken) || machine.CodeOf(err) != "" {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
	l := Layer{Name: "test", Open: func(context.Context) (io.ReadCloser, error) { return nil, broken }}
	if _, _, err := try(t.Context(), Options{}, l); !errors.Is(err, broken) {
		t.Error(err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestBlockedSource: cancelling ends a read that hangs, by closing.
func TestBlockedSource(t *testing.T) {
	pr, pw := io.Pipe()
	defer pw.Close()
	ctx, cancel := context.WithCancel(t.Context())
	began := make(chan struct{})
	l := Layer{Name: "test", Open: func(context.Context) (io.ReadCloser, error) { close(began); return pr, nil }}
	go func() {
		<-began
		cancel()
	}()
	if _, _, err := try(ctx, Options{}, l); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
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
