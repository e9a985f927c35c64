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

// maxPadding bounds what may follow the end of a guest's tar.
const maxPadding = 1 << 20

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
// a folder takes the source below its own name, one that does not exist becomes the copy, and
// a source that ends in /. is what is in the folder. One side is NAME:PATH. What cannot be
// copied is left out; the error that says so comes after everything else.
func (e *Engine) Copy(ctx context.Context, src, dst string, o CopyOptions) (CopyResult, error) {
	srcName, srcPath, srcIn := splitGuest(src)
	dstName, dstPath, dstIn := splitGuest(dst)
	switch {
	case srcIn && dstIn:
		return CopyResult{}, machine.Usagef("copy.sides", "copy to this host first", "only one side of a copy can be in a machine")
	case !srcIn && !dstIn:
		return CopyResult{}, machine.Usagef("copy.sides", "write one side as NAME:PATH, for example mvmctl cp notes.txt web:/tmp/", "neither side of the copy is in a machine")
	case srcPath+dstPath == "":
		name := srcName + dstName + ":"
		return CopyResult{}, machine.Usagef("usage.args", "write NAME:PATH, for example "+name+"/tmp/", "no path after %q", name)
	case srcIn:
		return e.copyOut(ctx, srcName, srcPath, dst, o)
	}
	return e.copyIn(ctx, src, dstName, dstPath, o)
}

// meansFolder says whether a path as the user wrote it can only be a folder.
func meansFolder(p string) bool { return strings.HasSuffix(p, "/") || meansContent(p) }

// meansContent says whether a source stands for what is in the folder, and not for the folder.
func meansContent(p string) bool { return p == "." || strings.HasSuffix(p, "/.") }

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
	return attended(c.Agent(), name), c.Close, nil
}

// receive hands the tar of a guest's path to read. An error of the guest's comes after the
// tar's end, where a reader of tars no longer looks.
func receive(ctx context.Context, c *agentclient.Client, p string, read func(io.Reader) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(c.CopyOut(ctx, p, pw)) }()
	defer func() { _ = pr.Close() }()
	if err := read(pr); err != nil {
		return err
	}
	_, err := io.CopyN(io.Discard, pr, maxPadding)
	switch {
	case err == nil:
		return machine.Errorf(agentproto.CodeProtocol, "do not rely on the copy", "the guest went on sending after the end of the copy")
	case errors.Is(err, io.EOF):
		return nil
	}
	return err
}

// guestKind is what a guest path is, links followed: a tar type flag, or 0 when there is nothing.
func guestKind(ctx context.Context, c *agentclient.Client, p string) (byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var kind byte
	err := receive(ctx, c, followed(p), func(r io.Reader) error {
		h, err := tar.NewReader(r).Next() // its first entry is the path itself
		if err != nil {
			return err
		}
		kind = h.Typeflag
		return errKnown
	})
	var pe *agentproto.Error
	switch {
	case errors.Is(err, errKnown):
		return kind, nil
	case errors.As(err, &pe) && pe.Code == agentproto.CodePath:
		return 0, nil
	}
	return 0, err
}

var errKnown = errors.New("its kind is known")

// followed is p such that the agent follows a link in its last place.
func followed(p string) string {
	if meansFolder(p) {
		return p
	}
	return p + "/"
}

func (e *Engine) copyIn(ctx context.Context, src, name, dst string, o CopyOptions) (CopyResult, error) {
	var info os.FileInfo
	if src != "-" {
		var err error
		if info, err = localSource(src, o.FollowLink); err != nil {
			return CopyResult{}, err
		}
	}
	c, done, err := e.agentOf(ctx, name)
	if err != nil {
		return CopyResult{}, err
	}
	defer done()
	if info == nil {
		return result(c.CopyIn(ctx, dst, o.Stdin))
	}
	kind, err := guestKind(ctx, c, dst)
	if err != nil {
		return CopyResult{}, guestError(err)
	}
	dir, base := dst, ""
	switch {
	case kind == tar.TypeDir && meansContent(src):
		base = "."
	case kind == tar.TypeDir:
		base = filepath.Base(absolute(src))
	case kind != 0 && info.IsDir():
		return CopyResult{}, machine.Errorf(agentproto.CodePath, "choose another destination", "a folder cannot replace %s in machine %q, which is none", dst, name)
	case meansFolder(dst) && kind != 0:
		return CopyResult{}, machine.Errorf(agentproto.CodePath, "leave the / at its end out to replace it", "%s in machine %q is not a folder", dst, name)
	case meansFolder(dst) && !info.IsDir():
		return CopyResult{}, machine.Errorf(agentproto.CodePath, fmt.Sprintf("mvmctl exec %s -- mkdir -p %s", name, dst), "there is no folder %s in machine %q", dst, name)
	default:
		dir, base = path.Split(path.Clean("/" + dst))
	}
	packed := make(chan error, 1)
	pr, pw := io.Pipe()
	go func() {
		left, err := packLocal(ctx, pw, src, base, o.FollowLink)
		pw.CloseWithError(err)
		packed <- left.err()
	}()
	res, err := result(c.CopyIn(ctx, dir, pr))
	_ = pr.Close()
	if left := <-packed; err == nil {
		err = left
	}
	return res, err
}

