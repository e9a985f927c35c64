package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
)

const (
	maxSavedFiles = 1 << 14
	maxSavedDocs  = 64 << 20 // bytes of all JSON files together, which are kept in memory
	maxHops       = 8        // links to one file

	savedManifest = "manifest.json"
)

// saved is what is in a tar file that holds images: one that `docker save` wrote, in its old
// form (ID/layer.tar) or its new one (an OCI layout with a manifest.json), or a plain layout.
type saved struct {
	files map[string]savedFile
	docs  map[string][]byte // those that are JSON
	bytes int
}

type savedFile struct {
	size   int64
	digest string // of a file that went into the blobs
	packed bool   // compressed
	link   string // another name for that one
}

// sink takes the files that are no JSON; nil skips them.
type sink func(name string, size int64, r io.Reader) (digest string, packed bool, err error)

// scanSaved reads a tar file to its end.
func scanSaved(ctx context.Context, r io.Reader, into sink) (*saved, error) {
	s := &saved{files: map[string]savedFile{}, docs: map[string][]byte{}}
	tr := tar.NewReader(r)
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // names are keys of ours, not paths
			return nil, savedError(err)
		}
		if len(s.files) >= maxSavedFiles {
			return nil, machine.Errorf("archive.limit", "save fewer images in one file", "more than %d files", maxSavedFiles)
		}
		if err := s.add(h, tr, into); err != nil {
			return nil, err
		}
	}
}

func savedError(err error) error {
	if machine.CodeOf(err) != "" {
		return err
	}
	if _, ok := errors.AsType[retryable](err); ok {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return machine.Errorf("archive.truncated", "fetch or copy it again: it is cut or damaged", "it ends too early")
	}
	return archiveError("this is no tar file, or a damaged one: %s", plain(err.Error()))
}

func cleanName(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// add takes one entry. As with any tar file, the later one of a name wins.
func (s *saved) add(h *tar.Header, r io.Reader, into sink) error {
	name := cleanName(h.Name)
	delete(s.docs, name)
	delete(s.files, name)
	switch h.Typeflag {
	case tar.TypeSymlink:
		s.files[name] = savedFile{link: cleanName(path.Join(path.Dir(name), h.Linkname))}
		return nil
	case tar.TypeLink:
		s.files[name] = savedFile{link: cleanName(h.Linkname)}
		return nil
	case tar.TypeReg:
	default:
		return nil
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") { // a few bytes that claim to be many
			return archiveError("%s is a sparse file", quote(h.Name))
		}
	}
	f := savedFile{size: h.Size}
	if h.Size > maxLayer {
		return imageLimitError("a layer of %d bytes, at most %d are allowed", h.Size, int64(maxLayer))
	}
	if h.Size <= maxConfig {
		data, rest, err := readJSON(r)
		if err != nil {
			return savedError(err)
		}
		if data != nil {
			if s.bytes += len(data); s.bytes > maxSavedDocs {
				return machine.Errorf("archive.limit", "save fewer images in one file", "descriptions of more than %d bytes", maxSavedDocs)
			}
			s.docs[name] = data
			s.files[name] = f
			return nil
		}
		r = rest
	}
	if into != nil {
		var err error
		if f.digest, f.packed, err = into(name, h.Size, r); err != nil {
			return err
		}
	}
	s.files[name] = f
	return nil
}

// readJSON returns the content if it is JSON, else a reader of all of it. No tar file, compressed
// or not, is JSON.
func readJSON(r io.Reader) (data []byte, rest io.Reader, err error) {
	first := make([]byte, 1)
	if _, err := io.ReadFull(r, first); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, bytes.NewReader(nil), nil
		}
		return nil, nil, err
	}
	if !strings.ContainsAny(string(first), "{[ \n\r\t") {
		return nil, io.MultiReader(bytes.NewReader(first), r), nil
	}
	data, err = io.ReadAll(r)
	data = append(first, data...)
	if err != nil || !json.Valid(data) {
		return nil, bytes.NewReader(data), err
	}
	return data, nil, nil
}

// find follows links to a file.
func (s *saved) find(name string) (string, savedFile, bool) {
	name = cleanName(name)
	for range maxHops {
		f, ok := s.files[name]
		if !ok || f.link == "" {
			return name, f, ok
		}
		name = f.link
	}
	return name, savedFile{}, false
}

// savedEntry is one image of manifest.json.
type savedEntry struct {
	config   string
	repoTags []string
	layers   []string
}

