package oci

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// Files of an OCI layout
// (https://github.com/opencontainers/image-spec/blob/main/image-layout.md).
const (
	layoutIndex = "index.json"
	layoutBlobs = "blobs/sha256/"
)

// layoutDir is a layout in a folder.
type layoutDir struct{ dir string }

func resolveLayout(ctx context.Context, s Source, want Platform) (Image, error) {
	l := layoutDir{s.path}
	if info, err := os.Stat(s.path); err == nil && !info.IsDir() {
		return Image{}, machine.Errorf("input.file", "name the folder, or a file with oci-archive:", "%s is not a folder", quote(s.path))
	}
	data, err := l.read(layoutIndex, "index", maxManifest)
	if err != nil {
		return Image{}, err
	}
	return resolveLayoutIndex(ctx, l, data, s.tag, want)
}

// resolveLayoutIndex finds the image of a name in a layout's index. Without a name the layout
// has to hold one image, which may be there for several platforms.
func resolveLayoutIndex(ctx context.Context, lib library, data []byte, tag string, want Platform) (Image, error) {
	doc, err := readDocument(data, typeOCIIndex)
	if err != nil {
		return Image{}, err
	}
	var names []string
	for _, d := range doc.manifests {
		if !slices.Contains(names, d.name) {
			names = append(names, d.name)
		}
	}
	switch {
	case tag != "":
		doc.manifests = slices.DeleteFunc(doc.manifests, func(d descriptor) bool { return d.name != tag })
		if len(doc.manifests) == 0 {
			return Image{}, notFoundError("name one that is there", "there is no image %s; there is: %s", quote(tag), listNames(names))
		}
	case len(names) > 1:
		return Image{}, ambiguousError(names)
	}
	var there []Platform
	img, found, err := resolveIndex(ctx, lib, doc, want, 0, &there)
	if err == nil && !found {
		err = platformError(want, there)
	}
	return img, err
}

func ambiguousError(names []string) error {
	return machine.Errorf("image.ambiguous", "name one behind the path, after a colon", "there are several images: %s", listNames(names))
}

// listNames is a list of a stranger's names for a message.
func listNames(names []string) string {
	const most = 20
	var out []string
	for _, n := range names[:min(len(names), most)] {
		if n != "" {
			out = append(out, plain(n))
		}
	}
	if len(names) > most {
		out = append(out, "…")
	}
	if len(out) == 0 {
		return "none with a name"
	}
	return strings.Join(out, ", ")
}

// read returns a small file of the layout.
func (l layoutDir) read(name, what string, most int64) ([]byte, error) {
	f, err := openRegular(filepath.Join(l.dir, filepath.FromSlash(name)))
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fileError(f.Name(), err)
	}
	if int64(len(data)) > most {
		return nil, limitError("the %s has more than %d bytes", what, most)
	}
	return data, nil
}

func (l layoutDir) document(d descriptor, what string, most int64) ([]byte, error) {
	data, err := l.read(blobName(d.digest), what, most)
	if err == nil {
		err = checkSize(what, data, d)
	}
	if err == nil {
		err = checkContent(what, data, d.digest)
	}
	return data, err
}

// manifest implements library.
func (l layoutDir) manifest(_ context.Context, d descriptor) ([]byte, error) {
	return l.document(d, "manifest", maxManifest)
}

// config implements library.
func (l layoutDir) config(_ context.Context, d descriptor) ([]byte, error) {
	return l.document(d, "image's configuration", maxConfig)
}

func blobName(digest string) string { return layoutBlobs + strings.TrimPrefix(digest, digestPrefix) }

// copyFrom brings a layer from a layout. It is copied, not linked: a layout belongs to somebody
// who may change it.
func (d *download) copyFrom(ctx context.Context, dir string) error {
	if err := d.restart(); err != nil { // what is there would have to be read as well
		return err
	}
	f, err := openRegular(filepath.Join(dir, filepath.FromSlash(blobName(d.layer.Digest))))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	err = d.receive(readerWith(ctx, f), UnknownSize)
	if cut, ok := errors.AsType[retryable](err); ok {
		err = cut.error // a file does not grow by waiting
	}
	if err != nil {
		return err
	}
	return d.finish()
}
