package build

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// TestWhatIsNoRootfs: saved images and files of other formats are refused, in words that help.
func TestWhatIsNoRootfs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	id := strings.Repeat("0a", 32)
	saved := tarOf(t, map[string]string{"manifest.json": "[]", "blobs/sha256/" + id: "x", "oci-layout": "{}", "index.json": "{}"})
	old := tarOf(t, map[string]string{"manifest.json": "[]", id + ".json": "{}", id + "/layer.tar": "", "repositories": "{}"})
	layout := tarOf(t, map[string]string{"./oci-layout": "{}", "./index.json": "{}", "./blobs/sha256/" + id: "x"})
	packed := filepath.Join(dir, "bb.tar.gz")
	f, err := os.Create(packed)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	if _, err := z.Write(saved); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	zeros := put("zeros", nil)
	if err := os.Truncate(zeros, 64<<30); err != nil {
		t.Fatal(err)
	}
	put("layout/oci-layout", []byte("{}"))
	put("layout/index.json", []byte("{}"))
	empty := filepath.Join(dir, "none")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	const formats = "give a folder, a tar file (plain, or packed with gzip, zstd or xz) or an ext4 image"
	b := newBuilder(t)
	for _, c := range []struct{ path, code, says, remedy string }{
		{put("bb.tar", saved), "image.kind", "is a saved container image", "mvmctl image pull docker-archive:" + dir + "/bb.tar"},
		{put("old.tar", old), "image.kind", "is a saved container image", "docker-archive:"},
		{put("a b.tar", layout), "image.kind", "is a saved container image", "mvmctl image pull 'oci-archive:" + dir + "/a b.tar'"},
		{packed, "image.kind", "is a saved container image", "docker-archive:" + packed},
		{filepath.Join(dir, "layout"), "image.kind", "is an OCI image layout", "mvmctl image pull oci:" + dir + "/layout"},
		{empty, "input.file", "there is nothing in", "root file system"},
		{put("empty", nil), "archive.invalid", "is no tar archive, folder or ext4 image: it is empty", formats},
		{put("short.txt", []byte("hello\n")), "archive.invalid", "short.txt is no tar archive, folder or ext4 image", formats},
		{put("long.txt", []byte(strings.Repeat("hello\n", 1000))), "archive.invalid", "is no tar archive, folder or ext4 image", formats},
		{put("x.tar.bz2", []byte("BZh91AY&SY")), "archive.invalid", "it is packed with bzip2", "bunzip2 -k " + dir + "/x.tar.bz2"},
		{put("x.zip", []byte("PK\x03\x04rest")), "archive.invalid", "it is a zip file", "unzip -d FOLDER"},
		{put("none.tar", tarOf(t, nil)), "archive.invalid", "there is nothing in it", formats},
		{zeros, "archive.invalid", "there is nothing in it", formats},
	} {
		_, err := b.Rootfs(t.Context(), c.path, Options{})
		e, ok := errors.AsType[*machine.Error](err)
		if !ok || e.Code != c.code || !strings.Contains(e.Message, c.says) || !strings.Contains(e.Remedy, c.remedy) {
			t.Errorf("%s: %+v\nwant %s: …%s…; …%s…", filepath.Base(c.path), e, c.code, c.says, c.remedy)
		}
	}
	// A root file system that has such names too is one.
	both := put("both.tar", tarOf(t, map[string]string{"manifest.json": "[]", "etc/motd": "hello\n"}))
	if _, err := b.Rootfs(t.Context(), both, Options{}); err != nil {
		t.Error(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "bb.tar"): "mvmctl image pull docker-archive:" + dir + "/bb.tar", both: "the file of that name is a root file system: mvmctl image import " + both,
		dir: "", filepath.Join(dir, "short.txt"): "", filepath.Join(dir, "missing"): "",
	} {
		if got := localHint(t.Context(), path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// The name of a file where the name of an image was asked for.
func TestPullOfAFile(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.WriteFile("BB.tar", tarOf(t, map[string]string{"manifest.json": "[]"}), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := newBuilder(t).Pull(t.Context(), "BB.tar", Options{})
	e, ok := errors.AsType[*machine.Error](err)
	if !ok || e.Code != "image.name" || !strings.HasPrefix(e.Remedy, "mvmctl image pull docker-archive:BB.tar; otherwise: ") {
		t.Errorf("%+v", e)
	}
}
