package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/machine"
)

var errOfOurs = errors.New("an error without a code")

// smallLimits keep a fuzzer's inputs quick.
func smallLimits() Limits {
	return Limits{Bytes: 64 << 20, File: 16 << 20, Entries: 10000, Names: 1 << 20, Depth: 50, RatioFloor: 1 << 20}
}

// fuzzLayers applies layers: an error has a code, a success is an image that can be read and
// copied, twice the same.
func fuzzLayers(t *testing.T, layers ...Layer) {
	t.Helper()
	o := Options{Limits: smallLimits()}
	m, _, err := try(t.Context(), o, layers...)
	if err != nil {
		if machine.CodeOf(err) == "" {
			t.Fatal(errors.Join(errOfOurs, err))
		}
		return
	}
	fs, err := disk.Open(m, m.size)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	if _, err := ToTar(t.Context(), fs, &packed); err != nil {
		if machine.CodeOf(err) == "archive.name" {
			return
		}
		t.Fatal(err)
	}
	again, err := disk.NewWriter(&memory{}, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := FromTar(t.Context(), again, stored(packed.Bytes()), Options{}); err != nil {
		t.Fatalf("our own tar file: %v", err)
	}
}

// FuzzApply makes layers of a few kinds of entries from a small language, one entry a line, so
// that a fuzzer gets to the rules behind the tar format.
func FuzzApply(f *testing.F) {
	f.Add("d a\nf a/b content\n--\nw a/.wh.b\nl c a/x\n")
	f.Add("f a 1\nh b a\n--\nw .wh.a\nd a\n--\nw a/.wh..wh..opq\ns a/s ../..\n")
	f.Add("f ../x\n")
	f.Add("s d /\nf d/x 1\n")
	f.Add("d e\ns d e/../e\ns u ../..\n--\nf d/x 1\nh u/y d/x\nw d/.wh.x\nd d\nf d/z 2\n")
	f.Fuzz(func(t *testing.T, script string) {
		if len(script) > 5000 {
			t.Skip("a longer script finds nothing that a short one does not, and is slow")
		}
		var layers []Layer
		for part := range strings.SplitSeq(script, "--\n") {
			layers = append(layers, stored(scripted(part)))
		}
		fuzzLayers(t, layers...)
	})
}

// scripted packs what a script says, as far as tar can hold it.
func scripted(script string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for line := range strings.Lines(script) {
		kind, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		name, arg, _ := strings.Cut(rest, " ")
		var i item
		switch kind {
		case "d":
			i = dir(name)
		case "f", "w":
			i = file(name, arg)
		case "s":
			i = symlink(name, arg)
		case "h":
			i = hardlink(name, arg)
		case "x":
			i = file(name, "")
			i.PAXRecords = map[string]string{"SCHILY.xattr." + arg: arg}
		default:
			continue
		}
		i.Size = int64(len(i.data))
		if i.Typeflag == tar.TypeDir {
			i.Size = 0
		}
		if w.WriteHeader(&i.Header) == nil {
			_, _ = w.Write([]byte(i.data))
		}
	}
	_ = w.Close()
	return b.Bytes()
}

// FuzzTar feeds bytes as they are, compressed or not.
func FuzzTar(f *testing.F) {
	whole := pack(f, dir("d"), file("d/f", "content"), whiteout("d/.wh.x"), symlink("s", "d"), hardlink("h", "d/f"),
		file("x", "").with(func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr.user.x": "v"} }))
	for _, how := range []string{"none", "gzip", "zstd", "xz"} {
		f.Add(compressed(f, how, whole))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) > 1<<16 {
			t.Skip("a longer file finds nothing that a short one does not, and is slow")
		}
		fuzzLayers(t, stored(p))
	})
}
