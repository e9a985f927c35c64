package userland

import (
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// usage is one run of du.
type usage struct {
	c     *call
	o     options
	depth int // of what is printed; -1 for all
	unit  int64
	seen  map[fileID]bool
	dev   uint64
	total int64
	code  int
}

func runDU(c *call) int {
	o, names, ok := c.parse("sahkmbcxLSHd:\x01", longOptions{
		"summarize": 's', "all": 'a', "human-readable": 'h', "bytes": 'b', "total": 'c', "one-file-system": 'x',
		"dereference": 'L', "max-depth": 'd', "apparent-size": '\x01',
	})
	if !ok {
		return exitFailure
	}
	u := &usage{c: c, o: o, depth: -1, unit: 1024, seen: map[fileID]bool{}}
	if text, ok := o.get('d'); ok {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return c.errorf("invalid maximum depth '%s'", text)
		}
		u.depth = n
	}
	if o.has('s') {
		u.depth = 0
	}
	switch o.last('k', 'm', 'b') {
	case 'm':
		u.unit = 1 << 20
	case 'b':
		u.unit = 1
	}
	if len(names) == 0 {
		names = []string{"."}
	}
	c.out.buffered()
	for _, name := range names {
		info, err := os.Lstat(c.path(name))
		if err == nil && o.has('L', 'H') {
			info, err = os.Stat(c.path(name))
		}
		if err != nil {
			u.code = c.fail(name, err)
			continue
		}
		u.dev = statOf(info).dev
		u.total += u.visit(name, info, 0)
	}
	if o.has('c') {
		u.print(u.total, "total")
	}
	return u.code
}

func (u *usage) visit(name string, info fs.FileInfo, depth int) int64 {
	s := statOf(info)
	if u.c.stopped() || depth > maxDepth || (u.o.has('x') && s.dev != u.dev) {
		return 0
	}
	if s.nlink > 1 || info.IsDir() {
		if u.seen[idOf(info)] {
			return 0
		}
		u.seen[idOf(info)] = true
	}
	size := s.blocks * 512
	if u.o.has('b', '\x01') {
		size = info.Size()
	}
	if info.IsDir() {
		list, err := os.ReadDir(u.c.path(name))
		if err != nil {
			u.code = u.c.fail(name, err)
		}
		for _, d := range list {
			child := strings.TrimSuffix(name, "/") + "/" + d.Name()
			ci, err := os.Lstat(u.c.path(child))
			if err == nil && u.o.has('L') {
				ci, err = os.Stat(u.c.path(child))
			}
			if err != nil {
				u.code = u.c.fail(child, err)
				continue
			}
			size += u.visit(child, ci, depth+1)
		}
	}
	if (info.IsDir() || u.o.has('a') || depth == 0) && (u.depth < 0 || depth <= u.depth) {
		u.print(size, name)
	}
	return size
}

func (u *usage) print(size int64, name string) {
	text := strconv.FormatInt((size+u.unit-1)/u.unit, 10)
	if u.o.has('h') {
		text = humanSize(size)
	}
	fmt.Fprintf(u.c.out, "%s\t%s\n", text, name)
}
