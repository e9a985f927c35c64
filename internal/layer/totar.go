package layer

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// ToTar writes the tree of an image as a tar file that FromTar makes the same tree of. The same
// tree gives the same bytes: entries come in the order of their names, extended attributes and
// nanoseconds as PAX records. Holes are written as zeros. Sockets, which tar does not know, are
// left out and named in Stats.
//
// Apply makes the same tree too, but takes a name that begins with ".wh." for a whiteout.
func ToTar(ctx context.Context, fs *disk.FS, w io.Writer) (Stats, error) {
	var stats Stats
	tw := tar.NewWriter(w)
	buf := make([]byte, 1<<20)
	err := fs.Walk(func(e disk.Entry) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.Type == disk.TypeSocket {
			stats.skip(e.Path + ": a socket")
			return nil
		}
		stats.Entries++
		stats.Bytes += fileSize(e)
		h, err := tarHeader(e)
		if err == nil {
			err = tw.WriteHeader(h)
		}
		if err == nil && e.Type == disk.TypeFile {
			err = copyToTar(ctx, tw, fs, e.Path, buf)
		}
		if err != nil {
			return fmt.Errorf("packing %s: %w", quoteName(e.Path), err)
		}
		return nil
	})
	if err != nil {
		return stats, err
	}
	if err := tw.Close(); err != nil {
		return stats, fmt.Errorf("packing: %w", err)
	}
	return stats, nil
}

func fileSize(e disk.Entry) int64 {
	if e.Type == disk.TypeFile {
		return e.Size
	}
	return 0
}

func copyToTar(ctx context.Context, tw *tar.Writer, fs *disk.FS, path string, buf []byte) error {
	r, _, err := fs.Open(path)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{tw}, ctxReader{ctx, r}, buf)
	return err
}

// tarHeader is the reverse of convert.
func tarHeader(e disk.Entry) (*tar.Header, error) {
	h := &tar.Header{
		Name: e.Path, Mode: int64(e.Mode), Uid: int(e.UID), Gid: int(e.GID), ModTime: e.ModTime,
		Format: tar.FormatPAX,
	}
	switch e.Type {
	case disk.TypeFile:
		h.Typeflag, h.Size = tar.TypeReg, e.Size
	case disk.TypeDir:
		h.Typeflag, h.Name = tar.TypeDir, e.Path+"/"
		if e.Path == "." {
			h.Name = "./"
		}
	case disk.TypeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Target
	case disk.TypeHardlink:
		// It repeats the file's mode, owner and attributes: Docker gives what it unpacks those of
		// its last name.
		h.Typeflag, h.Linkname = tar.TypeLink, e.Target
	case disk.TypeChar:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(e.Major), int64(e.Minor)
	case disk.TypeBlock:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, int64(e.Major), int64(e.Minor)
	case disk.TypeFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		return nil, fmt.Errorf("a %v", e.Type)
	}
	for name, value := range e.Xattrs {
		if strings.Contains(name, "=") {
			return nil, machine.Errorf("archive.name", "remove the attribute", "tar cannot hold the extended attribute %q", name)
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrRecord+name] = string(value)
	}
	return h, nil
}
