//go:build unix

package agent

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

const (
	maxLinks   = 40      // symbolic links followed for one path, as the kernel has it
	maxTracked = 100_000 // folders and hard links of one copy that are remembered
	copyBuffer = 64 << 10
	tarRegular = 0o7777 // mode bits that a tar carries
	xattrTar   = "SCHILY.xattr."
)

// resolve returns name, as a process whose root is r would see it, as a path below r without
// symbolic links: absolute links count from r, and .. ends at r. (os.Root refuses absolute
// links even when it is the real root.) last says whether a link in the last place is
// followed. The answer may be out of date at once; opening it through r cannot leave r.
func resolve(r *os.Root, name string, last bool) (string, error) {
	todo := strings.Split(name, "/")
	done := []string{}
	for links := 0; len(todo) > 0; {
		elem := todo[0]
		todo = todo[1:]
		switch elem {
		case "", ".":
			continue
		case "..":
			done = done[:max(len(done)-1, 0)]
			continue
		}
		at := path.Join(append(done, elem)...)
		if len(todo) == 0 && !last {
			return at, nil
		}
		st, err := r.Lstat(at)
		if err != nil {
			return "", err
		}
		if st.Mode()&fs.ModeSymlink == 0 {
			done = append(done, elem)
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "open", Path: at, Err: syscall.ELOOP}
		}
		target, err := r.Readlink(at)
		if err != nil {
			return "", err
		}
		if path.IsAbs(target) {
			done = done[:0]
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return path.Join(append([]string{"."}, done...)...), nil
}

// pathError is err as copy.path, with the name as the host asked for it.
func pathError(name string, err error) *agentproto.Error {
	return agentproto.Errorf(agentproto.CodePath, "check the path in the guest", "%.1000s: %v", name, cause(err))
}

// cause is err without the path that os puts in front: it is ours, not the user's.
func cause(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	if l, ok := errors.AsType[*os.LinkError](err); ok {
		return l.Err
	}
	return err
}

// requestedPath returns the path that a copy is about; false: the request has been refused.
func requestedPath(w http.ResponseWriter, r *http.Request) (string, bool) {
	p := r.URL.Query().Get("path")
	if p == "" || strings.IndexByte(p, 0) >= 0 {
		refuse(w, agentproto.Errorf(agentproto.CodeInvalid, "", "no path, or an impossible one"))
		return "", false
	}
	return p, true
}

// requestedRoot is requestedPath with the folder that copies are confined to, and the path as
// resolve has it. follow says whether a link in its last place is followed.
func (a *Agent) requestedRoot(w http.ResponseWriter, r *http.Request, follow func(name string) bool) (root *os.Root, name, at string, ok bool) {
	if name, ok = requestedPath(w, r); !ok {
		return nil, "", "", false
	}
	root, err := os.OpenRoot(a.opts.Root)
	if err == nil {
		if at, err = resolve(root, name, follow(name)); err != nil {
			root.Close()
		}
	}
	if err != nil {
		refuse(w, pathError(name, err))
		return nil, "", "", false
	}
	return root, name, at, true
}

// leftOut counts what a copy had to leave out and keeps the first reason.
type leftOut struct {
	n     int
	first string
}

func (l *leftOut) add(name, why string) {
	if l.n++; l.n == 1 {
		l.first = fmt.Sprintf("%.1000s: %s", name, why)
	}
}

// err is nil when nothing was left out.
func (l *leftOut) err() *agentproto.Error {
	switch l.n {
	case 0:
		return nil
	case 1:
		return agentproto.Errorf(agentproto.CodeCopy, "everything else was copied", "%s", l.first)
	}
	return agentproto.Errorf(agentproto.CodeCopy, "everything else was copied", "%s (and %d more)", l.first, l.n-1)
}

func (a *Agent) serveCopyOut(w http.ResponseWriter, r *http.Request) {
	root, name, at, ok := a.requestedRoot(w, r, func(name string) bool {
		return strings.HasSuffix(name, "/") || strings.HasSuffix(name, "/.")
	})
	if !ok {
		return
	}
	defer root.Close()
	out := bufio.NewWriterSize(w, copyBuffer)
	p := newPacker(root, out)
	if e := p.fit(at, name); e != nil {
		refuse(w, e)
		return
	}
	w.Header().Set("Content-Type", "application/x-tar")
	w.Header().Set("Trailer", agentproto.TrailerError)
	w.WriteHeader(http.StatusOK)
	// The entry has the name that was asked for, whatever links led to it.
	base := path.Base(path.Clean("/" + name))
	if base == "/" {
		base = "."
	}
	err := p.add(at, base)
	if err == nil {
		err = p.close()
	}
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		setTrailer(w, agentproto.Errorf(agentproto.CodeCopy, "", "packing %.1000s: %v", name, err))
		return
	}
	setTrailer(w, p.missing())
}

// takes refuses a folder in which no file can be made: its entries are the kernel's.
func takes(root *os.Root, at, name string) *agentproto.Error {
	f, err := root.Open(at)
	if err != nil {
		return pathError(name, err)
	}
	defer f.Close()
	if pseudo(f) {
		return agentproto.Errorf(agentproto.CodeCopy, "write to one of its files: mvmctl exec NAME -- sh -c 'cat >FILE' <FILE", "%.1000s: a folder whose files the kernel makes up takes no copy", name)
	}
	return nil
}

func (a *Agent) serveCopyIn(w http.ResponseWriter, r *http.Request) {
	root, name, at, ok := a.requestedRoot(w, r, func(string) bool { return true })
	if !ok {
		return
	}
	defer root.Close()
	dir, err := root.OpenRoot(at)
	if err != nil {
		refuse(w, pathError(name, err))
		return
	}
	defer dir.Close()
	if e := takes(root, at, name); e != nil {
		refuse(w, e)
		return
	}
	u := newUnpacker(dir)
	if e := u.run(r.Body); e != nil {
		refuse(w, e)
		return
	}
	answer(w, agentproto.CopyResult{Files: u.files, Bytes: u.bytes, Error: u.left.err()})
}
