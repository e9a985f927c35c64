package kernel

import (
	"bytes"
	"context"
	"io"
	"path"
	"strings"
	"testing"
)

func FuzzBzImage(f *testing.F) {
	f.Add(goodBzImage())
	f.Add(bzImage(packGzip(vmlinux(nil)), nil))
	f.Add(bzImage(sized(packXZ)(vmlinux(nil)), nil))
	f.Add(bzImage(sized(packZstd)(vmlinux(nil)), nil))
	f.Add(bzImage(sized(packLZMA)(vmlinux(nil)), nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		h, err := parseBzHeader(r, int64(len(b)))
		if err != nil {
			return
		}
		if checkRelease(h.release) != nil || strings.ContainsAny(h.release, "/\x00") {
			t.Errorf("release %q", h.release)
		}
		if h.payloadOffset < 0 || h.payloadOffset+h.payloadLength > int64(len(b)) {
			t.Errorf("payload of %d bytes at %d in %d", h.payloadLength, h.payloadOffset, len(b))
		}
		var out limitCheck
		if err := extractBzImage(context.Background(), r, h, &out); err == nil && out.n > maxVMLinux {
			t.Errorf("%d bytes came out", out.n)
		}
	})
}

// limitCheck counts what is written to it.
type limitCheck struct{ n int64 }

func (l *limitCheck) Write(p []byte) (int, error) {
	l.n += int64(len(p))
	return len(p), nil
}

func FuzzELF(f *testing.F) {
	f.Add(vmlinux(nil))
	f.Add(vmlinux(nil)[:64])
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		r := bytes.NewReader(b)
		_, _ = checkELF(r, int64(len(b)))
		_, _ = scanKernel(context.Background(), r, int64(len(b)))
		_, _, _ = parseZboot(b, int64(len(b)))
	})
}

func FuzzDeb(f *testing.F) {
	files := map[string][]byte{"boot/vmlinuz-1": []byte("x"), "lib/modules/1/a.ko": ko("1")}
	for member, p := range map[string]packer{
		"data.tar": plain, "data.tar.gz": packGzip, "data.tar.xz": packXZ, "data.tar.zst": packZstd,
	} {
		f.Add(deb(member, p, files))
	}
	f.Add([]byte(arMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = debData(context.Background(), bytes.NewReader(b), func(name string, _ int64, r io.Reader) error {
			if path.IsAbs(name) || strings.HasPrefix(path.Clean(name), "..") {
				t.Errorf("name %q", name)
			}
			_, err := io.CopyN(io.Discard, r, 1<<20)
			if err == io.EOF { //nolint:errorlint // CopyN returns it bare
				err = nil
			}
			return err
		})
	})
}

func FuzzModulesDep(f *testing.F) {
	f.Add("kernel/a.ko: kernel/b.ko\nkernel/b.ko:\n", "a")
	f.Add("a.ko: a.ko\n", "a")
	f.Fuzz(func(t *testing.T, text, want string) {
		tree, err := parseModulesDep(strings.NewReader(text))
		if err != nil {
			return
		}
		files, _ := tree.loadOrder([]string{want, want}, parseBuiltin([]byte(text)))
		seen := map[string]bool{}
		for _, file := range files {
			if seen[file] {
				t.Errorf("%q twice", file)
			}
			seen[file] = true
			if path.IsAbs(file) || strings.HasPrefix(path.Clean(file), "..") {
				t.Errorf("path %q", file)
			}
		}
	})
}

func FuzzModinfo(f *testing.F) {
	f.Add(ko(testRelease, "a", "b"))
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = parseModinfo(b) })
}
