package disk

import (
	"io"
	"os"
	"path/filepath"
	"testing"
)

func BenchmarkCreateEmpty16GiB(b *testing.B) {
	image := filepath.Join(b.TempDir(), "image")
	for b.Loop() {
		if err := CreateEmpty(image, Options{Size: 16 << 30, Journal: true}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriteTree(b *testing.B) {
	list := nastyTree()
	image := filepath.Join(b.TempDir(), "image")
	for b.Loop() {
		if err := CreateFile(image, Options{}, addAll(list)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriteLargeFile(b *testing.B) {
	const size = 256 << 20
	p := noise(1 << 20)
	image := filepath.Join(b.TempDir(), "image")
	b.SetBytes(size)
	for b.Loop() {
		err := CreateFile(image, Options{}, func(w *Writer) error {
			return w.Add(Entry{Path: "f", Type: TypeFile, Size: size}, io.LimitReader(repeat{p}, size))
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWalk(b *testing.B) {
	list := nastyTree()
	image := filepath.Join(b.TempDir(), "image")
	if err := CreateFile(image, Options{}, addAll(list)); err != nil {
		b.Fatal(err)
	}
	f, err := os.Open(image)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		fs, err := Open(f, st.Size())
		if err != nil {
			b.Fatal(err)
		}
		if err := fs.Walk(func(Entry) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
