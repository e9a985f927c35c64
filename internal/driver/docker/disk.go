package docker

import (
	"archive/tar"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/driver"
)

// maxChanges bounds the engine's list of changes.
const maxChanges = 256 << 20

var (
	_ driver.Exporter = (*Driver)(nil)
	_ driver.Differ   = (*Driver)(nil)
)

// foreign reports whether a path of a container's root is not the machine's: what the engine makes
// to mount things on.
func foreign(name string) bool {
	name = strings.Trim(path.Clean("/"+name), "/")
	return name == ".dockerenv" || strings.HasPrefix(name, "dev/") || strings.HasPrefix(name+"/", agentproto.GuestDir[1:]+"/")
}

// Export implements driver.Exporter.
func (d *Driver) Export(ctx context.Context, id, dir string) (io.ReadCloser, error) {
	c, err := d.client(ctx, dir)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	resp, err := c.do(ctx, http.MethodGet, "/containers/"+containerName(id)+"/export", nil, nil, "") //nolint:bodyclose // by the goroutine below
	if err != nil {
		defer cancel()
		return nil, engineError(ctx, "reading the machine's disk", err)
	}
	out, in := io.Pipe()
	go func() {
		defer cancel()
		defer func() { _ = resp.Body.Close() }()
		_ = in.CloseWithError(ownEntries(in, resp.Body))
	}()
	return &export{PipeReader: out, cancel: cancel}, nil
}

// export is a stream that can be given up.
type export struct {
	*io.PipeReader
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (e *export) Close() error {
	e.cancel()
	return e.PipeReader.Close()
}

// ownEntries copies a tar stream without what is foreign in it.
func ownEntries(w io.Writer, r io.Reader) error {
	tr, tw := tar.NewReader(r), tar.NewWriter(w)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return tw.Close()
		}
		if err != nil {
			return fmt.Errorf("reading the machine's disk: %w", err)
		}
		if foreign(h.Name) {
			continue
		}
		h.Format = tar.FormatPAX // whatever the engine used: it holds everything
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("reading the machine's disk: %s: %w", quote(h.Name), err)
		}
		if _, err := io.Copy(tw, tr); err != nil {
			return fmt.Errorf("reading the machine's disk: %w", err)
		}
	}
}

// Changes implements driver.Differ. The engine also names a folder in which something has changed;
// as it does not tell that from a changed folder, those are left out.
func (d *Driver) Changes(ctx context.Context, id, dir string, emit func(driver.Change) error) error {
	c, err := d.client(ctx, dir)
	if err != nil {
		return err
	}
	list, err := c.changes(ctx, containerName(id))
	if err != nil {
		return engineError(ctx, "comparing the machine with its image", err)
	}
	for _, ch := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		out := driver.Change{Kind: "D", Path: ch.Path}
		if ch.Kind != changeDeleted {
			out.Kind = map[int]string{changeModified: "M", changeAdded: "A"}[ch.Kind]
			out.Type, out.Size = c.stat(ctx, containerName(id), ch.Path)
		}
		if out.Kind == "" || out.Kind == "M" && out.Type == "dir" {
			continue
		}
		if err := emit(out); err != nil {
			return err
		}
	}
	return nil
}

// The kinds of changes of the engine's interface.
const (
	changeModified = 0
	changeAdded    = 1
	changeDeleted  = 2
)

type change struct {
	Path string
	Kind int
}

// changes lists a container's changes by path.
func (c *client) changes(ctx context.Context, container string) ([]change, error) {
	resp, err := c.do(ctx, http.MethodGet, "/containers/"+container+"/changes", nil, nil, "")
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	var list []change
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxChanges)).Decode(&list); err != nil {
		return nil, fmt.Errorf("reading the engine's answer: %w", err)
	}
	list = slices.DeleteFunc(list, func(c change) bool { return foreign(c.Path) })
	slices.SortFunc(list, func(a, b change) int { return strings.Compare(a.Path, b.Path) })
	return list, nil
}

// stat returns what a file in a container is; "" when that cannot be said.
func (c *client) stat(ctx context.Context, container, name string) (kind string, size int64) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.do(ctx, http.MethodHead, "/containers/"+container+"/archive", url.Values{"path": {name}}, nil, "")
	if err != nil {
		return "", 0
	}
	_ = resp.Body.Close()
	data, err := base64.StdEncoding.DecodeString(resp.Header.Get("X-Docker-Container-Path-Stat"))
	var said struct {
		Size int64       `json:"size"`
		Mode fs.FileMode `json:"mode"`
	}
	if err != nil || json.Unmarshal(data, &said) != nil {
		return "", 0
	}
	switch said.Mode.Type() {
	case 0:
		return "file", said.Size
	case fs.ModeDir:
		return "dir", 0
	case fs.ModeSymlink:
		return "symlink", 0
	}
	return "other", 0
}
