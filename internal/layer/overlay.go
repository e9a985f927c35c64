package layer

import (
	"context"
	"strings"

	"github.com/mvmctl/mvmctl/internal/disk"
)

// How overlayfs notes in an upper directory what of the lower one is gone
// (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories").
const (
	overlayXattrs = "trusted.overlay."
	opaqueXattr   = overlayXattrs + "opaque"
)

// FromOverlay writes what a machine made of its image: the tree of base, with the overlayfs
// upper directory dir of the image upper over it. Both may be hostile; the upper one is what a
// guest left.
func FromOverlay(ctx context.Context, w *disk.Writer, base, upper *disk.FS, dir string, o Options) (Stats, error) {
	stats, err := FromExt4(ctx, w, base, o)
	if err != nil {
		return stats, err
	}
	if err := w.StartLayer(); err != nil {
		return stats, limitError("%w", err)
	}
	a := newApplier(ctx, w, o)
	a.stats = stats
	err = upper.Walk(func(e disk.Entry) error {
		if err := a.overlayEntry(upper, e, dir); err != nil {
			return explainExt4(err, e.Path)
		}
		return nil
	})
	a.stats.Entries, a.stats.Bytes = stats.Entries+a.meter.entries, stats.Bytes+a.meter.files
	if err != nil {
		return a.stats, explainExt4(err, "")
	}
	return a.stats, nil
}

// overlayEntry applies one entry of the upper image.
func (a *applier) overlayEntry(fs *disk.FS, e disk.Entry, dir string) error {
	path, below := strings.CutPrefix(e.Path+"/", dir+"/")
	if !below {
		return nil // overlayfs's work directory, lost+found
	}
	source := e.Path
	if e.Path = strings.TrimSuffix(path, "/"); e.Path == "" {
		e.Path = "."
	}
	if err := a.meter.entry(e.Path); err != nil {
		return err
	}
	if e.Type == disk.TypeChar && e.Major == 0 && e.Minor == 0 {
		return a.w.Hide(e.Path)
	}
	opaque := string(e.Xattrs[opaqueXattr]) == "y"
	for name := range e.Xattrs {
		if strings.HasPrefix(name, overlayXattrs) {
			delete(e.Xattrs, name)
		}
	}
	switch e.Type {
	case disk.TypeDir:
		if opaque {
			if err := a.hideAll(e.Path); err != nil {
				return err
			}
		}
	case disk.TypeHardlink:
		target, ok := strings.CutPrefix(e.Target, dir+"/")
		if !ok {
			return invalidError("a link to %s, which is not of the machine's tree", quoteName(e.Target))
		}
		e.Target = target
	case disk.TypeFile:
		if err := a.meter.file(e.Size); err != nil {
			return err
		}
		r, _, err := fs.Open(source)
		if err != nil {
			return err
		}
		defer r.Close()
		if s, ok := r.(sparseFile); ok {
			return a.w.Replace(e, sparseContent{a.meter.ctx, s})
		}
		return a.w.Replace(e, ctxReader{a.meter.ctx, r})
	case disk.TypeSymlink:
		e.Size = 0
	}
	return a.w.Replace(e, nil)
}

// hideAll hides whatever a path had, in lower layers; the root only loses what is in it.
func (a *applier) hideAll(path string) error {
	if path == "." {
		return a.w.HideBelow(path)
	}
	return a.w.Hide(path)
}
