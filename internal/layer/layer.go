package layer

import (
	"archive/tar"
	"context"
	"errors"
	"io"

	"github.com/mvmctl/mvmctl/internal/disk"
)

// Layer is one tar file, alone or as part of an image. It may be compressed with gzip, zstd or
// xz, which its first bytes say.
type Layer struct {
	Name   string // for messages: a short digest, a file name
	DiffID string // "sha256:…" of the tar without compression; "" is not checked
	// Open gives the stored bytes. Close must end a Read that is under way.
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// Options say what an import may cost and who watches it.
type Options struct {
	Limits Limits
	// Progress, if set, is told how many stored bytes of a layer (counted from 0) were read; of
	// a folder or an ext4 image, how many bytes its files so far have.
	Progress func(layer int, stored int64)
}

// Stats are what an import came to.
type Stats struct {
	Entries       int64    // of all layers, also those that later ones hide
	Stored, Bytes int64    // read, and after decompression
	DroppedXattrs int64    // that ext4 cannot hold, or of overlayfs
	Skipped       []string // what was left out and why; not more than maxNotes
}

// maxNotes is enough to see what kind of thing was left out.
const maxNotes = 20

func (s *Stats) skip(note string) {
	if len(s.Skipped) < maxNotes {
		s.Skipped = append(s.Skipped, note)
	}
}

// Apply writes the tree that layers, the lowest first, make together. An error leaves w
// worthless.
func Apply(ctx context.Context, w *disk.Writer, layers []Layer, o Options) (Stats, error) {
	a := newApplier(ctx, w, o)
	for i := range layers {
		if i > 0 {
			if err := w.StartLayer(); err != nil {
				return a.stats, limitError("%d layers: %w", len(layers), err)
			}
		}
		if err := a.apply(&layers[i], i); err != nil {
			return a.stats, err
		}
	}
	return a.stats, nil
}

// FromTar writes the tree of one tar file, in which names that begin with ".wh." mean
// themselves.
func FromTar(ctx context.Context, w *disk.Writer, l Layer, o Options) (Stats, error) {
	a := newApplier(ctx, w, o)
	a.literal = true
	err := a.apply(&l, 0)
	return a.stats, err
}

// applier writes layers into an image.
type applier struct {
	w       *disk.Writer
	o       Options
	meter   meter
	literal bool // no whiteouts
	stats   Stats
}

func newApplier(ctx context.Context, w *disk.Writer, o Options) *applier {
	return &applier{w: w, o: o, meter: meter{ctx: ctx, limits: o.Limits.orDefaults()}}
}

// apply writes one layer, in the order of the tar file.
func (a *applier) apply(l *Layer, index int) (err error) {
	place := "layer " + l.Name
	if a.literal {
		place = l.Name
	}
	s, err := openStream(&a.meter, l, place)
	if err != nil {
		return err
	}
	if a.o.Progress != nil {
		s.progress = func(stored int64) { a.o.Progress(index, stored) }
	}
	defer func() {
		s.close()
		a.stats.Entries = a.meter.entries
		a.stats.Stored, a.stats.Bytes = a.stats.Stored+s.stored.Load(), a.stats.Bytes+s.made
	}()
	t := tarReader{s: s, tr: tar.NewReader(s)}
	for {
		h, err := t.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return s.explain(err, "")
		}
		if err := a.entry(h, &t); err != nil {
			return s.explain(err, h.Name)
		}
	}
	return s.finish()
}

// entry writes one entry of a tar file.
func (a *applier) entry(h *tar.Header, t *tarReader) error {
	if h.Typeflag == tar.TypeXGlobalHeader { // comments, such as a commit's id
		return a.meter.entry(h.Name)
	}
	path, err := a.meter.cleanName(h.Name)
	if err != nil {
		return err
	}
	if err := a.meter.entry(path); err != nil {
		return err
	}
	if a.w.Inodes() > a.meter.limits.Entries+spareInodes { // long paths make many folders
		return limitError("more than %d files and folders", a.meter.limits.Entries)
	}
	if !a.literal {
		m, err := parseMarker(path)
		if err != nil {
			return err
		}
		switch m.kind {
		case markerIgnored:
			return nil
		case markerHide:
			return a.hide(h, m.path, a.w.Hide)
		case markerOpaque:
			return a.hide(h, m.path, a.w.HideBelow)
		}
	}
	if path, err = a.resolve(path); err != nil {
		return err
	}
	e, dropped, err := a.meter.convert(h, path)
	a.stats.DroppedXattrs += int64(dropped)
	if err == nil && e.Type == disk.TypeHardlink {
		e.Target, err = a.resolve(e.Target)
	}
	if err != nil {
		return err
	}
	if e.Type != disk.TypeFile {
		return a.w.Replace(e, nil)
	}
	return a.w.Replace(e, t)
}

// spareInodes are those that ext4 keeps for itself, and some folders that nobody names.
const spareInodes = 100

// hide obeys a whiteout.
func (a *applier) hide(h *tar.Header, path string, hide func(string) error) error {
	if h.Typeflag == tar.TypeDir {
		return invalidError("a whiteout that is a directory")
	}
	path, err := a.resolve(path)
	if err != nil {
		return err
	}
	return hide(path)
}

// resolve follows the symlinks on the way to a path inside the image. What that costs counts
// like names, and where it leads has to keep the limits of names.
func (a *applier) resolve(path string) (string, error) {
	real, followed, err := a.w.Resolve(path)
	if err != nil || followed == 0 {
		return path, err
	}
	if err := a.meter.followed(followed); err != nil {
		return "", err
	}
	return a.meter.cleanName(real)
}

// tarReader reads the content of the present entry, to its end before the next one is asked
// for, and knows whether the file ended where a tar file ends.
type tarReader struct {
	s    *stream
	tr   *tar.Reader
	name string // of the present entry
}

// Read implements io.Reader. A sparse file can be endless without reading anything.
func (t *tarReader) Read(p []byte) (int, error) {
	if err := t.s.meter.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := t.tr.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = explained{t.s.explain(tarError{err}, t.name)}
	}
	return n, err
}

// tarBlock is the unit of tar files.
const tarBlock = 512

// next goes to the next entry; io.EOF at the end mark, which archive/tar does not insist on.
func (t *tarReader) next() (*tar.Header, error) {
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{t}); err != nil {
		return nil, err
	}
	before := t.s.passed
	h, err := t.tr.Next()
	if h != nil {
		t.name = h.Name
	}
	switch {
	case errors.Is(err, tar.ErrInsecurePath): // its names are checked by us
		return h, nil
	case !errors.Is(err, io.EOF):
		if err != nil {
			err = tarError{err}
		}
		return h, err
	}
	padding := -before & (tarBlock - 1)
	if t.s.passed-before-padding != 2*tarBlock || t.s.zeros < 2*tarBlock {
		return nil, io.ErrUnexpectedEOF
	}
	return nil, io.EOF
}