func readSavedManifest(data []byte) ([]savedEntry, error) {
	fail := func(err error) ([]savedEntry, error) {
		return nil, invalidError("reading %s: %w", savedManifest, err)
	}
	if err := checkJSON(data); err != nil {
		return fail(err)
	}
	var list []rawMessage
	if err := json.Unmarshal(data, &list); err != nil {
		return fail(errors.New("it is not a list"))
	}
	var out []savedEntry
	for _, raw := range list {
		o, err := parseObject(raw, "Config", "RepoTags", "Layers")
		if err != nil {
			return fail(err)
		}
		var e savedEntry
		if err := firstError(o.get("Config", &e.config), o.get("RepoTags", &e.repoTags), o.get("Layers", &e.layers)); err != nil {
			return fail(err)
		}
		out = append(out, e)
	}
	return out, nil
}

// choose finds the image of a name; without a name there has to be one only.
func choose(list []savedEntry, ref reference) (savedEntry, error) {
	var names []string
	for _, e := range list {
		names = append(names, e.repoTags...)
		for _, tag := range e.repoTags {
			if r, err := parseReference(tag); err == nil && r == ref {
				return e, nil
			}
		}
	}
	switch {
	case ref.repo != "":
		return savedEntry{}, notFoundError("name one that is there", "there is no image %s; there is: %s", plain(ref.String()), listNames(names))
	case len(list) == 0:
		return savedEntry{}, notFoundError("save an image into it", "there is no image in it")
	case len(list) > 1:
		return savedEntry{}, ambiguousError(names)
	}
	return list[0], nil
}

// image finds an image in what was read.
func (s *saved) image(ctx context.Context, src Source, want Platform) (Image, error) {
	manifest, index := s.docs[savedManifest], s.docs[layoutIndex]
	if index != nil && (src.kind == kindOCIArchive || manifest == nil) {
		tag := src.tag
		if src.kind == kindSaved {
			tag = src.ref.tag
		}
		img, err := resolveLayoutIndex(ctx, savedLayout{s}, index, tag, want)
		for _, l := range img.Layers {
			name, f, ok := s.find(blobName(l.Digest))
			if !ok || f.size != l.Size {
				return Image{}, archiveError("layer %s is missing or cut", shortDigest(l.Digest))
			}
			img.names = append(img.names, name)
		}
		return img, err
	}
	if manifest == nil || src.kind == kindOCIArchive {
		return Image{}, archiveError("there is no image in it: neither %s nor %s", savedManifest, layoutIndex)
	}
	list, err := readSavedManifest(manifest)
	if err != nil {
		return Image{}, err
	}
	e, err := choose(list, src.ref)
	if err != nil {
		return Image{}, err
	}
	return s.entryImage(e, want)
}

func (s *saved) entryImage(e savedEntry, want Platform) (Image, error) {
	name, _, _ := s.find(e.config)
	data, ok := s.docs[name]
	if !ok {
		return Image{}, archiveError("the image's configuration %s is missing, or no JSON", quote(e.config))
	}
	digest := digestOf(data)
	if stem := strings.TrimSuffix(path.Base(e.config), ".json"); isHex(stem) && digestPrefix+stem != digest {
		return Image{}, digestError("the image's configuration is not the one that its name %s promises", quote(e.config))
	}
	p, c, diffIDs, err := readConfig(data)
	if err != nil {
		return Image{}, err
	}
	img := Image{ConfigDigest: digest, Platform: p.normal(), Config: c}
	var layers []Layer
	for _, l := range e.layers[:min(len(e.layers), maxLayers+1)] {
		name, f, ok := s.find(l)
		if !ok {
			return Image{}, archiveError("layer %s is missing", quote(l))
		}
		layer := Layer{Size: f.size, Digest: f.digest}
		if hex, ok := strings.CutPrefix(cleanName(l), layoutBlobs); ok && isHex(hex) {
			layer.Digest = digestPrefix + hex
		}
		layers = append(layers, layer)
		img.names = append(img.names, name)
	}
	if err := img.setLayers(layers, diffIDs); err != nil {
		return Image{}, err
	}
	if p.rank(want) == 0 {
		return Image{}, platformError(want, []Platform{p})
	}
	return img, nil
}

// savedLayout gives out the documents of a layout in a tar file.
type savedLayout struct{ s *saved }

func (l savedLayout) document(d descriptor, what string) ([]byte, error) {
	name, _, _ := l.s.find(blobName(d.digest))
	data, ok := l.s.docs[name]
	if !ok {
		return nil, archiveError("the %s %s is missing", what, shortDigest(d.digest))
	}
	return data, firstError(checkSize(what, data, d), checkContent(what, data, d.digest))
}

// manifest implements library.
func (l savedLayout) manifest(_ context.Context, d descriptor) ([]byte, error) {
	return l.document(d, "manifest")
}

