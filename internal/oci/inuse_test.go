package oci

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInUse: what an import needs is in use from before it is fetched until the import ends, and
// what a killed one needed is not.
func TestInUse(t *testing.T) {
	t.Parallel()
	content := makeImage(t, 100_000, 2000)
	s := newSite(t, content)
	dir := filepath.Join(t.TempDir(), "blobs")
	inUse := func() map[string]bool {
		t.Helper()
		files, release, err := InUse(t.Context(), dir)
		must(t, err)
		release()
		return files
	}
	if n := len(inUse()); n != 0 {
		t.Errorf("%d files of nothing are in use", n)
	}
	b, err := OpenBlobs(dir)
	must(t, err)
	check := func(when string) {
		t.Helper()
		files := inUse()
		for _, l := range content.layers {
			if !files[b.path(l.Digest)] || !files[b.path(l.Digest)+partialSuffix] {
				t.Errorf("%s: layer %s is not in use", when, shortDigest(l.Digest))
			}
		}
	}
	s.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, content.layers[0].Digest) {
			check("during the fetch")
		}
		return false
	}
	img, err := pull(t, newClient(t), s.source(t, ":1"), b)
	must(t, err)
	check("after the fetch")
	other, err := OpenBlobs(dir)
	must(t, err)
	_, err = pull(t, newClient(t), s.source(t, ":1"), other)
	must(t, err)
	b.Close()
	check("by the other import")
	other.Close()
	if n := len(inUse()); n != 0 {
		t.Errorf("%d files are in use after the imports", n)
	}
	wantLayers(t, b, img, content)

	left := filepath.Join(dir, "sha256", usePrefix+"killed")
	must(t, os.WriteFile(left, []byte(strings.TrimPrefix(img.Layers[0].Digest, digestPrefix)+"\n"), 0o600))
	if n := len(inUse()); n != 0 {
		t.Errorf("%d files are in use by a process that is gone", n)
	}
	if _, err := os.Lstat(left); err == nil {
		t.Error("what a killed import left is still there")
	}
}
