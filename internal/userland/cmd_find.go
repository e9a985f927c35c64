package userland

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// found is one file on find's way.
type found struct {
	name  string // as find prints it
	start string // the operand it was found under
	info  fs.FileInfo
	depth int
}

// finder is one run of find.
type finder struct {
	c                  *call
	follow             byte // 'L', 'H' or 'P'
	minDepth, maxDepth int
	depthFirst         bool
	oneDevice          bool
	expr               findExpr
	batches            []*findBatch
	now                time.Time
	prune, quit        bool
	status             int
}

// findExpr is a node of find's expression: it reports whether a file matches
// and does what its actions say.
type findExpr func(f *finder, file found) bool

func runFind(c *call) int {
	f := &finder{c: c, follow: 'P', maxDepth: maxDepth, now: time.Now()}
	args := c.args
	for len(args) > 0 && (args[0] == "-H" || args[0] == "-L" || args[0] == "-P") {
		f.follow, args = args[0][1], args[1:]
	}
	if len(args) == 1 && args[0] == "--help" {
		c.printf("usage: find %s\n", c.cmd.usage)
		return exitOK
	}
	var starts []string
	for len(args) > 0 && !startsExpression(args[0]) {
		starts, args = append(starts, args[0]), args[1:]
	}
	if len(starts) == 0 {
		starts = []string{"."}
	}
	p := &findParser{f: f, args: args}
	expr, err := p.parse()
	if err != nil {
		return c.errorf("%s", err)
	}
	f.expr = expr
	c.out.buffered()
	for _, start := range starts {
		f.start(start)
	}
	for _, b := range f.batches {
		b.flush(f)
	}
	return f.status
}

func startsExpression(arg string) bool {
	return (strings.HasPrefix(arg, "-") && arg != "-") || arg == "(" || arg == ")" || arg == "!" || arg == ","
}

func (f *finder) start(name string) {
	stat := os.Lstat
	if f.follow != 'P' {
		stat = os.Stat
	}
	info, err := stat(f.c.path(name))
	if err != nil && f.follow != 'P' {
		info, err = os.Lstat(f.c.path(name)) // a dangling link is a file too
	}
	if err != nil {
		f.status = f.c.fail(name, err)
		return
	}
	f.visit(found{name: name, start: name, info: info}, statOf(info).dev, nil)
}

func (f *finder) visit(file found, dev uint64, above []fileID) {
	if f.quit || f.c.stopped() {
		return
	}
	f.prune = false
	if !f.depthFirst && file.depth >= f.minDepth {
		f.expr(f, file)
	}
	if f.quit {
		return
	}
	if file.info.IsDir() && !f.prune && file.depth < f.maxDepth && (!f.oneDevice || statOf(file.info).dev == dev) {
		id := idOf(file.info)
		if slices.Contains(above, id) {
			f.status = f.c.errorf("%s: file system loop detected", file.name)
			return
		}
		if f.follow == 'L' {
			above = append(above, id) // without -L there are no loops
		}
		f.children(file, dev, above)
	}
	if f.depthFirst && file.depth >= f.minDepth && !f.quit {
		f.expr(f, file)
	}
}

func (f *finder) children(dir found, dev uint64, above []fileID) {
	list, err := os.ReadDir(f.c.path(dir.name))
	if err != nil {
		f.status = f.c.fail(dir.name, err)
	}
	for _, d := range list {
		name := dir.name + "/" + d.Name()
		if strings.HasSuffix(dir.name, "/") {
			name = dir.name + d.Name()
		}
		info, err := os.Lstat(f.c.path(name))
		if err == nil && f.follow == 'L' {
			if target, serr := os.Stat(f.c.path(name)); serr == nil {
				info = target
			}
		}
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				f.status = f.c.fail(name, err)
			}
			continue
		}
		f.visit(found{name: name, start: dir.start, info: info, depth: dir.depth + 1}, dev, above)
	}
}

// findBatch collects files for -exec ... {} +.
type findBatch struct {
	argv  []string
	files []string
	bytes int
}

// maxBatch bounds the bytes of arguments of one command, well below the
// kernel's limit of a quarter of the stack.
const maxBatch = 128 << 10

func (b *findBatch) add(f *finder, name string) {
	b.files = append(b.files, name)
	if b.bytes += len(name) + 9; b.bytes > maxBatch || len(b.files) >= 4096 {
		b.flush(f)
	}
}

func (b *findBatch) flush(f *finder) {
	if len(b.files) == 0 {
		return
	}
	if f.execute(append(slices.Clone(b.argv), b.files...), f.c.dir) != exitOK {
		f.status = exitFailure
	}
	b.files, b.bytes = nil, 0
}

// execute runs a command of -exec or -ok.
func (f *finder) execute(argv []string, dir string) int {
	f.c.out.Flush()
	p := f.c.process()
	p.dir = dir
	p.stdio.In = nil
	return f.c.runChild(f.c.ctx, argv, p, start{})
}

// print formats a file for -printf.
func (f *finder) format(format string, file found) string {
	var b strings.Builder
	v := statView{name: file.name, path: f.c.path(file.name), info: file.info, stat: statOf(file.info)}
	for i := 0; i < len(format); i++ {
		if format[i] == '\\' && i+1 < len(format) {
			n := escapeLen(format[i:])
			text, _ := unescape(format[i:i+n], escapePrintf)
			b.WriteString(text)
			i += n - 1
			continue
		}
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		switch format[i] {
		case 'p':
			b.WriteString(file.name)
		case 'f':
			b.WriteString(filepath.Base(file.name))
		case 'h':
			if i := strings.LastIndex(file.name, "/"); i >= 0 {
				b.WriteString(file.name[:i])
			} else {
				b.WriteString(".")
			}
		case 'P':
			b.WriteString(strings.TrimPrefix(strings.TrimPrefix(file.name, file.start), "/"))
		case 'H':
			b.WriteString(file.start)
		case 'd':
			fmt.Fprint(&b, file.depth)
		case 's', 'b', 'i', 'D':
			text, _ := v.value(map[byte]string{'s': "s", 'b': "b", 'i': "i", 'D': "d"}[format[i]])
			b.WriteString(text)
		case 'n':
			fmt.Fprint(&b, v.stat.nlink)
		case 'm':
			fmt.Fprintf(&b, "%o", unixMode(file.info.Mode()))
		case 'M':
			b.WriteString(modeString(file.info.Mode()))
		case 'y':
			b.WriteString(strings.Replace(string(typeLetter(file.info.Mode())), "-", "f", 1))
		case 'u':
			b.WriteString(loadUsers().name(v.stat.uid))
		case 'g':
			b.WriteString(loadGroups().name(v.stat.gid))
		case 'U':
			fmt.Fprint(&b, v.stat.uid)
		case 'G':
			fmt.Fprint(&b, v.stat.gid)
		case 'l':
			if target, err := os.Readlink(v.path); err == nil {
				b.WriteString(target)
			}
		case 't':
			b.WriteString(file.info.ModTime().Format("Mon Jan _2 15:04:05.0000000000 2006"))
		case 'T':
			if i+1 < len(format) {
				i++
				if format[i] == '@' {
					fmt.Fprintf(&b, "%d.%09d0", file.info.ModTime().Unix(), file.info.ModTime().Nanosecond())
				} else {
					b.WriteString(strftime("%"+format[i:i+1], file.info.ModTime()))
				}
			}
		case '%':
			b.WriteByte('%')
		default:
			b.WriteString("%" + format[i:i+1])
		}
	}
	return b.String()
}
