package userland

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// copier is one run of cp, or of mv across file systems.
type copier struct {
	c          *call
	recursive  bool
	follow     byte // 'L' all links, 'H' operands only, 'P' none
	preserve   bool // mode, owner, times
	keepLinks  bool // hard links stay hard links
	force      bool
	noClobber  bool
	ask        bool
	update     bool
	verbose    bool
	link       byte // 'l' hard links, 's' symbolic links instead of copies
	linked     map[fileID]string
	targetRoot fileID
	status     int
}

func runCP(c *call) int {
	o, names, ok := c.parse("rRaApdPLHfinuvlsTt:\x01::\x02:", longOptions{
		"recursive": 'r', "archive": 'a', "preserve": '\x01', "no-dereference": 'P', "dereference": 'L', "force": 'f',
		"interactive": 'i', "no-clobber": 'n', "update": 'u', "verbose": 'v', "link": 'l', "symbolic-link": 's',
		"no-target-directory": 'T', "target-directory": 't', "reflink": '\x02', "sparse": '\x02',
	})
	if !ok {
		return exitFailure
	}
	cp := &copier{
		c: c, recursive: o.has('r', 'R', 'a', 'A'), preserve: o.has('p', 'a', '\x01'), keepLinks: o.has('a', 'd'),
		force: o.has('f'), update: o.has('u'), verbose: o.has('v'), link: byte(o.last('l', 's')), linked: map[fileID]string{},
	}
	switch o.last('i', 'n', 'f') {
	case 'i':
		cp.ask = true
	case 'n':
		cp.noClobber = true
	}
	cp.follow = 'L'
	if cp.recursive {
		cp.follow = 'P'
	}
	switch f := o.last('L', 'P', 'd', 'a', 'H'); f {
	case 'L', 'H', 'P':
		cp.follow = byte(f)
	case 'd', 'a':
		cp.follow = 'P'
	}
	pairs, ok := c.targets(o, names)
	if !ok {
		return exitFailure
	}
	for _, p := range pairs {
		if c.stopped() {
			break
		}
		cp.targetRoot = fileID{}
		cp.copy(p.from, p.to, 0)
	}
	return cp.status
}

// pair is a source and where it goes.
type pair struct{ from, to string }

// targets works out the destinations of cp, mv and ln.
func (c *call) targets(o options, names []string) ([]pair, bool) {
	dir, inDir := o.get('t')
	if !inDir {
		if len(names) < 2 {
			if len(names) == 0 {
				c.usageError("missing file operand")
			} else {
				c.usageError("missing destination file operand after '%s'", names[0])
			}
			return nil, false
		}
		dir, names = names[len(names)-1], names[:len(names)-1]
		st, err := os.Stat(c.path(dir))
		inDir = err == nil && st.IsDir() && !o.has('T')
		if !inDir && len(names) > 1 {
			c.errorf("%s: Not a directory", dir)
			return nil, false
		}
		if !inDir {
			return []pair{{names[0], dir}}, true
		}
	}
	var pairs []pair
	for _, name := range names {
		base := filepath.Base(name)
		to := strings.TrimSuffix(dir, "/") + "/" + base
		if base == "." || base == ".." || base == "/" {
			to = dir
		}
		pairs = append(pairs, pair{name, to})
	}
	return pairs, true
}

func (cp *copier) fail(name string, err error) { cp.status = cp.c.fail(name, err) }

func (cp *copier) copy(from, to string, depth int) {
	if cp.c.stopped() || depth > maxDepth {
		return
	}
	src, dst := cp.c.path(from), cp.c.path(to)
	stat := os.Lstat
	if cp.follow == 'L' || (cp.follow == 'H' && depth == 0) {
		stat = os.Stat
	}
	info, err := stat(src)
	if err != nil {
		cp.fail(from, err)
		return
	}
	if info.IsDir() {
		cp.copyDir(from, to, info, depth)
		return
	}
	if old, err := os.Stat(dst); err == nil && os.SameFile(info, old) && cp.link == 0 {
		cp.c.errorf("'%s' and '%s' are the same file", from, to)
		cp.status = exitFailure
		return
	}
	if old, err := os.Lstat(dst); err == nil && !cp.mayReplace(from, to, info, old) {
		return
	}
	if cp.keepLinks && statOf(info).nlink > 1 {
		if first, ok := cp.linked[idOf(info)]; ok {
			if err := replaceBy(dst, func() error { return os.Link(first, dst) }); err != nil {
				cp.fail(to, err)
			}
			return
		}
		cp.linked[idOf(info)] = dst
	}
	if err := cp.copyOne(src, dst, from, info); err != nil {
		name := to
		var pe *fs.PathError
		if errors.As(err, &pe) && pe.Path == src {
			name = from
		}
		cp.fail(name, err)
		return
	}
	if cp.verbose {
		cp.c.printf("'%s' -> '%s'\n", from, to)
	}
}

