package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/klauspost/compress/gzip"

	"github.com/mvmctl/mvmctl/internal/disk"
)

// synthetic makes layers that look like an image: files of 1 KiB to 1 MiB that compress to about
// 40 %, total bytes in all.
func synthetic(b *testing.B, layers int, total int64) (list []Layer, size int64) {
	b.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	words := make([][]byte, 4000)
	for i := range words {
		words[i] = make([]byte, 2+r.IntN(12))
		for k := range words[i] {
			words[i][k] = byte('a' + r.IntN(26))
		}
	}
	var text []byte
	for len(text) < 4<<20 {
		text = append(text, words[r.IntN(len(words))]...)
	}
	for l := range layers {
		var packed bytes.Buffer
		z, _ := gzip.NewWriterLevel(&packed, 5)
		sum := sha256.New()
		w := tar.NewWriter(io.MultiWriter(z, sum))
		for left := total / int64(layers); left > 0; {
			n := 1 << (10 + r.IntN(11))
			at := r.IntN(len(text) - n)
			h := header(fmt.Sprintf("usr/lib/%d/%d/%d", l, left%200, left), tar.TypeReg, 0o644)
			h.Size = int64(n)
			if err := w.WriteHeader(&h); err != nil {
				b.Fatal(err)
			}
			if _, err := w.Write(text[at : at+n]); err != nil {
				b.Fatal(err)
			}
			left -= int64(n)
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
		if err := z.Close(); err != nil {
			b.Fatal(err)
		}
		p := packed.Bytes()
		size += int64(len(p))
		list = append(list, Layer{
			Name: fmt.Sprint(l), DiffID: "sha256:" + hex.EncodeToString(sum.Sum(nil)),
			Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(p)), nil },
		})
	}
	return list, size
}

// BenchmarkApply says MB/s of compressed layers; heap-MiB is what is in use at its end.
func BenchmarkApply(b *testing.B) {
	for _, bm := range []struct {
		name   string
		layers int
		total  int64
	}{{"1 layer", 1, 256 << 20}, {"5 layers", 5, 256 << 20}} {
		b.Run(bm.name, func(b *testing.B) {
			list, size := synthetic(b, bm.layers, bm.total)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			b.SetBytes(size)
			b.ResetTimer()
			image := filepath.Join(b.TempDir(), "image")
			for b.Loop() {
				err := disk.CreateFile(image, disk.Options{}, func(w *disk.Writer) error {
					_, err := Apply(b.Context(), w, list, Options{})
					runtime.ReadMemStats(&after)
					return err
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(int64(after.HeapInuse)-int64(before.HeapInuse))/(1<<20), "heap-MiB")
		})
	}
}