// localSource looks at what is to be copied from this host.
func localSource(src string, follow bool) (os.FileInfo, error) {
	info, err := os.Lstat(src)
	if err == nil && follow {
		info, err = os.Stat(src)
	}
	switch {
	case err != nil:
		return nil, localError(err)
	case info.Mode().Type()&^(os.ModeDir|os.ModeSymlink) != 0:
		return nil, machine.Errorf("copy.local", "pass it on with mvmctl exec NAME -- sh -c 'cat >FILE' <"+src, "%s: %s", src, whySpecial)
	}
	return info, nil
}

func result(r agentproto.CopyResult, err error) (CopyResult, error) {
	return CopyResult{Files: r.Files, Bytes: r.Bytes}, guestError(err)
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
	from := src
	if o.FollowLink {
		from = followed(src)
	}
	var to target
	if dst != "-" {
		var err error
		if to, err = localTarget(dst); err != nil {
			return CopyResult{}, err
		}
	}
	if dst != "-" && to.base == "" {
		// The name is what was asked for, never what the guest says (CVE-2019-6111 is scp's case).
		to.base = path.Base(path.Clean("/" + src))
		if meansContent(src) {
			to.base, to.onlyFolder = ".", true
		}
		if to.base == "/" {
			return CopyResult{}, machine.Usagef("copy.path", "write "+name+":/. for what is in it, or name a destination that does not exist yet", "the guest's whole root has no name to copy it under")
		}
	}
	c, done, err := e.agentOf(ctx, name)
	if err != nil {
		return CopyResult{}, err
	}
	defer done()
	if dst == "-" {
		return CopyResult{}, guestError(c.CopyOut(ctx, from, o.Stdout))
	}
	var res CopyResult
	err = receive(ctx, c, from, func(r io.Reader) error {
		var err error
		res, err = unpackLocal(r, to)
		return err
	})
	return res, guestError(err)
}

// target is where a copy goes on this host.
type target struct {
	dir        string // the folder to unpack into
	base       string // name that the copy gets there; "." spreads what is in it; "" keeps its name
	onlyFolder bool   // the copy must be a folder …
	onlyFile   bool   // … or must not be one
	nameless   bool   // the copy is a guest's whole root: its entries have no first element to replace
}

// localTarget says where a copy to dst goes; its base is "" when dst is a folder.
func localTarget(dst string) (target, error) {
	info, err := os.Stat(dst)
	switch {
	case err == nil && info.IsDir():
		return target{dir: dst}, nil
	case err == nil && !info.Mode().IsRegular():
		return target{}, machine.Errorf("copy.local", "use - for a tar stream, or mvmctl exec NAME -- cat FILE", "%s is neither a file nor a folder", dst)
	case err == nil:
		// What a link points to is replaced, and not the link.
		if dst, err = filepath.EvalSymlinks(dst); err != nil {
			return target{}, localError(err)
		}
		return target{dir: filepath.Dir(dst), base: filepath.Base(dst), onlyFile: true}, nil
	case !errors.Is(err, os.ErrNotExist):
		return target{}, localError(err)
	}
	abs := absolute(dst)
	if _, err := os.Stat(filepath.Dir(abs)); err != nil {
		return target{}, localError(err)
	}
	return target{dir: filepath.Dir(abs), base: filepath.Base(abs), onlyFolder: meansFolder(dst)}, nil
}
