package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"testing"

	"github.com/klauspost/compress/gzip"

	"github.com/mvmctl/mvmctl/internal/disk"
)

// dropped is an image that nobody reads.
type dropped struct{}

func (dropped) ReadAt(p []byte, _ int64) (int, error)  { clear(p); return len(p), nil }
func (dropped) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (dropped) Truncate(int64) error                   { return nil }

// generated is a layer of files of 1 MiB, compressed as it is read.
func generated(files int) Layer {
	content := []byte(noise(1 << 20))
	return Layer{Name: "test", Open: func(context.Context) (io.ReadCloser, error) {
		pr, pw := io.Pipe()
		go func() {
			z, _ := gzip.NewWriterLevel(pw, gzip.HuffmanOnly)
			w := tar.NewWriter(z)
			for i := range files {
				h := header(fmt.Sprint(i), tar.TypeReg, 0o644)
				h.Size = int64(len(content))
				if w.WriteHeader(&h) != nil {
					break
				}
				if _, err := io.Copy(w, bytes.NewReader(content)); err != nil {
					break
				}
			}
			_ = w.Close()
			_ = z.Close()
			_ = pw.Close()
		}()
		return pr, nil
	}}
}

// TestMemoryIsFlat: what is in use does not depend on how much content there is.
func TestMemoryIsFlat(t *testing.T) {
	peak := func(files int) uint64 {
		runtime.GC()
		var most uint64
		o := Options{Progress: func(_ int, stored int64) {
			if stored>>20%4 != 0 { // looking is dear
				return
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse)
		}}
		w, err := disk.NewWriter(dropped{}, disk.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Apply(t.Context(), w, []Layer{generated(files)}, o); err != nil {
			t.Fatal(err)
		}
		return most
	}
	small, large := peak(16), peak(256)
	t.Logf("16 MiB: %d KiB, 256 MiB: %d KiB", small>>10, large>>10)
	if large > small+16<<20 {
		t.Errorf("16 MiB of content take %d KiB of memory, 256 MiB take %d KiB", small>>10, large>>10)
	}
}
