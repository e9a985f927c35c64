package userland

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

func runLN(c *call) int {
	o, names, ok := c.parse("sfnvrTt:ibP", longOptions{
		"symbolic": 's', "force": 'f', "no-dereference": 'n', "verbose": 'v', "relative": 'r',
		"no-target-directory": 'T', "target-directory": 't',
	})
	if !ok {
		return exitFailure
	}
	if len(names) == 1 && !o.has('t') {
		names = append(names, ".")
	}
	if len(names) == 2 && o.has('n') {
		// -n: a link to a directory is replaced, not entered.
		if st, err := os.Lstat(c.path(names[1])); err == nil && st.Mode()&fs.ModeSymlink != 0 {
			o = append(o, option{flag: 'T'})
		}
	}
	pairs, ok := c.targets(o, names)
	if !ok {
		return exitFailure
	}
	status := exitOK
	for _, p := range pairs {
		to := c.path(p.to)
		create := func() error { return os.Link(c.path(p.from), to) }
		if o.has('s') {
			target := p.from
			if o.has('r') {
				target = c.relativeTo(p.from, filepath.Dir(to))
			}
			create = func() error { return os.Symlink(target, to) }
		} else if st, err := os.Lstat(c.path(p.from)); err == nil && st.IsDir() {
			status = c.errorf("%s: hard link not allowed for directory", p.from)
			continue
		}
		if err := replaceIf(o.has('f'), to, create); err != nil {
			var le *os.LinkError
			name := p.to
			if errors.As(err, &le) && errors.Is(err, fs.ErrNotExist) && !o.has('s') {
				name = p.from
			}
			status = c.fail(name, err)
			continue
		}
		if o.has('v') {
			arrow := "=>"
			if o.has('s') {
				arrow = "->"
			}
			c.printf("'%s' %s '%s'\n", p.to, arrow, p.from)
		}
	}
	return status
}

// relativeTo names target as seen from dir.
func (c *call) relativeTo(target, dir string) string {
	abs, err1 := canonical(c.absolute(target), canonMissing)
	from, err2 := canonical(c.absolute(dir), canonMissing)
	if err1 != nil || err2 != nil {
		return target
	}
	rel, err := filepath.Rel(from, abs)
	if err != nil {
		return target
	}
	return rel
}

// absolute gives the path from the root, without resolving links.
func (c *call) absolute(p string) string {
	p = c.path(p)
	if filepath.IsAbs(p) {
		return p
	}
	wd, err := os.Getwd()
	if err != nil {
		return p
	}
	return wd + "/" + p
}

func runReadlink(c *call) int {
	o, names, ok := c.parse("femnqsvz", longOptions{
		"canonicalize": 'f', "canonicalize-existing": 'e', "canonicalize-missing": 'm',
		"no-newline": 'n', "quiet": 'q', "silent": 's', "verbose": 'v', "zero": 'z',
	})
	if !ok {
		return exitFailure
	}
	if len(names) == 0 {
		return c.usageError("missing operand")
	}
	end := "\n"
	switch {
	case o.has('z'):
		end = "\x00"
	case o.has('n') && len(names) == 1:
		end = ""
	}
	status := exitOK
	for _, name := range names {
		var text string
		var err error
		switch o.last('f', 'e', 'm') {
		case 'f':
			text, err = canonical(c.absolute(name), canonParents)
		case 'e':
			text, err = canonical(c.absolute(name), canonExisting)
		case 'm':
			text, err = canonical(c.absolute(name), canonMissing)
		default:
			text, err = os.Readlink(c.path(name))
		}
		if err != nil {
			status = exitFailure
			if o.has('v') {
				c.fail(name, err)
			}
			continue
		}
		c.out.WriteString(text + end)
	}
	return status
}

func runRealpath(c *call) int {
	o, names, ok := c.parse("emsqzLP\x01:", longOptions{
		"canonicalize-existing": 'e', "canonicalize-missing": 'm', "strip": 's', "no-symlinks": 's', "quiet": 'q', "zero": 'z', "relative-to": '\x01',
	})
	if !ok {
		return exitFailure
	}
	if len(names) == 0 {
		return c.usageError("missing operand")
	}
	end := "\n"
	if o.has('z') {
		end = "\x00"
	}
	mode := canonParents
	switch o.last('e', 'm') {
	case 'e':
		mode = canonExisting
	case 'm':
		mode = canonMissing
	}
	status := exitOK
	for _, name := range names {
		text, err := c.absolute(name), error(nil)
		if name == "" {
			err = syscall.ENOENT
		} else if o.has('s') {
			text = filepath.Clean(text)
		} else {
			text, err = canonical(text, mode)
		}
		if err == nil {
			if base, ok := o.get('\x01'); ok {
				text, err = filepath.Rel(c.absolute(base), text)
			}
		}
		if err != nil {
			status = exitFailure
			if !o.has('q') {
				c.fail(name, err)
			}
			continue
		}
		c.out.WriteString(text + end)
	}
	return status
}

// canonMode says what may be missing of a path.
type canonMode int

const (
	canonExisting canonMode = iota // nothing
	canonParents                   // the last component
	canonMissing                   // anything
)

// maxLinks is the number of symbolic links that a path may lead through, as in
// the kernel (MAXSYMLINKS).
const maxLinks = 40

// canonical resolves every link, "." and ".." of an absolute path.
func canonical(path string, mode canonMode) (string, error) {
	done, rest := "/", strings.Split(path, "/")
	links := 0
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			done = filepath.Dir(done)
			continue
		}
		next := strings.TrimSuffix(done, "/") + "/" + part
		info, err := os.Lstat(next)
		switch {
		case err != nil:
			last := true
			for _, r := range rest {
				last = last && r == ""
			}
			missing := errors.Is(err, fs.ErrNotExist)
			if mode == canonExisting || (mode == canonParents && !(last && missing)) {
				return "", err
			}
			done = next
		case info.Mode()&fs.ModeSymlink != 0:
			if links++; links > maxLinks {
				return "", syscall.ELOOP
			}
			target, err := os.Readlink(next)
			if err != nil {
				return "", err
			}
			if strings.HasPrefix(target, "/") {
				done = "/"
			}
			rest = append(strings.Split(target, "/"), rest...)
		case !info.IsDir() && len(rest) > 0 && mode != canonMissing:
			return "", syscall.ENOTDIR
		default:
			done = next
		}
	}
	return done, nil
}
