package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// entry is one of a tar file made by hand.
type entry struct {
	name, data, link string
	kind             byte
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		must(t, w.WriteHeader(&tar.Header{Name: e.name, Linkname: e.link, Typeflag: e.kind, Mode: 0o644, Size: int64(len(e.data))}),
			second(io.WriteString(w, e.data)))
	}
	must(t, w.Close())
	return b.Bytes()
}

func writeFile(t testing.TB, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	must(t, os.WriteFile(path, data, 0o600))
	return path
}

// unpacked is an image whose layers are not compressed, as an engine saves it.
func unpacked(t testing.TB, sizes ...int) *content {
	t.Helper()
	c := makeImage(t, sizes...)
	for i, l := range c.layers {
		z, err := gzip.NewReader(bytes.NewReader(c.blobs[l.Digest]))
		must(t, err)
		data, err := io.ReadAll(z)
		must(t, err)
		c.layers[i] = Layer{Digest: c.put(data), DiffID: l.DiffID, Size: int64(len(data)), MediaType: "application/vnd.oci.image.layer.v1.tar"}
	}
	c.seal(t, amd64)
	return c
}

// oldSave is what Docker up to 24 writes: a folder for each layer, and a link for one that is
// there already.
func oldSave(t testing.TB, c *content) []entry {
	t.Helper()
	hex := strings.TrimPrefix(digestOf(c.config), digestPrefix)
	entries := []entry{{name: hex + ".json", data: string(c.config)}}
	var paths []string
	first := map[string]string{}
	for i, l := range c.layers {
		dir := fmt.Sprintf("%064x", i)
		entries = append(entries, entry{name: dir + "/", kind: tar.TypeDir}, entry{name: dir + "/VERSION", data: "1.0"}, entry{name: dir + "/json", data: `{"id":"x"}`})
		if at := first[l.Digest]; at != "" {
			entries = append(entries, entry{name: dir + "/layer.tar", kind: tar.TypeSymlink, link: "../" + at})
		} else {
			entries = append(entries, entry{name: dir + "/layer.tar", data: string(c.blobs[l.Digest])})
			first[l.Digest] = dir + "/layer.tar"
		}
		paths = append(paths, dir+"/layer.tar")
	}
	manifest := asJSON(t, []any{map[string]any{"Config": hex + ".json", "RepoTags": []string{"app:1", "localhost:5000/app:2"}, "Layers": paths}})
	return append(entries, entry{name: "manifest.json", data: string(manifest)}, entry{name: "repositories", data: `{"app":{"1":"x"}}`})
}

// newSave is what Docker from 25 on writes: a layout with a manifest.json beside it.
func newSave(t testing.TB, c *content, packed bool) []entry {
	t.Helper()
	entries := []entry{{name: "blobs/", kind: tar.TypeDir}, {name: "blobs/sha256/", kind: tar.TypeDir}}
	for _, d := range sortedKeys(c.blobs) {
		entries = append(entries, entry{name: blobName(d), data: string(c.blobs[d])})
	}
	var paths []string
	for _, l := range c.layers {
		paths = append(paths, blobName(l.Digest))
	}
	index := asJSON(t, map[string]any{"schemaVersion": 2, "mediaType": typeOCIIndex, "manifests": []any{map[string]any{
		"mediaType": typeOCIManifest, "digest": c.digest(), "size": len(c.manifest),
		"annotations": map[string]string{"org.opencontainers.image.ref.name": "1", "io.containerd.image.name": "docker.io/library/app:1"},
	}}})
	manifest := asJSON(t, []any{map[string]any{"Config": blobName(digestOf(c.config)), "RepoTags": []string{"app:1"}, "Layers": paths}})
	entries = append(entries, entry{name: "index.json", data: string(index)}, entry{name: "oci-layout", data: `{"imageLayoutVersion":"1.0.0"}`})
	if !packed {
		entries = append(entries, entry{name: "manifest.json", data: string(manifest)})
	}
	return entries
}