// mayReplace decides about a destination that exists.
func (cp *copier) mayReplace(from, to string, info, old fs.FileInfo) bool {
	switch {
	case old.IsDir():
		cp.c.errorf("cannot overwrite directory '%s' with non-directory '%s'", to, from)
		cp.status = exitFailure
		return false
	case cp.noClobber:
		return false
	case cp.update && !info.ModTime().After(old.ModTime()):
		return false
	case cp.ask:
		return cp.c.ask("overwrite '%s'? ", to)
	}
	return true
}

// replaceBy makes a new file in the place of path.
func replaceBy(path string, create func() error) error {
	err := create()
	if errors.Is(err, fs.ErrExist) {
		if err := os.Remove(path); err != nil {
			return err
		}
		err = create()
	}
	return err
}

func (cp *copier) copyOne(src, dst, from string, info fs.FileInfo) error {
	var err error
	switch mode := info.Mode(); {
	case cp.link == 'l':
		return replaceIf(cp.force, dst, func() error { return os.Link(src, dst) })
	case cp.link == 's':
		return replaceIf(cp.force, dst, func() error { return os.Symlink(from, dst) })
	case mode&fs.ModeSymlink != 0:
		var target string
		if target, err = os.Readlink(src); err == nil {
			err = replaceBy(dst, func() error { return os.Symlink(target, dst) })
		}
	case mode.IsRegular() || !cp.recursive:
		err = cp.copyData(src, dst, info)
	default:
		err = replaceBy(dst, func() error { return makeSpecial(dst, info) })
	}
	if err != nil {
		return err
	}
	return cp.copyAttributes(dst, info)
}

func replaceIf(force bool, path string, create func() error) error {
	if force {
		return replaceBy(path, create)
	}
	return create()
}

