package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/mvmctl/mvmctl/internal/layer"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// checkKind refuses a file that is no root file system, by its first bytes and the names in it:
// what `docker save` writes is a tar file too, and its import would give an image of layers.
func checkKind(ctx context.Context, file string) error {
	head, err := firstBytes(file)
	if err != nil {
		return err
	}
	if len(head) == 0 {
		return unknownKind(file, "it is empty", "")
	}
	seen := 0
	saved := newSavedNames()
	err = layer.Names(ctx, tarFile(file), func(name string) bool {
		seen++
		return saved.add(name)
	})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil && seen == 0:
		return unknownKind(file, "there is nothing in it", "")
	case saved.transport() != "":
		return machine.Errorf("image.kind", savedRemedy(saved.transport(), file),
			"%s is a saved container image, not a root file system", file)
	case err != nil && seen == 0 && !compressed(head):
		what, remedy := foreign(head, file)
		return unknownKind(file, what, remedy)
	}
	return nil // what else is wrong with it is said by whoever reads it
}

// checkFolder is checkKind for a folder.
func checkFolder(dir string) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return fileError(dir, err)
	}
	if len(list) == 0 {
		return machine.Usagef("input.file", "put a root file system, or a Dockerfile, into it", "there is nothing in %s", dir)
	}
	saved := newSavedNames()
	for _, e := range list {
		if !saved.add(e.Name()) {
			return nil
		}
	}
	if saved.seen["oci-layout"] {
		return machine.Errorf("image.kind", savedRemedy("oci", dir), "%s is an OCI image layout, not a root file system", dir)
	}
	return nil
}

// localHint is what to do with a path that was taken for the name of an image, when it is one
// of a file or folder that images are made from; "" when it is not.
func localHint(ctx context.Context, file string) string {
	info, err := os.Stat(file)
	if err != nil {
		return ""
	}
	check := checkFolder
	if !info.IsDir() {
		check = func(file string) error { return checkKind(ctx, file) }
	}
	var e *machine.Error
	switch err := check(file); {
	case errors.As(err, &e) && e.Code == "image.kind":
		return e.Remedy
	case err != nil || info.IsDir(): // any folder could have the name of an image
		return ""
	}
	return "the file of that name is a root file system: mvmctl image import " + quoteWord(file)
}

func savedRemedy(transport, file string) string {
	return "mvmctl image pull " + quoteWord(transport+":"+file)
}

// quoteWord makes a text one word of a shell.
func quoteWord(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-") == "" && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func tarFile(file string) layer.Layer {
	return layer.Layer{
		Name: filepath.Base(file),
		Open: func(context.Context) (io.ReadCloser, error) { return openRegular(file) },
	}
}

// headBytes are enough for the marks of all formats that we know.
const headBytes = 512

func firstBytes(file string) ([]byte, error) {
	f, err := openRegular(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	head, err := io.ReadAll(io.LimitReader(f, headBytes))
	if err != nil {
		return nil, fileError(file, err)
	}
	return head, nil
}

func unknownKind(file, what, remedy string) error {
	const formats = "give a folder, a tar file (plain, or packed with gzip, zstd or xz) or an ext4 image"
	if remedy == "" {
		remedy = formats
	} else {
		remedy = formats + "; " + remedy
	}
	if what != "" {
		what = ": " + what
	}
	return machine.Errorf("archive.invalid", remedy, "%s is no tar archive, folder or ext4 image%s", file, what)
}

func compressed(head []byte) bool {
	for _, mark := range []string{"\x1f\x8b", "\x28\xb5\x2f\xfd", "\xfd7zXZ\x00"} {
		if bytes.HasPrefix(head, []byte(mark)) {
			return true
		}
	}
	return false
}

// foreign names a format that people have and we do not read, and how to get on.
func foreign(head []byte, file string) (what, remedy string) {
	name := quoteWord(file)
	for _, f := range []struct{ mark, what, remedy string }{
		{"BZh", "it is packed with bzip2", "bunzip2 -k " + name + " unpacks it"},
		{"PK\x03\x04", "it is a zip file", "unzip -d FOLDER " + name + " unpacks it"},
		{"\x04\x22\x4d\x18", "it is packed with lz4", "lz4 -d " + name + " unpacks it"},
		{"7z\xbc\xaf\x27\x1c", "it is a 7z file", ""},
		{"hsqs", "it is a squashfs image", "unsquashfs -d FOLDER " + name + " unpacks it"},
		{"QFI\xfb", "it is a qcow2 disk", ""},
		{"XFSB", "it is an XFS image", ""},
	} {
		if bytes.HasPrefix(head, []byte(f.mark)) {
			return f.what, f.remedy
		}
	}
	return "", ""
}

// savedNames looks whether the names in a folder or tar file are those of a saved image, and no
// others.
type savedNames struct {
	seen  map[string]bool // of the names that tell, those that are there
	other bool
}

func newSavedNames() *savedNames { return &savedNames{seen: map[string]bool{}} }

// add takes a name and reports whether it can still be a saved image.
func (s *savedNames) add(name string) bool {
	top, _, _ := strings.Cut(strings.TrimPrefix(path.Clean("/"+name), "/"), "/")
	base, _, _ := strings.Cut(top, ".")
	switch {
	case top == "":
	case top == "manifest.json" || top == "oci-layout" || top == "index.json" || top == "blobs" || top == "repositories":
		s.seen[top] = true
	case len(base) != 64 || strings.Trim(base, "0123456789abcdef") != "":
		s.other = true
	}
	return !s.other
}

// transport is how an image in a tar file is pulled; "" when it is none.
func (s *savedNames) transport() string {
	switch {
	case s.other:
		return ""
	case s.seen["manifest.json"]:
		return "docker-archive"
	case s.seen["oci-layout"]:
		return "oci-archive"
	}
	return ""
}

// hinted adds to an error about an image that could not be had what a file of that name is for.
func hinted(err error, hint string) error {
	e, ok := errors.AsType[*machine.Error](err)
	if !ok || hint == "" {
		return err
	}
	with := *e
	with.Remedy, with.Err = fmt.Sprintf("%s; otherwise: %s", hint, e.Remedy), err
	return &with
}