func TestSaved(t *testing.T) {
	t.Parallel()
	plain, packed := unpacked(t, 5000, 9_000_000, 0), makeImage(t, 5000, 9_000_000, 0)
	twice := unpacked(t, 5000)
	twice.layers = append(twice.layers, twice.layers[0])
	twice.seal(t, amd64)
	gz := func(data []byte) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		must(t, second(z.Write(data)), z.Close())
		return b.Bytes()
	}
	zst := func(data []byte) []byte {
		z, err := zstd.NewWriter(nil)
		must(t, err)
		return z.EncodeAll(data, nil)
	}
	for name, test := range map[string]struct {
		data    []byte
		source  string
		content *content
	}{
		"old":           {tarOf(t, oldSave(t, plain)...), "docker-archive:%s", plain},
		"old, named":    {tarOf(t, oldSave(t, plain)...), "docker-archive:%s:localhost:5000/app:2", plain},
		"old, gzip":     {gz(tarOf(t, oldSave(t, plain)...)), "docker-archive:%s:app:1", plain},
		"old, zstd":     {zst(tarOf(t, oldSave(t, plain)...)), "docker-archive:%s", plain},
		"old, packed":   {tarOf(t, oldSave(t, packed)...), "docker-archive:%s", packed},
		"links":         {tarOf(t, oldSave(t, twice)...), "docker-archive:%s", twice},
		"new":           {tarOf(t, newSave(t, plain, false)...), "docker-archive:%s:app:1", plain},
		"new, gzip":     {gz(tarOf(t, newSave(t, packed, false)...)), "docker-archive:%s", packed},
		"new, as OCI":   {tarOf(t, newSave(t, packed, false)...), "oci-archive:%s", packed},
		"OCI":           {tarOf(t, newSave(t, packed, true)...), "oci-archive:%s:1", packed},
		"OCI as Docker": {tarOf(t, newSave(t, packed, true)...), "docker-archive:%s", packed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := writeFile(t, test.data)
			src := parse(t, fmt.Sprintf(test.source, path))
			c, b := newClient(t), newBlobs(t)
			img, err := c.Resolve(t.Context(), src, amd64)
			must(t, err)
			if img.Config.User != "7:8" || img.ConfigDigest != digestOf(test.content.config) || len(img.Layers) != len(test.content.layers) {
				t.Errorf("%+v", img)
			}
			var done, total int64
			img, err = c.Fetch(t.Context(), img, b, func(d, n int64) { done, total = d, n })
			must(t, err)
			wantLayers(t, b, img, test.content)
			for i, l := range img.Layers {
				if want := test.content.layers[i]; l.Digest != want.Digest || l.Size != want.Size || l.DiffID != want.DiffID {
					t.Errorf("layer %d: %+v, want %+v", i, l, want)
				}
			}
			if done != total || total == 0 {
				t.Errorf("progress ended at %d of %d", done, total)
			}
			// What is there is not read again, unless its digest is not known before.
			if !strings.Contains(name, "old, packed") {
				img, err = c.Resolve(t.Context(), src, amd64)
				must(t, err, os.Remove(path))
				_, err = c.Fetch(t.Context(), img, b, nil)
				must(t, err)
			}
		})
	}
}

// TestSavedByOthers reads what go-containerregistry writes.
func TestSavedByOthers(t *testing.T) {
	t.Parallel()
	img, err := random.Image(2000, 3)
	must(t, err)
	cfg, err := img.ConfigFile()
	must(t, err)
	cfg.OS, cfg.Architecture = "linux", "amd64"
	img, err = mutate.ConfigFile(img, cfg)
	must(t, err)
	digest, err := img.Digest()
	must(t, err)
	t.Run("tarball", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "x.tar")
		ref, err := name.ParseReference("localhost:5000/x:1")
		must(t, err, tarball.WriteToFile(path, ref, img))
		b := newBlobs(t)
		got, err := pull(t, newClient(t), parse(t, "docker-archive:"+path), b)
		must(t, err)
		wantLayers(t, b, got, nil)
	})
	t.Run("layout", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "layout")
		p, err := layout.Write(dir, emptyIndex(t))
		must(t, err, p.AppendImage(img, layout.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"})))
		b := newBlobs(t)
		got, err := pull(t, newClient(t), parse(t, "oci:"+dir), b)
		must(t, err)
		wantLayers(t, b, got, nil)
		if got.Digest != digest.String() {
			t.Errorf("digest %s, want %s", got.Digest, digest)
		}
	})
}

func emptyIndex(t *testing.T) v1.ImageIndex {
	t.Helper()
	index, err := random.Index(1, 1, 0)
	must(t, err)
	return index
}

func writeLayout(t testing.TB, c *content, entries ...any) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o700))
	for d, data := range c.blobs {
		must(t, os.WriteFile(filepath.Join(dir, blobName(d)), data, 0o600))
	}
	must(t, os.WriteFile(filepath.Join(dir, "index.json"), asJSON(t, map[string]any{"schemaVersion": 2, "manifests": entries}), 0o600))
	return dir
}

