package userland

import (
	"bufio"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"strings"
)

// runGzip is gzip, gunzip and zcat.
func runGzip(c *call) int {
	o, names, ok := c.parse("cdfkqtvnN123456789S:lr", longOptions{
		"stdout": 'c', "to-stdout": 'c', "decompress": 'd', "uncompress": 'd', "force": 'f', "keep": 'k', "quiet": 'q',
		"test": 't', "verbose": 'v', "fast": '1', "best": '9', "no-name": 'n',
	})
	if !ok {
		return exitFailure
	}
	g := gzipper{c: c, keep: o.has('k'), force: o.has('f'), toOut: o.has('c'), test: o.has('t'), verbose: o.has('v'), level: 6}
	g.unpack = o.has('d', 't') || c.cmd.name != "gzip"
	g.toOut = g.toOut || c.cmd.name == "zcat"
	if l := o.last('1', '2', '3', '4', '5', '6', '7', '8', '9'); l != 0 {
		g.level = int(l - '0')
	}
	if len(names) == 0 {
		names = []string{"-"}
	}
	status := exitOK
	for _, name := range names {
		if c.stopped() {
			break
		}
		if err := g.file(name); err != nil {
			status = c.fail(name, err)
		}
	}
	return status
}

// gzipper is one run of gzip.
type gzipper struct {
	c                                         *call
	unpack, keep, force, toOut, test, verbose bool
	level                                     int
}

var (
	errSuffix    = errors.New("unknown suffix -- ignored")
	errHasSuffix = errors.New("already has .gz suffix -- unchanged")
	errTerminal  = errors.New("compressed data not written to a terminal; use -f to force")
)

func (g gzipper) file(name string) error {
	c := g.c
	in, err := c.open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	if name == "-" || g.toOut || g.test {
		if !g.unpack && !g.force && isTerminal(c.stdio.Out) {
			return errTerminal
		}
		var w io.Writer = c.out
		if g.test {
			w = io.Discard
		}
		return g.stream(w, in)
	}
	target, err := g.target(name)
	if err != nil {
		return err
	}
	info, err := os.Stat(c.path(name))
	if err != nil {
		return err
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if g.force {
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	out, err := os.OpenFile(c.path(target), flags, info.Mode().Perm())
	if err != nil {
		if errors.Is(err, os.ErrExist) {
			return errors.New(target + " already exists")
		}
		return err
	}
	err = g.stream(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(c.path(target)) // half a file is worse than none
		return err
	}
	if err := setTimes(c.path(target), statOf(info).atime, info.ModTime(), false, false); err != nil {
		return err
	}
	if g.verbose {
		c.errorf("%s -> %s", name, target)
	}
	if g.keep {
		return nil
	}
	return os.Remove(c.path(name))
}

func (g gzipper) target(name string) (string, error) {
	if !g.unpack {
		if strings.HasSuffix(name, ".gz") && !g.force {
			return "", errHasSuffix
		}
		return name + ".gz", nil
	}
	for suffix, replacement := range map[string]string{".gz": "", ".tgz": ".tar", ".taz": ".tar", "-gz": ""} {
		if base, ok := strings.CutSuffix(name, suffix); ok && base != "" && !strings.HasSuffix(base, "/") {
			return base + replacement, nil
		}
	}
	return "", errSuffix
}

func (g gzipper) stream(w io.Writer, r io.Reader) error {
	if g.unpack {
		// Members that follow each other are one stream (RFC 1952 2.2).
		z, err := gzip.NewReader(bufio.NewReaderSize(r, bufSize))
		if err != nil {
			return gzipError(err)
		}
		_, err = copyBuffer(g.c.ctx, w, z)
		return gzipError(err)
	}
	buf := bufio.NewWriterSize(w, bufSize)
	z, err := gzip.NewWriterLevel(buf, g.level)
	if err != nil {
		return err
	}
	if _, err := copyBuffer(g.c.ctx, z, r); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return buf.Flush()
}

func gzipError(err error) error {
	switch {
	case errors.Is(err, gzip.ErrHeader):
		return errors.New("not in gzip format")
	case errors.Is(err, gzip.ErrChecksum):
		return errors.New("invalid compressed data -- crc error")
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return errors.New("unexpected end of file")
	}
	return err
}
