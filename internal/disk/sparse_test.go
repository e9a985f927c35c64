package disk

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A file of 1 TiB with three blocks of data goes into an image, and from it into another,
// in the time that the data takes.
func TestHolesAreSkippedNotRead(t *testing.T) {
	const size = 1 << 40
	spots := map[int64][]byte{0: noise(100), 1<<39 + 5000: noise(9000), size - 10: noise(10)}
	name := filepath.Join(t.TempDir(), "source")
	source, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if err := source.Truncate(size); err != nil {
		t.Skipf("needs a host file system with sparse files of 1 TiB: %v", err)
	}
	for off, p := range spots {
		if _, err := source.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	copyInto := func(r io.Reader) *FS {
		image := filepath.Join(t.TempDir(), "image")
		err := CreateFile(image, Options{}, func(w *Writer) error {
			return w.Add(Entry{Path: "f", Type: TypeFile, Size: size}, r)
		})
		if err != nil {
			t.Fatal(err)
		}
		fsck(t, image)
		if used, err := UsedBytes(image); err != nil || used > 256<<10 {
			t.Errorf("%d bytes used, %v", used, err)
		}
		return openImage(t, image)
	}
	first, _, err := copyInto(source).Open("f")
	if err != nil {
		t.Fatal(err)
	}
	second, _, err := copyInto(first).Open("f")
	if err != nil {
		t.Fatal(err)
	}
	f := second.(*openFile)
	for off, want := range spots {
		got := make([]byte, len(want))
		if _, err := f.ReadAt(got, off); err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got, want) {
			t.Errorf("at %d: content differs, %v", off, err)
		}
	}
	from, to, err := f.NextData(4096)
	if err != nil || from != 1<<39+4096 || to != 1<<39+4*4096 {
		t.Errorf("data from %d to %d, %v", from, to, err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
}

// Content that is a file of the host must have the size announced, too.
func TestHostFileOfAnotherSize(t *testing.T) {
	name := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(name, noise(5000), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{4999, 5001, 50000} {
		source, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		err = CreateFile(filepath.Join(t.TempDir(), "image"), Options{}, func(w *Writer) error {
			return w.Add(Entry{Path: "f", Type: TypeFile, Size: size}, source)
		})
		_ = source.Close()
		if err == nil {
			t.Errorf("size %d: no error", size)
		}
	}
	source, err := os.Open(name) // one that was read in part is a stream of the rest
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if _, err := source.Seek(1000, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "image")
	err = CreateFile(image, Options{}, func(w *Writer) error {
		return w.Add(Entry{Path: "f", Type: TypeFile, Size: 4000}, source)
	})
	if err != nil {
		t.Fatal(err)
	}
	checkContents(t, []object{file("f", 0, noise(5000)[1000:])}, readFrom(openImage(t, image)))
}