func (cp *copier) copyData(src, dst string, info fs.FileInfo) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	perm := info.Mode().Perm()
	if cp.preserve {
		perm &= 0o700 // nobody else reads it before it has its owner
	}
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil && cp.force {
		if rerr := os.Remove(dst); rerr == nil {
			out, err = os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
		}
	}
	if err != nil {
		return err
	}
	if _, err := cp.c.copyData(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

func (cp *copier) copyAttributes(dst string, info fs.FileInfo) error {
	if !cp.preserve {
		return nil
	}
	s := statOf(info)
	// Only root may give files away; for others that is no error.
	chowned := os.Lchown(dst, int(s.uid), int(s.gid)) == nil
	link := info.Mode()&fs.ModeSymlink != 0
	if !link {
		mode := unixMode(info.Mode())
		if !chowned {
			mode &^= setUID | setGID
		}
		if err := os.Chmod(dst, goMode(mode)); err != nil {
			return err
		}
	}
	return setTimes(dst, s.atime, info.ModTime(), false, link)
}

func (cp *copier) copyDir(from, to string, info fs.FileInfo, depth int) {
	if !cp.recursive {
		cp.c.errorf("-r not specified; omitting directory '%s'", from)
		cp.status = exitFailure
		return
	}
	src, dst := cp.c.path(from), cp.c.path(to)
	if idOf(info) == cp.targetRoot {
		return // "cp -r a a/b": the copy must not copy itself
	}
	old, err := os.Stat(dst)
	created := false
	switch {
	case err == nil && !old.IsDir():
		cp.c.errorf("cannot overwrite non-directory '%s' with directory '%s'", to, from)
		cp.status = exitFailure
		return
	case err != nil:
		// Writable for us until the contents are there.
		if err := os.Mkdir(dst, info.Mode().Perm()|0o700); err != nil {
			cp.fail(to, err)
			return
		}
		created = true
		if old, err = os.Stat(dst); err != nil {
			cp.fail(to, err)
			return
		}
	case os.SameFile(old, info):
		cp.c.errorf("'%s' and '%s' are the same file", from, to)
		cp.status = exitFailure
		return
	}
	if depth == 0 {
		cp.targetRoot = idOf(old)
		if within(src, dst) {
			cp.c.errorf("cannot copy a directory, '%s', into itself, '%s'", from, to)
			cp.status = exitFailure
		}
	}
	if cp.verbose && created {
		cp.c.printf("'%s' -> '%s'\n", from, to)
	}
	list, err := os.ReadDir(src)
	if err != nil {
		cp.fail(from, err)
	}
	for _, d := range list {
		cp.copy(strings.TrimSuffix(from, "/")+"/"+d.Name(), strings.TrimSuffix(to, "/")+"/"+d.Name(), depth+1)
	}
	switch {
	case cp.preserve:
		err = cp.copyAttributes(dst, info)
	case created && info.Mode().Perm()&0o700 != 0o700:
		err = os.Chmod(dst, goMode(unixMode(info.Mode())&0o777&^uint32(currentUmask())))
	default:
		err = nil
	}
	if err != nil {
		cp.fail(to, err)
	}
}

// within reports whether path lies in the tree below dir.
func within(dir, path string) bool {
	d, err1 := filepath.EvalSymlinks(dir)
	p, err2 := filepath.EvalSymlinks(path)
	return err1 == nil && err2 == nil && strings.HasPrefix(p, strings.TrimSuffix(d, "/")+"/")
}

func runMV(c *call) int {
	o, names, ok := c.parse("finuvTt:", longOptions{
		"force": 'f', "interactive": 'i', "no-clobber": 'n', "update": 'u', "verbose": 'v',
		"no-target-directory": 'T', "target-directory": 't',
	})
	if !ok {
		return exitFailure
	}
	pairs, ok := c.targets(o, names)
	if !ok {
		return exitFailure
	}
	mode := o.last('f', 'i', 'n')
	status := exitOK
	for _, p := range pairs {
		if c.stopped() {
			break
		}
		src, dst := c.path(p.from), c.path(p.to)
		info, err := os.Lstat(src)
		if err != nil {
			status = c.fail(p.from, err)
			continue
		}
		if old, err := os.Lstat(dst); err == nil {
			switch {
			case os.SameFile(info, old) && filepath.Clean(src) == filepath.Clean(dst):
				status = c.errorf("'%s' and '%s' are the same file", p.from, p.to)
				continue
			case mode == 'n', o.has('u') && !info.ModTime().After(old.ModTime()):
				continue
			case mode == 'i' && !c.ask("overwrite '%s'? ", p.to):
				continue
			case old.IsDir() && !info.IsDir():
				status = c.errorf("cannot overwrite directory '%s' with non-directory", p.to)
				continue
			}
		}
		if err := c.move(src, dst, p); err != nil {
			status = c.fail(p.from, err)
			continue
		}
		if o.has('v') {
			c.printf("renamed '%s' -> '%s'\n", p.from, p.to)
		}
	}
	return status
}

var errCopyIncomplete = errors.New("not removed, because it was not copied completely")

// move renames, or copies and removes across file systems.
func (c *call) move(src, dst string, p pair) error {
	err := renameOnly(src, dst)
	if !errors.Is(err, syscall.EXDEV) {
		return err
	}
	cp := &copier{
		c: c, recursive: true, preserve: true, keepLinks: true, force: true, follow: 'P', linked: map[fileID]string{},
	}
	if old, err := os.Lstat(dst); err == nil && !old.IsDir() {
		if err := os.Remove(dst); err != nil {
			return err
		}
	}
	cp.copy(p.from, p.to, 0)
	if cp.status != exitOK || c.ctx.Err() != nil {
		return errCopyIncomplete
	}
	return os.RemoveAll(src)
}

// renameOnly is rename(2); os.Rename would refuse to replace an empty directory.
func renameOnly(src, dst string) error { return syscall.Rename(src, dst) }
