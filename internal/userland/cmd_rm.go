package userland

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// remover is one run of rm.
type remover struct {
	c              *call
	force, ask     bool
	verbose        bool
	recursive, dir bool
	status         int
}

func runRM(c *call) int {
	o, names, ok := c.parse("rRfivdI\x01\x02", longOptions{
		"recursive": 'r', "force": 'f', "interactive": 'i', "verbose": 'v', "dir": 'd',
		"preserve-root": '\x01', "no-preserve-root": '\x02', "one-file-system": '\x01',
	})
	if !ok {
		return exitFailure
	}
	r := &remover{
		c: c, force: o.last('f', 'i') == 'f', ask: o.last('f', 'i') == 'i', verbose: o.has('v'),
		recursive: o.has('r', 'R'), dir: o.has('d'),
	}
	if len(names) == 0 {
		if r.force {
			return exitOK
		}
		return c.usageError("missing operand")
	}
	for _, name := range names {
		if c.stopped() {
			break
		}
		base := filepath.Base(strings.TrimRight(name, "/"))
		switch {
		case base == ".." || strings.HasSuffix(strings.TrimRight(name, "/"), "/.") || strings.TrimRight(name, "/") == ".":
			r.status = c.errorf("refusing to remove '.' or '..' directory: '%s'", name)
		case r.recursive && isRoot(c.path(name)) && !o.has('\x02'):
			r.status = c.errorf("it is dangerous to operate recursively on '%s'", name)
		default:
			r.remove(name, 0)
		}
	}
	return r.status
}

func isRoot(path string) bool {
	a, err := os.Lstat(path)
	if err != nil {
		return false
	}
	b, err := os.Lstat("/")
	return err == nil && os.SameFile(a, b)
}

func (r *remover) remove(name string, depth int) {
	path := r.c.path(name)
	info, err := os.Lstat(path)
	if err != nil {
		if !(r.force && errors.Is(err, fs.ErrNotExist)) {
			r.status = r.c.fail(name, err)
		}
		return
	}
	if !info.IsDir() {
		if r.ask && !r.c.ask("remove '%s'? ", name) {
			return
		}
		r.finish(name, os.Remove(path), "removed '%s'\n")
		return
	}
	switch {
	case r.dir && !r.recursive:
		r.finish(name, rmdir(path), "removed directory '%s'\n")
		return
	case !r.recursive:
		r.status = r.c.errorf("%s: Is a directory", name)
		return
	case !r.ask && !r.verbose:
		// Works through directory handles: nobody can swap a directory for a
		// link while we walk.
		if err := os.RemoveAll(path); err != nil {
			var pe *fs.PathError
			if errors.As(err, &pe) && r.c.dir != "" {
				name = strings.TrimPrefix(pe.Path, strings.TrimSuffix(r.c.dir, "/")+"/")
			}
			r.status = r.c.fail(name, err)
		}
		return
	}
	if depth > maxDepth || (r.ask && !r.c.ask("descend into directory '%s'? ", name)) {
		return
	}
	list, err := os.ReadDir(path)
	if err != nil {
		r.status = r.c.fail(name, err)
	}
	for _, d := range list {
		if r.c.stopped() {
			return
		}
		r.remove(strings.TrimSuffix(name, "/")+"/"+d.Name(), depth+1)
	}
	if r.ask && !r.c.ask("remove directory '%s'? ", name) {
		return
	}
	r.finish(name, rmdir(path), "removed directory '%s'\n")
}

func (r *remover) finish(name string, err error, message string) {
	switch {
	case err != nil && !(r.force && errors.Is(err, fs.ErrNotExist)):
		r.status = r.c.fail(name, err)
	case err == nil && r.verbose:
		r.c.printf(message, name)
	}
}
