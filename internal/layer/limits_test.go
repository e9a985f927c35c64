package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/machine"
)

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
