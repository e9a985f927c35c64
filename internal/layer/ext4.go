package layer

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// FromExt4 writes the tree of an ext4 image that anybody may have made, which is read to its
// last byte on the way: what comes out is sound. The lost+found that mke2fs makes is left out
// unless something is in it.
func FromExt4(ctx context.Context, w *disk.Writer, fs *disk.FS, o Options) (Stats, error) {
	a := newApplier(ctx, w, o)
	err := fs.Walk(func(e disk.Entry) error {
		if err := a.copyEntry(fs, e); err != nil {
			return explainExt4(err, e.Path)
		}
		return nil
	})
	a.stats.Entries, a.stats.Bytes = a.meter.entries, a.meter.files
	if err != nil {
		return a.stats, explainExt4(err, "")
	}
	return a.stats, nil
}

func (a *applier) copyEntry(fs *disk.FS, e disk.Entry) error {
	if _, err := a.meter.cleanName(e.Path); err != nil {
		return err
	}
	if err := a.meter.entry(e.Path); err != nil {
		return err
	}
	switch {
	case e.Type == disk.TypeFile:
		return a.copyFile(fs, e)
	case e.Type == disk.TypeDir && e.Path == "lost+found":
		list, err := fs.ReadDir(e.Path)
		if err != nil || len(list) == 0 {
			return err
		}
	case e.Type == disk.TypeSymlink:
		e.Size = 0
	}
	return a.w.Add(e, nil)
}

func (a *applier) copyFile(fs *disk.FS, e disk.Entry) error {
	if err := a.meter.file(e.Size); err != nil {
		return err
	}
	defer a.progress()
	r, _, err := fs.Open(e.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	if s, ok := r.(sparseFile); ok {
		return a.w.Add(e, sparseContent{a.meter.ctx, s})
	}
	return a.w.Add(e, ctxReader{a.meter.ctx, r})
}

// progress tells how far a copy of files is.
func (a *applier) progress() {
	if a.o.Progress != nil {
		a.o.Progress(0, a.meter.files)
	}
}

// sparseFile is what disk.Writer asks of content whose holes it shall skip.
type sparseFile interface {
	io.ReadSeeker
	NextData(off int64) (start, end int64, err error)
}

// sparseContent ends with its context.
type sparseContent struct {
	ctx context.Context
	sparseFile
}

func (c sparseContent) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.sparseFile.Read(p)
}

func (c sparseContent) NextData(off int64) (start, end int64, err error) {
	if err := c.ctx.Err(); err != nil {
		return 0, 0, err
	}
	return c.sparseFile.NextData(off)
}

// ctxReader ends with its context.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// explainExt4 names the place and, where the image is at fault, says so in one way.
func explainExt4(err error, path string) error {
	if e, ok := errors.AsType[explained](err); ok {
		return e.error
	}
	place := "the image"
	if path != "" {
		place = "entry " + quoteName(path)
	}
	full, isFull := errors.AsType[*disk.FullError](err)
	_, isOurs := errors.AsType[*machine.Error](err)
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return explained{err}
	case isOurs:
		return explained{located(err, place)}
	case errors.Is(err, disk.ErrCorrupt), errors.Is(err, disk.ErrNotExt4), errors.Is(err, io.ErrUnexpectedEOF):
		return explained{machine.Errorf("archive.invalid", "repair a copy of it with `e2fsck -f`, or make it again", "%s: %w", place, err)}
	case errors.Is(err, disk.ErrUnsupported):
		return explained{machine.Errorf("archive.invalid", "make it with mke2fs's defaults, or pack the tree as a tar file", "%s: %w", place, err)}
	case isFull:
		return explained{limitError("%s: the image has no room for it: %d %s are needed", place, full.Needed, full.What)}
	case errors.Is(err, disk.ErrRefused):
		return explained{invalidError("%s: %w", place, reason(err))}
	}
	return explained{fmt.Errorf("%s: %w", place, explainHost(err))}
}
