package userland

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// entry is one file that ls shows.
type entry struct {
	name string
	path string
	info fs.FileInfo
	stat fileStat
	link string // target of a symbolic link, for -l
}

// lister is one run of ls.
type lister struct {
	c             *call
	o             options
	long, columns bool
	users, groups accounts
	now           time.Time
	status        int
	printed       bool // something was printed, so that a blank line is due
}

func runLS(c *call) int {
	c.trouble = exitUsage
	o, names, ok := c.parse("aAlhd1RFpStrinsgoLUCcuXkQqNbHGxmfT:w:I:"+"\x01::\x02\x03:", longOptions{
		"all": 'a', "almost-all": 'A', "human-readable": 'h', "directory": 'd', "recursive": 'R',
		"classify": 'F', "reverse": 'r', "inode": 'i', "numeric-uid-gid": 'n', "size": 's',
		"dereference": 'L', "color": '\x01', "full-time": '\x02', "group-directories-first": 'x', "no-group": 'G', "time-style": '\x03',
	})
	if !ok {
		return exitUsage
	}
	c.out.buffered()
	l := &lister{c: c, o: o, now: time.Now()}
	l.long = o.has('l', 'n', 'g', 'o', '\x02') && o.last('l', 'n', 'g', 'o', '\x02', '1', 'C') != 'C'
	l.columns = !l.long && (o.last('C', '1') == 'C' || (!o.has('1') && isTerminal(c.stdio.Out)))
	if l.long && !o.has('n') {
		l.users, l.groups = loadUsers(), loadGroups()
	}
	if len(names) == 0 {
		names = []string{"."}
	}
	var files, dirs []entry
	for _, name := range names {
		e, err := l.stat(name, c.path(name), true)
		if err != nil {
			c.fail(name, err)
			l.status = exitUsage
			continue
		}
		if e.info.IsDir() && !o.has('d') {
			dirs = append(dirs, e)
		} else {
			files = append(files, e)
		}
	}
	l.sort(files)
	l.sort(dirs)
	if len(files) > 0 {
		l.print(files)
		l.printed = true
	}
	for _, d := range dirs {
		l.dir(d.name, d.path, len(names) > 1 || o.has('R'), 0)
	}
	return l.status
}

func (l *lister) stat(name, path string, operand bool) (entry, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return entry{}, err
	}
	e := entry{name: name, path: path, info: info}
	if info.Mode()&fs.ModeSymlink != 0 {
		// A link named on the command line is followed, unless its own
		// details are asked for (POSIX ls).
		if l.o.has('L', 'H') || (operand && !l.long && !l.o.has('d', 'F')) {
			if target, err := os.Stat(path); err == nil {
				e.info = target
			}
		}
		if l.long && e.info == info {
			e.link, _ = os.Readlink(path)
		}
	}
	e.stat = statOf(e.info)
	return e, nil
}

// maxDepth bounds recursion into directories; no path the kernel takes is deeper.
const maxDepth = 4096

func (l *lister) dir(name, path string, header bool, depth int) {
	if l.c.stopped() || depth > maxDepth {
		return
	}
	list, err := os.ReadDir(path)
	if err != nil {
		l.c.fail(name, err)
		l.status = exitUsage
		if len(list) == 0 {
			return
		}
	}
	if header {
		if l.printed {
			l.c.printf("\n")
		}
		l.c.printf("%s:\n", name)
	}
	l.printed = true
	var entries []entry
	if l.o.has('a', 'f') {
		for _, n := range []string{".", ".."} {
			if e, err := l.stat(n, path+"/"+n, false); err == nil {
				entries = append(entries, e)
			}
		}
	}
	for _, d := range list {
		if strings.HasPrefix(d.Name(), ".") && !l.o.has('a', 'A', 'f') {
			continue
		}
		e, err := l.stat(d.Name(), filepath.Join(path, d.Name()), false)
		if err != nil {
			continue // removed while we were reading
		}
		entries = append(entries, e)
	}
	l.sort(entries)
	if l.long || l.o.has('s') {
		var blocks int64
		for _, e := range entries {
			blocks += e.stat.blocks
		}
		l.c.printf("total %s\n", l.blocks(blocks))
	}
	l.print(entries)
	if !l.o.has('R') {
		return
	}
	for _, e := range entries {
		if e.info.IsDir() && e.name != "." && e.name != ".." {
			l.dir(strings.TrimSuffix(name, "/")+"/"+e.name, e.path, true, depth+1)
		}
	}
}

func (l *lister) blocks(n int64) string {
	if l.o.has('h') {
		return humanSize(n * 512)
	}
	return strconv.FormatInt((n+1)/2, 10)
}

func (l *lister) sort(list []entry) {
	if l.o.has('U', 'f') {
		return
	}
	by := l.o.last('S', 't', 'X')
	slices.SortStableFunc(list, func(a, b entry) int {
		d := 0
		switch by {
		case 'S':
			d = compare(b.info.Size(), a.info.Size())
		case 't':
			d = l.time(b).Compare(l.time(a))
		case 'X':
			d = strings.Compare(filepath.Ext(a.name), filepath.Ext(b.name))
		}
		if d == 0 {
			d = strings.Compare(a.name, b.name)
		}
		if l.o.has('r') {
			d = -d
		}
		return d
	})
	if l.o.has('x') {
		slices.SortStableFunc(list, func(a, b entry) int {
			return compare(boolInt(b.info.IsDir()), boolInt(a.info.IsDir()))
		})
	}
}

