package docker

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestUnpackStaysInside: what a tar stream says leads nowhere but into the folder.
func TestUnpackStaysInside(t *testing.T) {
	t.Parallel()
	for name, entries := range map[string][]tar.Header{
		"a name":              {{Name: "../../escaped", Typeflag: tar.TypeReg}},
		"an absolute name":    {{Name: "/escaped", Typeflag: tar.TypeReg}},
		"through a link":      {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "l/escaped", Typeflag: tar.TypeReg}},
		"a hard link":         {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../outside"}},
		"the mode of another": {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside"}, {Name: "l", Typeflag: tar.TypeDir, Mode: 0o777}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			top := t.TempDir()
			dir, outside := filepath.Join(top, "in"), filepath.Join(top, "outside")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(outside, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			var stream bytes.Buffer
			w := tar.NewWriter(&stream)
			for _, h := range entries {
				if err := w.WriteHeader(&h); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			_ = unpack(&stream, dir) // refused or put inside
			left, err := os.ReadDir(top)
			if err != nil || len(left) != 2 {
				t.Errorf("beside the folder: %v, %v", left, err)
			}
			info, err := os.Stat(outside)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the file outside: %v, %v", info, err)
			}
			if _, err := os.Stat(filepath.Join(dir, "h")); err == nil {
				t.Error("a hard link to what is outside")
			}
		})
	}
}
