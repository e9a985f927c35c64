package userland

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// archiver is one run of tar.
type archiver struct {
	c              *call
	dir            string // -C
	verbose        bool
	gzip           bool
	keepOld        bool
	follow         bool
	absolute       bool
	toOut          bool
	preserve       bool
	owners         bool
	strip          int
	exclude        []func(string) bool
	members        []string
	matched        []bool
	links          map[fileID]string
	users, groups  accounts
	archiveID      fileID
	status         int
	strippedNotice bool
	archiveToOut   bool // the archive goes to standard output
}

func runTar(c *call) int {
	// "tar xzf file": the old style without a dash.
	if len(c.args) > 0 && c.args[0] != "" && c.args[0][0] != '-' {
		c.args = expandOldStyle(c.args)
	}
	o, names, ok := c.parse("cxtzvpkOhPf:C:X:T:jJoaSUm\x01:\x02:\x03\x04\x05", longOptions{
		"create": 'c', "extract": 'x', "get": 'x', "list": 't', "gzip": 'z', "gunzip": 'z', "verbose": 'v', "preserve-permissions": 'p',
		"keep-old-files": 'k', "to-stdout": 'O', "dereference": 'h', "absolute-names": 'P', "file": 'f', "directory": 'C',
		"exclude": '\x01', "strip-components": '\x02', "no-same-owner": '\x03', "same-owner": '\x04', "numeric-owner": '\x05',
		"no-same-permissions": '\x05', "overwrite": 'U',
	})
	if !ok {
		return exitUsage
	}
	if o.has('j', 'J') {
		c.errorf("only gzip compression is available here")
		return exitUsage
	}
	a := &archiver{
		c: c, dir: c.dir, verbose: o.has('v'), gzip: o.has('z'), keepOld: o.has('k'), follow: o.has('h'), absolute: o.has('P'),
		toOut: o.has('O'), preserve: o.has('p') || os.Geteuid() == 0, members: names, matched: make([]bool, len(names)),
		owners: os.Geteuid() == 0 && !o.has('\x03', 'o'), links: map[fileID]string{}, users: loadUsers(), groups: loadGroups(),
	}
	for _, opt := range o {
		switch opt.flag {
		case 'C':
			a.dir = a.resolve(opt.value)
		case '\x01':
			match, err := globMatcher(opt.value, false)
			if err != nil {
				return c.errorf("%s: invalid pattern", opt.value)
			}
			a.exclude = append(a.exclude, match)
		case '\x02':
			a.strip = atoi(opt.value)
		}
	}
	file, _ := o.get('f')
	switch o.last('c', 'x', 't') {
	case 'c':
		if len(names) == 0 {
			c.errorf("cowardly refusing to create an empty archive")
			return exitUsage
		}
		return a.finish(a.create(file))
	case 'x', 't':
		return a.finish(a.read(file, o.last('c', 'x', 't') == 't'))
	}
	c.usageError("one of -c, -x or -t is needed")
	return exitUsage
}

// expandOldStyle turns "xzfC a.tgz dir" into "-x -z -f a.tgz -C dir".
func expandOldStyle(args []string) []string {
	var out []string
	rest := args[1:]
	for _, f := range args[0] {
		out = append(out, "-"+string(f))
		if strings.ContainsRune("fCXT", f) && len(rest) > 0 {
			out, rest = append(out, rest[0]), rest[1:]
		}
	}
	return append(out, rest...)
}

func (a *archiver) finish(err error) int {
	if err != nil && a.c.ctx.Err() == nil && !isBrokenPipe(err) {
		a.c.errorf("%s", tarError(err))
		return exitUsage
	}
	return a.status
}

func tarError(err error) string {
	var pe *fs.PathError
	switch {
	case errors.As(err, &pe):
		return pe.Path + ": " + reason(err)
	case errors.Is(err, tar.ErrHeader):
		return "this does not look like a tar archive"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "unexpected EOF in archive"
	}
	return reason(gzipError(err))
}

// resolve makes a path relative to the last -C usable.
func (a *archiver) resolve(p string) string {
	if filepath.IsAbs(p) || a.dir == "" {
		return p
	}
	return strings.TrimSuffix(a.dir, "/") + "/" + p
}

