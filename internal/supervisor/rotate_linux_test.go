package supervisor

import (
	"bytes"
	"os"
	"syscall"
	"testing"
)

// A full disk costs log lines, never the machine; what was lost is said when there is room.
func TestAFullDiskCostsLogLinesOnly(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a small tmpfs")
	}
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("needs a mount: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	r, err := openRotating(dir+"/log", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	chunk := bytes.Repeat([]byte("y"), 4096)
	for range 64 {
		if n, err := r.Write(chunk); n != len(chunk) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	if err := os.Truncate(dir+"/log", 0); err != nil {
		t.Fatal(err)
	}
	_, _ = r.Write([]byte("again\n"))
	data, _ := os.ReadFile(dir + "/log")
	if !bytes.Contains(data, []byte("bytes of log were lost")) || !bytes.HasSuffix(data, []byte("again\n")) {
		t.Errorf("%.200q", data)
	}
}
