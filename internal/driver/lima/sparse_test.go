package lima

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestSparse(t *testing.T) {
	dir := t.TempDir()
	from, err := os.Create(filepath.Join(dir, "from"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = from.Close() }()
	const size = 5<<20 + 123
	want := make([]byte, size)
	for _, at := range []int{0, 3 << 20, size - 1} {
		want[at] = 7
		if _, err := from.WriteAt([]byte{7}, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	var sent bytes.Buffer
	if err := sendSparse(&sent, from, size); err != nil {
		t.Fatal(err)
	}
	receive := func(data []byte, size int64) ([]byte, error) {
		to, err := os.Create(filepath.Join(dir, "to"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = to.Close() }()
		if err := receiveSparse(to, bytes.NewReader(data), size); err != nil {
			return nil, err
		}
		return os.ReadFile(to.Name())
	}
	got, err := receive(sent.Bytes(), size)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := receive(sent.Bytes(), 1<<20); err == nil {
		t.Error("a piece outside of the file was taken")
	}
	for n := range sent.Len() {
		if _, err := receive(sent.Bytes()[:n], size); err == nil {
			t.Fatalf("a stream cut after %d of %d bytes was taken", n, sent.Len())
		}
	}
}

func FuzzReceiveSparse(f *testing.F) {
	f.Add([]byte("\x28\xb5\x2f\xfd"))
	f.Fuzz(func(t *testing.T, data []byte) {
		to, err := os.Create(filepath.Join(t.TempDir(), "to"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = to.Close() }()
		_ = receiveSparse(to, bytes.NewReader(data), 1<<20)
		if info, err := to.Stat(); err != nil || info.Size() > 1<<20 {
			t.Errorf("%v, %v", info, err)
		}
	})
}