// config implements library.
func (l savedLayout) config(_ context.Context, d descriptor) ([]byte, error) {
	return l.document(d, "image's configuration")
}

func resolveSaved(ctx context.Context, src Source, want Platform) (Image, error) {
	var img Image
	err := withSaved(ctx, src.path, func(r io.Reader) error {
		s, err := scanSaved(ctx, r, nil)
		if err == nil {
			img, err = s.image(ctx, src, want)
		}
		return err
	})
	return img, err
}

// fetchSaved copies layers out of a saved file: it may be compressed, and its owner may change
// it.
func fetchSaved(ctx context.Context, img Image, blobs *Blobs, progress Progress) (Image, error) {
	if out, ok, err := img.fromBlobs(ctx, blobs); err != nil || ok {
		progress(out.Size, out.Size)
		return out, err
	}
	need := int64(0)
	for i, l := range img.Layers {
		if slices.Index(img.names, img.names[i]) == i {
			need += l.Size
		}
	}
	if err := blobs.checkSpace(need); err != nil {
		return Image{}, err
	}
	count := &counter{total: need, tell: progress}
	progress(0, need)
	err := withSaved(ctx, img.source.path, func(r io.Reader) error {
		s, err := scanSaved(ctx, r, func(name string, size int64, r io.Reader) (string, bool, error) {
			if !slices.Contains(img.names, name) {
				return "", false, nil
			}
			return blobs.take(ctx, size, r, count)
		})
		if err != nil {
			return err
		}
		return img.taken(s)
	})
	return img, err
}

// fromBlobs fills in what is known of layers that are all in the cache.
func (img Image) fromBlobs(ctx context.Context, blobs *Blobs) (Image, bool, error) {
	img.Layers = slices.Clone(img.Layers)
	img.Size = 0
	for i := range img.Layers {
		if l := &img.Layers[i]; l.Digest == "" {
			l.Digest = l.DiffID // as it is when it is not compressed
		}
	}
	if err := blobs.keep(ctx, img.digests()...); err != nil {
		return img, false, err
	}
	for i := range img.Layers {
		l := &img.Layers[i]
		size := blobs.size(l.Digest)
		if size == UnknownSize || l.Size != UnknownSize && l.Size != size {
			return img, false, nil
		}
		l.Size = size
		img.Size += size
	}
	return img, true, nil
}

// taken fills in the digests of layers that went into the blobs, and checks those that were
// known.
func (img *Image) taken(s *saved) error {
	img.Layers = slices.Clone(img.Layers)
	img.Size = 0
	for i := range img.Layers {
		l := &img.Layers[i]
		_, f, ok := s.find(img.names[i])
		switch {
		case !ok || f.digest == "" || l.Size != UnknownSize && f.size != l.Size:
			return machine.Errorf("archive.changed", "run the command again", "it was changed while it was read")
		case l.Digest != "" && l.Digest != f.digest:
			return digestError("layer %s is not what its name promises: its digest is %s", shortDigest(l.Digest), shortDigest(f.digest))
		case !f.packed && f.digest != l.DiffID:
			return machine.Errorf("integrity.diffid", "save it again", "layer %s is not the one that the image's configuration names (%s)",
				shortDigest(f.digest), shortDigest(l.DiffID))
		}
		l.Digest, l.Size = f.digest, f.size
		img.Size += f.size
	}
	return nil
}

// take stores a layer whose digest is not known before.
func (b *Blobs) take(ctx context.Context, size int64, r io.Reader, count *counter) (digest string, packed bool, err error) {
	p, err := b.spool(ctx)
	if err != nil {
		return "", false, err
	}
	defer p.discard()
	var head []byte
	buf := make([]byte, 256<<10)
	for {
		if ctx.Err() != nil {
			return "", false, context.Cause(ctx)
		}
		n, err := r.Read(buf)
		if len(head) < 6 {
			head = append(head, buf[:min(n, 6-len(head))]...)
		}
		if _, werr := p.Write(buf[:n]); werr != nil {
			return "", false, werr
		}
		count.add(int64(n))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", false, savedError(err)
		}
	}
	if p.n != size {
		return "", false, savedError(io.ErrUnexpectedEOF)
	}
	digest = digestOfHash(p.hash)
	if err := b.keep(ctx, digest); err != nil {
		return "", false, err
	}
	if !b.has(digest, size) {
		if err := b.finish(p, digest); err != nil {
			return "", false, err
		}
	}
	return digest, isPacked(head), nil
}

// isPacked knows the compressions that a layer may have.
func isPacked(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "\x28\xb5\x2f\xfd", "\xfd7zXZ\x00"} {
		if strings.HasPrefix(string(head), magic) {
			return true
		}
	}
	return false
}
