package guestinit

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

func TestCopySecrets(t *testing.T) {
	src := fstest.MapFS{
		"token":             {Data: []byte("hunter2"), Mode: 0o666},
		".dotfile":          {Data: []byte("dot")},
		"tls/key.pem":       {Data: []byte("key"), Mode: 0o600},
		"tls/deeper/.x":     {Data: []byte("x")},
		"lost+found/orphan": {Data: []byte("no secret")},
		"binary":            {Data: []byte{0, 1, 2, 255}},
		"empty":             {},
	}
	dir := t.TempDir()
	owners := map[string]int{}
	if err := copyTo(t, src, dir, owners); err != nil {
		t.Fatal(err)
	}
	for name, f := range src {
		st, err := os.Stat(filepath.Join(dir, name))
		if strings.HasPrefix(name, "lost+found") {
			if err == nil {
				t.Error("lost+found was copied")
			}
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && os.Geteuid() == 0 || err == nil && string(got) != string(f.Data) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if st.Mode().Perm() != 0o440 || owners[name] != 77 {
			t.Errorf("%s: mode %v, group %d", name, st.Mode(), owners[name])
		}
	}
	if st, err := os.Stat(filepath.Join(dir, "tls")); err != nil || st.Mode().Perm() != 0o750 || owners["tls"] != 77 {
		t.Errorf("folder: %v, %v", st, err)
	}
	// Again, with another value: the new generation's secrets replace the old.
	src["token"] = &fstest.MapFile{Data: []byte("changed")}
	if err := copyTo(t, src, dir, owners); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "token")); os.Geteuid() == 0 && string(got) != "changed" {
		t.Errorf("after a second copy: %q", got)
	}
}

func copyTo(t *testing.T, src fs.FS, dir string, owners map[string]int) error {
	t.Helper()
	dst, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	return copySecrets(src, dst, 77, func(_ *os.Root, name string, gid int) error { owners[name] = gid; return nil })
}

func TestCopySecretsRefuses(t *testing.T) {
	many := fstest.MapFS{}
	for i := range maxSecrets + 1 {
		many[fmt.Sprintf("s%d", i)] = &fstest.MapFile{}
	}
	for name, src := range map[string]fstest.MapFS{
		"a link":     {"a": {Mode: fs.ModeSymlink, Data: []byte("/etc/shadow")}},
		"a device":   {"a": {Mode: fs.ModeDevice}},
		"a FIFO":     {"a": {Mode: fs.ModeNamedPipe}},
		"too many":   many,
		"too deep":   {strings.Repeat("d/", maxSecretDepth) + "a": {}},
		"too much":   {"a": {Data: make([]byte, maxSecretBytes/2+1)}, "b": {Data: make([]byte, maxSecretBytes/2+1)}},
		"one huge":   {"a": {Data: make([]byte, maxSecretBytes+1)}},
		"in a place": {"d/a": {Mode: fs.ModeSymlink, Data: []byte("..")}},
	} {
		if err := copyTo(t, src, t.TempDir(), map[string]int{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
