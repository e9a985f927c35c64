package userland

import (
	"archive/tar"
	"bytes"
	"context"
	"testing"
)

func contextWithCancel(t *testing.T) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	return ctx, cancel
}

// archive makes a tar archive; regular files hold "hostile".
func archive(t *testing.T, headers []tar.Header) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.Mode = 0o644
		switch h.Typeflag {
		case tar.TypeDir:
			h.Mode = 0o755
		case tar.TypeReg:
			h.Size = 7
		}
		must(t, w.WriteHeader(&h))
		if h.Size > 0 {
			_, err := w.Write([]byte("hostile"))
			must(t, err)
		}
	}
	must(t, w.Close())
	return b.String()
}

// hostileArchives try to write dir/outside or dir/new from a directory in dir.
func hostileArchives(dir string) map[string][]tar.Header {
	file := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	return map[string][]tar.Header{
		"dotdot":         {file("../outside"), file("../new")},
		"absolute":       {file(dir + "/outside"), file(dir + "/new")},
		"inner-dotdot":   {file("a/../../outside"), file("a/../../new")},
		"link-to-parent": {link("l", ".."), file("l/outside"), file("l/new")},
		"absolute-link":  {link("l", dir), file("l/outside"), file("l/new")},
		"file-link":      {link("l", "../outside"), file("l")},
		"chained-links":  {link("a", "."), link("a/b", ".."), file("a/b/outside"), file("b/new")},
		"hard-link":      {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../outside"}, file("h")},
		"hard-to-link":   {link("l", "../outside"), {Name: "h", Typeflag: tar.TypeLink, Linkname: "l"}, file("h")},
		"absolute-hard":  {{Name: "h", Typeflag: tar.TypeLink, Linkname: dir + "/outside"}, file("h")},
		"dir-over-link":  {link("l", ".."), {Name: "l", Typeflag: tar.TypeDir}, file("l/new")},
		"device-in-link": {link("l", ".."), {Name: "l/new", Typeflag: tar.TypeFifo}},
	}
}