func TestLayout(t *testing.T) {
	t.Parallel()
	c := makeImage(t, 1000, 2000)
	named := func(name string) map[string]any {
		e := c.entry(c.digest(), typeOCIManifest, nil)
		e["annotations"] = map[string]string{"org.opencontainers.image.ref.name": name}
		return e
	}
	dir := writeLayout(t, c, named("1"))
	for _, source := range []string{"oci:" + dir, "oci:" + dir + ":1"} {
		b := newBlobs(t)
		img, err := pull(t, newClient(t), parse(t, source), b)
		must(t, err)
		wantLayers(t, b, img, c)
	}
	resolve := func(source string) error {
		_, err := newClient(t).Resolve(t.Context(), parse(t, source), amd64)
		return err
	}
	wantCode(t, resolve("oci:"+dir+":2"), "image.not_found")
	wantCode(t, resolve("oci:"+writeLayout(t, c, named("1"), named("2"))), "image.ambiguous")
	wantCode(t, resolve("oci:"+filepath.Join(dir, "none")), "input.file")
	wantCode(t, resolve("oci:"+filepath.Join(dir, "index.json")), "input.file")
	b := newBlobs(t)
	l := filepath.Join(dir, blobName(c.layers[1].Digest))
	for code, damage := range map[string]func() error{
		"integrity.digest": func() error { return os.WriteFile(l, make([]byte, c.layers[1].Size), 0o600) },
		"peer.truncated":   func() error { return os.Truncate(l, 100) },
		"integrity.size":   func() error { return os.WriteFile(l, make([]byte, c.layers[1].Size+1), 0o600) },
	} {
		must(t, damage())
		_, err := pull(t, newClient(t), parse(t, "oci:"+dir), b)
		wantCode(t, err, code)
		if b.size(c.layers[1].Digest) != UnknownSize {
			t.Error("a wrong layer got its name")
		}
	}
	must(t, os.Remove(l))
	_, err := pull(t, newClient(t), parse(t, "oci:"+dir), b)
	wantCode(t, err, "input.file")
	must(t, os.WriteFile(filepath.Join(dir, blobName(c.digest())), []byte("{}"), 0o600))
	wantCode(t, resolve("oci:"+dir), "integrity.size")
}

func TestBadSaved(t *testing.T) {
	t.Parallel()
	c := unpacked(t, 1000, 2000)
	old := oldSave(t, c)
	change := func(what func(e *entry)) []byte {
		all := append([]entry{}, old...)
		for i := range all {
			what(&all[i])
		}
		return tarOf(t, all...)
	}
	replace := func(name, from, to string) []byte {
		return change(func(e *entry) {
			if strings.HasSuffix(e.name, name) {
				e.data = strings.Replace(e.data, from, to, 1)
			}
		})
	}
	good := tarOf(t, old...)
	manifest := old[len(old)-2].data
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	head := tarOf(t, entry{name: "x", data: "y"})[:1024]
	must(t, second(z.Write(head)))
	for name, test := range map[string]struct {
		data []byte
		code string
	}{
		"empty":              {nil, "archive.invalid"},
		"text":               {bytes.Repeat([]byte("hello\n"), 1000), "archive.invalid"},
		"no image":           {tarOf(t, entry{name: "a", data: "b"}), "archive.invalid"},
		"cut":                {good[:3*512+1100], "archive.truncated"},
		"broken gzip":        {[]byte("\x1f\x8b\x08garbage"), "archive.invalid"},
		"layer missing":      {replace("manifest.json", "layer.tar", "player.tar"), "archive.invalid"},
		"layer changed":      {replace("layer.tar", "file0", "file1"), "integrity.diffid"},
		"config missing":     {replace("manifest.json", `"Config":"`, `"Config":"x`), "archive.invalid"},
		"config changed":     {change(func(e *entry) { e.data = strings.Replace(e.data, "7:8", "0:0", 1) }), "integrity.digest"},
		"manifest: twin":     {replace("manifest.json", `"Layers"`, `"layers":[],"Layers"`), "manifest.invalid"},
		"manifest: object":   {replace("manifest.json", manifest, `{}`), "manifest.invalid"},
		"manifest: nothing":  {replace("manifest.json", manifest, `[]`), "image.not_found"},
		"manifest: two":      {replace("manifest.json", manifest, "["+strings.Trim(manifest, "[]")+","+strings.Trim(manifest, "[]")+"]"), "image.ambiguous"},
		"manifest: no layer": {replace("manifest.json", manifest, `[{"Config":"`+old[0].name+`","Layers":[]}]`), "image.no_layers"},
		"manifest: too many": {replace("manifest.json", manifest, `[{"Config":"`+old[0].name+`","Layers":[`+strings.TrimSuffix(strings.Repeat(`"`+old[4].name+`",`, 1000), ",")+`]}]`), "image.limit"},
		"a loop": {change(func(e *entry) {
			if strings.HasSuffix(e.name, "layer.tar") {
				e.kind, e.link, e.data = tar.TypeSymlink, "layer.tar", ""
			}
		}), "archive.invalid"},
		"link out": {change(func(e *entry) {
			if strings.HasSuffix(e.name, "layer.tar") {
				e.kind, e.link, e.data = tar.TypeSymlink, "../../../../../../etc/passwd", ""
			}
		}), "archive.invalid"},
		"device": {change(func(e *entry) {
			if strings.HasSuffix(e.name, "layer.tar") {
				e.kind, e.data = tar.TypeChar, ""
			}
		}), "archive.invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBlobs(t)
			_, err := pull(t, newClient(t), parse(t, "docker-archive:"+writeFile(t, test.data)), b)
			wantCode(t, err, test.code)
		})
	}
	_, err := pull(t, newClient(t), parse(t, "docker-archive:"+t.TempDir()), newBlobs(t))
	wantCode(t, err, "input.not_regular")
	_, err = newClient(t).Resolve(t.Context(), parse(t, "docker-archive:"+writeFile(t, good)+":other"), amd64)
	wantCode(t, err, "image.not_found")
	_, err = newClient(t).Resolve(t.Context(), parse(t, "docker-archive:"+writeFile(t, good)), Platform{OS: "linux", Arch: "arm64"})
	wantCode(t, err, "image.platform")
}