func compare[T int | int64 | uint64 | float64](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (l *lister) time(e entry) time.Time {
	switch l.o.last('c', 'u') {
	case 'c':
		return e.stat.ctime
	case 'u':
		return e.stat.atime
	}
	return e.info.ModTime()
}

func (l *lister) print(list []entry) {
	switch {
	case l.long:
		l.printLong(list)
	case l.columns:
		l.printColumns(list)
	default:
		for _, e := range list {
			l.c.out.WriteString(l.prefix(e) + l.display(e) + "\n")
		}
	}
}

// display is a name as it is shown, with control characters made harmless on
// a terminal.
func (l *lister) display(e entry) string {
	name := e.name
	if isTerminal(l.c.stdio.Out) {
		name = escapeControl(name)
	}
	if l.o.has('Q') {
		name = strconv.Quote(name)
	}
	return name + l.suffix(e.info.Mode())
}

func (l *lister) suffix(m fs.FileMode) string {
	if m.IsDir() && l.o.has('F', 'p') {
		return "/"
	}
	if !l.o.has('F') {
		return ""
	}
	switch {
	case m&fs.ModeSymlink != 0:
		if l.long {
			return ""
		}
		return "@"
	case m&fs.ModeNamedPipe != 0:
		return "|"
	case m&fs.ModeSocket != 0:
		return "="
	case m.IsRegular() && m&0o111 != 0:
		return "*"
	}
	return ""
}

func (l *lister) prefix(e entry) string {
	s := ""
	if l.o.has('i') {
		s += strconv.FormatUint(e.stat.ino, 10) + " "
	}
	if l.o.has('s') {
		s += l.blocks(e.stat.blocks) + " "
	}
	return s
}

func (l *lister) printLong(list []entry) {
	rows := make([][]string, len(list))
	var width [6]int
	for i, e := range list {
		size := strconv.FormatInt(e.info.Size(), 10)
		if l.o.has('h') {
			size = humanSize(e.info.Size())
		}
		if e.info.Mode()&fs.ModeDevice != 0 {
			size = fmt.Sprintf("%d, %3d", major(e.stat.rdev), minor(e.stat.rdev))
		}
		rows[i] = []string{
			l.prefix(e), strconv.FormatUint(e.stat.nlink, 10), l.users.nameOr(e.stat.uid, l.o.has('n')),
			l.groups.nameOr(e.stat.gid, l.o.has('n')), size, l.timeText(l.time(e)),
		}
		for j, s := range rows[i] {
			width[j] = max(width[j], utf8.RuneCountInString(s))
		}
	}
	for i, e := range list {
		r := rows[i]
		l.c.printf("%*s%s %*s ", width[0], r[0], modeString(e.info.Mode()), width[1], r[1])
		if !l.o.has('g') {
			l.c.printf("%-*s ", width[2], r[2])
		}
		if !l.o.has('o', 'G') {
			l.c.printf("%-*s ", width[3], r[3])
		}
		l.c.printf("%*s %*s %s", width[4], r[4], width[5], r[5], l.display(e))
		if e.link != "" {
			l.c.printf(" -> %s", e.link)
		}
		l.c.printf("\n")
	}
}

// nameOr gives the name of an id, or the number when asked for.
func (l accounts) nameOr(id uint32, numeric bool) string {
	if numeric {
		return strconv.FormatUint(uint64(id), 10)
	}
	return l.name(id)
}

// timeText shows the year instead of the time of day outside of the last six
// months, as POSIX ls does.
func (l *lister) timeText(t time.Time) string {
	if l.o.has('\x02') {
		return t.Format("2006-01-02 15:04:05.000000000 -0700")
	}
	if style, ok := l.o.get('\x03'); ok && (style == "long-iso" || style == "full-iso") {
		return t.Format("2006-01-02 15:04")
	}
	const halfYear = 31556952 / 2 * time.Second
	if age := l.now.Sub(t); age > halfYear || age < 0 {
		return t.Format("Jan _2  2006")
	}
	return t.Format("Jan _2 15:04")
}

func (l *lister) printColumns(list []entry) {
	width := 80
	if f, ok := l.c.stdio.Out.(*os.File); ok && f != nil {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			width = w
		}
	}
	cells := make([]string, len(list))
	widest := 0
	for i, e := range list {
		cells[i] = l.prefix(e) + l.display(e)
		widest = max(widest, utf8.RuneCountInString(cells[i]))
	}
	perLine := max(1, width/(widest+2))
	lines := (len(cells) + perLine - 1) / perLine
	for row := range lines {
		for i := row; i < len(cells); i += lines {
			l.c.out.WriteString(cells[i])
			if i+lines < len(cells) {
				l.c.out.WriteString(strings.Repeat(" ", widest+2-utf8.RuneCountInString(cells[i])))
			}
		}
		l.c.out.WriteString("\n")
	}
}

// humanSize shows bytes as GNU's -h does: rounded up, one decimal below ten.
func humanSize(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10)
	}
	unit, f := 0, float64(n)
	for f >= 1024 && unit < 6 {
		f /= 1024
		unit++
	}
	letter := "KMGTPE"[unit-1 : unit]
	if tenths := ceil(f * 10); tenths < 100 {
		return fmt.Sprintf("%d.%d%s", tenths/10, tenths%10, letter)
	}
	if whole := ceil(f); whole < 1024 || unit == 6 {
		return strconv.FormatInt(whole, 10) + letter
	}
	return "1.0" + "KMGTPE"[unit:unit+1]
}

func ceil(f float64) int64 {
	n := int64(f)
	if float64(n) < f {
		n++
	}
	return n
}
