package layer

import (
	"archive/tar"
	"context"
	"errors"
	"io"
)

// Names tells the names of a tar file's entries, as they stand there, until each answers false.
// It reads no further than that, and nothing behind the end mark: it is for a look at what a
// file is, not for judging it.
func Names(ctx context.Context, l Layer, each func(name string) bool) error {
	m := meter{ctx: ctx, limits: Limits{}.orDefaults()}
	s, err := openStream(&m, &l, l.Name)
	if err != nil {
		return err
	}
	defer s.close()
	t := tarReader{s: s, tr: tar.NewReader(s)}
	for {
		h, err := t.next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return s.explain(err, "")
		}
		if err := m.entry(h.Name); err != nil {
			return s.explain(err, h.Name)
		}
		if h.Typeflag != tar.TypeXGlobalHeader && !each(h.Name) {
			return nil
		}
	}
}