// TestSavedSparse: a file of a few bytes that claims to be many is refused.
func TestSavedSparse(t *testing.T) {
	t.Parallel()
	var records strings.Builder
	for _, r := range []string{"numblocks=0", "major=0", "minor=1", "size=100000000000", "map="} {
		r = " GNU.sparse." + r + "\n"
		records.WriteString(strconv.Itoa(len(r)+2) + r)
	}
	head := tarOf(t, entry{name: "pax", data: records.String()})[:1024]
	head[156] = 'x' // extended header; its checksum is of the bytes with blanks in its own place
	copy(head[148:], "        ")
	sum := 0
	for _, c := range head[:512] {
		sum += int(c)
	}
	copy(head[148:], fmt.Sprintf("%06o\x00 ", sum))
	data := append(head, tarOf(t, entry{name: "layer.tar"})...)
	h, err := tar.NewReader(bytes.NewReader(data)).Next()
	if err != nil || h.Size != 100_000_000_000 {
		t.Fatalf("the test's file is not what it should be: %v, %v", h, err)
	}
	_, err = newClient(t).Resolve(t.Context(), parse(t, "docker-archive:"+writeFile(t, data)), amd64)
	wantCode(t, err, "archive.invalid")
	if !strings.Contains(err.Error(), "is a sparse file") {
		t.Errorf("refused for another reason: %v", err)
	}
}

// TestSavedBomb: a small file that unpacks without end is given up.
func TestSavedBomb(t *testing.T) {
	t.Parallel()
	var file bytes.Buffer
	z, err := zstd.NewWriter(&file, zstd.WithEncoderConcurrency(1))
	must(t, err)
	var head bytes.Buffer
	must(t, tar.NewWriter(&head).WriteHeader(&tar.Header{Name: "big", Typeflag: tar.TypeReg, Size: 3 << 30}), second(z.Write(head.Bytes())))
	zeros := make([]byte, 1<<20)
	for range 1100 {
		must(t, second(z.Write(zeros)))
	}
	must(t, z.Close())
	_, err = newClient(t).Resolve(t.Context(), parse(t, "docker-archive:"+writeFile(t, file.Bytes())), amd64)
	wantCode(t, err, "archive.limit")
}

// TestSpoolLeftovers: what a killed process left is removed by the next one; what a living one
// writes is not.
func TestSpoolLeftovers(t *testing.T) {
	t.Parallel()
	b := newBlobs(t)
	dead := filepath.Join(b.dir, spoolPrefix+"dead")
	must(t, os.WriteFile(dead, []byte("x"), 0o600))
	alive, err := b.spool(t.Context())
	must(t, err)
	other, err := b.spool(t.Context())
	must(t, err)
	if _, err := os.Stat(dead); err == nil {
		t.Error("the dead one is there")
	}
	must(t, second(os.Stat(alive.f.Name())))
	alive.discard()
	other.discard()
	wantLayers(t, b, Image{}, nil)
}

func TestEndedContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path := writeFile(t, tarOf(t, oldSave(t, unpacked(t, 1000))...))
	for _, source := range []string{"docker-archive:" + path, "localhost:1/x"} {
		if _, err := newClient(t).Resolve(ctx, parse(t, source), amd64); err == nil || machine.CodeOf(err) != "" {
			t.Errorf("%s: %v", source, err)
		}
	}
}