func (a *archiver) create(file string) error {
	var w io.Writer = a.c.out
	a.archiveToOut = file == "" || file == "-"
	if !a.archiveToOut {
		f, err := os.Create(a.c.path(file))
		if err != nil {
			return err
		}
		defer f.Close()
		if st, err := f.Stat(); err == nil {
			a.archiveID = idOf(st)
		}
		w = f
	}
	buf := bufio.NewWriterSize(w, bufSize)
	w = buf
	var z *gzip.Writer
	if a.gzip {
		z = gzip.NewWriter(buf)
		w = z
	}
	tw := tar.NewWriter(w)
	for _, name := range a.members {
		if err := a.add(tw, name, 0); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	if z != nil {
		if err := z.Close(); err != nil {
			return err
		}
	}
	return buf.Flush()
}

// add writes one file and what is below it. Errors of single files are
// reported and skipped; the returned error is the archive's.
func (a *archiver) add(tw *tar.Writer, name string, depth int) error {
	if err := a.c.ctx.Err(); err != nil || depth > maxDepth {
		return err
	}
	if a.excluded(name) {
		return nil
	}
	path := a.resolve(name)
	stat := os.Lstat
	if a.follow {
		stat = os.Stat
	}
	info, err := stat(path)
	if err != nil {
		a.problem(name, err)
		return nil
	}
	if idOf(info) == a.archiveID && a.archiveID != (fileID{}) {
		return nil // the archive itself
	}
	if info.Mode()&fs.ModeSocket != 0 {
		return nil // tar has no form for them
	}
	h, err := a.header(name, path, info)
	if err != nil {
		a.problem(name, err)
		return nil
	}
	if err := a.addContents(tw, h, name, path, info); err != nil {
		return err
	}
	if !info.IsDir() {
		return nil
	}
	list, err := os.ReadDir(path)
	if err != nil {
		a.problem(name, err)
	}
	for _, d := range list {
		if err := a.add(tw, strings.TrimSuffix(name, "/")+"/"+d.Name(), depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (a *archiver) problem(name string, err error) {
	a.c.fail(name, err)
	a.status = exitUsage
}

func (a *archiver) excluded(name string) bool {
	for _, match := range a.exclude {
		if match(name) || match(filepath.Base(name)) {
			return true
		}
	}
	return false
}

func (a *archiver) header(name, path string, info fs.FileInfo) (*tar.Header, error) {
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(path); err != nil {
			return nil, err
		}
	}
	s := statOf(info)
	h := &tar.Header{
		Name: a.memberName(name), Linkname: link, Mode: int64(unixMode(info.Mode())), Uid: int(s.uid), Gid: int(s.gid),
		Uname: a.users.name(s.uid), Gname: a.groups.name(s.gid), ModTime: info.ModTime(),
	}
	switch m := info.Mode(); {
	case m.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, strings.TrimSuffix(h.Name, "/")+"/"
	case link != "":
		h.Typeflag = tar.TypeSymlink
	case m&fs.ModeNamedPipe != 0:
		h.Typeflag = tar.TypeFifo
	case m&fs.ModeCharDevice != 0:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(major(s.rdev)), int64(minor(s.rdev))
	case m&fs.ModeDevice != 0:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeBlock, int64(major(s.rdev)), int64(minor(s.rdev))
	default:
		h.Typeflag, h.Size = tar.TypeReg, info.Size()
		if s.nlink > 1 {
			if first, ok := a.links[idOf(info)]; ok {
				h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			} else {
				a.links[idOf(info)] = h.Name
			}
		}
	}
	return h, nil
}

// memberName is the name in the archive: without a leading slash.
func (a *archiver) memberName(name string) string {
	if a.absolute || !strings.HasPrefix(name, "/") {
		return name
	}
	if !a.strippedNotice {
		a.c.errorf("Removing leading '/' from member names")
		a.strippedNotice = true
	}
	if name = strings.TrimLeft(name, "/"); name == "" {
		return "."
	}
	return name
}

func (a *archiver) addContents(tw *tar.Writer, h *tar.Header, name, path string, info fs.FileInfo) error {
	var in io.Reader = strings.NewReader("")
	if h.Typeflag == tar.TypeReg {
		f, err := os.Open(path)
		if err != nil {
			a.problem(name, err)
			return nil
		}
		defer f.Close()
		in = f
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	if a.verbose {
		a.list(h, false)
	}
	n, err := copyBuffer(a.c.ctx, tw, io.LimitReader(in, h.Size))
	if err != nil {
		return err
	}
	if n < h.Size {
		// The file shrank while it was read; the size is promised already.
		a.c.errorf("%s: File shrank by %d bytes; padding with zeros", name, h.Size-n)
		a.status = exitFailure
		_, err = copyBuffer(a.c.ctx, tw, io.LimitReader(zeroReader{}, h.Size-n))
	}
	return err
}

// zeroReader is an endless source of zero bytes.
type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
