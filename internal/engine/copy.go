package engine

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// CopyOptions say how Copy copies.
type CopyOptions struct {
	Stdin      io.Reader // the tar stream when the source is "-"
	Stdout     io.Writer // where the tar stream goes when the destination is "-"
	FollowLink bool      // copy what a source that is a symbolic link points to
}

// CopyResult is what Copy did.
type CopyResult struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

// Copy copies files between the host and a machine, as `docker cp` does: a destination that is
// a folder takes the source below its own name, one that does not exist becomes the copy. One
// side is NAME:PATH.
func (e *Engine) Copy(ctx context.Context, src, dst string, o CopyOptions) (CopyResult, error) {
	srcName, srcPath, srcIn := splitGuest(src)
	dstName, dstPath, dstIn := splitGuest(dst)
	switch {
	case srcIn && dstIn:
		return CopyResult{}, machine.Usagef("copy.sides", "copy to this host first", "only one side of a copy can be in a machine")
	case srcIn:
		return e.copyOut(ctx, srcName, srcPath, dst, o)
	case dstIn:
		return e.copyIn(ctx, src, dstName, dstPath, o)
	}
	return CopyResult{}, machine.Usagef("copy.sides", "write one side as NAME:PATH, for example mvmctl cp notes.txt web:/tmp/", "neither side of the copy is in a machine")
}

// splitGuest splits NAME:PATH. A path with a slash before its colon is a local one.
func splitGuest(s string) (name, p string, in bool) {
	name, p, found := strings.Cut(s, ":")
	if !found || name == "" || strings.ContainsAny(name, "/\\.") {
		return "", "", false
	}
	return name, p, true
}

func (e *Engine) agentOf(ctx context.Context, name string) (*agentclient.Client, func(), error) {
	c, _, err := e.control(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	return agentclient.NewClient(c.Agent()), c.Close, nil
}

// guestKind is what a guest path is: a tar type flag, or 0 when there is nothing.
func guestKind(ctx context.Context, c *agentclient.Client, p string) (byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(c.CopyOut(ctx, p, pw)) }()
	defer func() { _ = pr.Close() }()
	h, err := tar.NewReader(pr).Next() // its first entry is the path itself
	var pe *agentproto.Error
	switch {
	case err == nil:
		return h.Typeflag, nil
	case errors.As(err, &pe) && pe.Code == agentproto.CodePath:
		return 0, nil
	}
	return 0, err
}

func (e *Engine) copyIn(ctx context.Context, src, name, dst string, o CopyOptions) (CopyResult, error) {
	if src != "-" {
		if _, err := os.Lstat(src); err != nil {
			return CopyResult{}, localError(err)
		}
	}
	c, done, err := e.agentOf(ctx, name)
	if err != nil {
		return CopyResult{}, err
	}
	defer done()
	dir, base := dst, ""
	if dir == "" {
		dir = "/"
	}
	if src == "-" {
		return result(c.CopyIn(ctx, dir, o.Stdin))
	}
	kind, err := guestKind(ctx, c, dir)
	if err != nil {
		return CopyResult{}, guestError(err)
	}
	if kind == tar.TypeDir || kind == tar.TypeSymlink && strings.HasSuffix(dst, "/") {
		base = filepath.Base(absolute(src))
	} else {
		if kind == 0 && strings.HasSuffix(dst, "/") {
			return CopyResult{}, machine.Errorf(agentproto.CodePath, fmt.Sprintf("mvmctl exec %s -- mkdir -p %s", name, dst), "there is no folder %s in machine %q", dst, name)
		}
		dir, base = path.Split(path.Clean(dir))
		if dir == "" {
			dir = "/"
		}
	}
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(packLocal(ctx, pw, src, base, o.FollowLink)) }()
	defer func() { _ = pr.Close() }()
	return result(c.CopyIn(ctx, dir, pr))
}

func result(r agentproto.CopyResult, err error) (CopyResult, error) {
	if err != nil {
		return CopyResult{Files: r.Files, Bytes: r.Bytes}, guestError(err)
	}
	return CopyResult{Files: r.Files, Bytes: r.Bytes}, nil
}

func absolute(p string) string {
	if abs, err := filepath.Abs(p); err == nil {
		return abs
	}
	return p
}

func localError(err error) error {
	return machine.Errorf("copy.local", "check the path", "%w", err)
}

func (e *Engine) copyOut(ctx context.Context, name, src, dst string, o CopyOptions) (CopyResult, error) {
	if src == "" {
		return CopyResult{}, machine.Usagef("copy.path", "write NAME:PATH with a path, for example web:/etc/hosts", "no path after %q", name+":")
	}
	c, done, err := e.agentOf(ctx, name)
	if err != nil {
		return CopyResult{}, err
	}
	defer done()
	if dst == "-" {
		return CopyResult{}, guestError(c.CopyOut(ctx, src, o.Stdout))
	}
	dir, base, err := localTarget(dst)
	if err != nil {
		return CopyResult{}, err
	}
	if base == "" {
		// The name is what was asked for, never what the guest says (CVE-2019-6111 is scp's case).
		if base = path.Base(path.Clean("/" + src)); base == "/" {
			return CopyResult{}, machine.Usagef("copy.path", "name a destination that does not exist yet, or copy one folder below /", "the guest's whole root has no name to copy it under")
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(c.CopyOut(ctx, src, pw)) }()
	defer func() { _ = pr.Close() }()
	res, err := unpackLocal(pr, dir, base)
	return res, guestError(err)
}

// localTarget splits a local destination into the folder to unpack into and the name that the
// copy gets there; "" keeps the source's name.
func localTarget(dst string) (dir, base string, err error) {
	info, err := os.Stat(dst)
	switch {
	case err == nil && info.IsDir():
		return dst, "", nil
	case err == nil:
		return filepath.Dir(dst), filepath.Base(dst), nil
	case !errors.Is(err, os.ErrNotExist):
		return "", "", localError(err)
	case strings.HasSuffix(dst, "/"):
		return "", "", machine.Errorf("copy.local", "make the folder first: mkdir -p "+dst, "there is no folder %s", dst)
	}
	if _, err := os.Stat(filepath.Dir(absolute(dst))); err != nil {
		return "", "", localError(err)
	}
	return filepath.Dir(absolute(dst)), filepath.Base(absolute(dst)), nil
}
