package userland

import (
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

func runStat(c *call) int {
	o, names, ok := c.parse("Lftc:\x01:", longOptions{"dereference": 'L', "format": 'c', "printf": '\x01', "terse": 't', "file-system": 'f'})
	if !ok {
		return exitFailure
	}
	if len(names) == 0 {
		return c.usageError("missing operand")
	}
	if o.has('f') {
		return c.statFilesystems(names, o)
	}
	users, groups := loadUsers(), loadGroups()
	status := exitOK
	for _, name := range names {
		info, err := os.Lstat(c.path(name))
		if err == nil && o.has('L') {
			info, err = os.Stat(c.path(name))
		}
		if err != nil {
			status = c.fail(name, err)
			continue
		}
		v := statView{name: name, path: c.path(name), info: info, stat: statOf(info), users: users, groups: groups}
		switch o.last('c', '\x01', 't') {
		case 'c':
			format, _ := o.get('c')
			c.out.WriteString(v.format(format) + "\n")
		case '\x01':
			format, _ := o.get('\x01')
			text, _ := unescape(format, escapePrintf)
			c.out.WriteString(v.format(text))
		case 't':
			c.out.WriteString(v.format("%n %s %b %f %u %g %D %i %h %t %T %X %Y %Z %W %o\n"))
		default:
			c.out.WriteString(v.full())
		}
	}
	return status
}

// statView is what the formats of stat show.
type statView struct {
	name, path    string
	info          fs.FileInfo
	stat          fileStat
	users, groups accounts
}

func (v statView) full() string {
	size := "  Size: %-10s\tBlocks: %-10b IO Block: %-6o %F\n"
	device := "Device: %Hd,%Ld\tInode: %-11i Links: %-5h"
	if v.info.Mode()&fs.ModeDevice != 0 {
		device += " Device type: %t,%T"
	}
	name := "%n"
	if v.info.Mode()&fs.ModeSymlink != 0 {
		name = "%N"
	}
	text := v.format("  File: " + name + "\n" + size + device)
	text = strings.TrimRight(text, " ") + "\n"
	return text + v.format("Access: (%04a/%A)  Uid: (%5u/%8U)   Gid: (%5g/%8G)\n"+
		"Access: %x\nModify: %y\nChange: %z\n Birth: %w\n")
}

// format expands the % sequences of GNU stat.
func (v statView) format(f string) string {
	var b strings.Builder
	for i := 0; i < len(f); i++ {
		if f[i] != '%' || i+1 == len(f) {
			b.WriteByte(f[i])
			continue
		}
		start := i + 1
		i = start
		for i < len(f) && strings.IndexByte("-+0 #.123456789", f[i]) >= 0 {
			i++
		}
		flags := f[start:i]
		if i < len(f)-1 && (f[i] == 'H' || f[i] == 'L') && (f[i+1] == 'd' || f[i+1] == 'r') {
			i++
		}
		if i >= len(f) {
			b.WriteString(f[start-1:])
			break
		}
		verb := f[start+len(flags) : i+1]
		text, numeric := v.value(verb)
		if width := strings.TrimLeft(flags, "-+0 #"); width == "" || len(width) > 3 {
			b.WriteString(text)
		} else if w, _, _ := strings.Cut(width, "."); strings.Contains(flags[:len(flags)-len(width)], "-") {
			fmt.Fprintf(&b, "%-*s", atoi(w), text)
		} else {
			pad := " "
			if numeric && strings.HasPrefix(flags, "0") {
				pad = "0"
			}
			b.WriteString(strings.Repeat(pad, max(0, atoi(w)-len(text))) + text)
		}
	}
	return b.String()
}

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return n
}

// value gives one field; numeric says that it may be padded with zeros.
func (v statView) value(verb string) (text string, numeric bool) {
	num := func(n uint64) (string, bool) { return strconv.FormatUint(n, 10), true }
	stamp := func(t time.Time) (string, bool) { return t.Format("2006-01-02 15:04:05.000000000 -0700"), false }
	s := v.stat
	switch verb {
	case "%":
		return "%", false
	case "n":
		return v.name, false
	case "N":
		if target, err := os.Readlink(v.path); err == nil && v.info.Mode()&fs.ModeSymlink != 0 {
			return v.name + " -> " + target, false
		}
		return v.name, false
	case "s":
		return num(uint64(v.info.Size()))
	case "b":
		return num(uint64(s.blocks))
	case "B":
		return "512", true
	case "o":
		return num(uint64(s.blksize))
	case "a":
		return strconv.FormatUint(uint64(unixMode(v.info.Mode())), 8), true
	case "A":
		return modeString(v.info.Mode()), false
	case "f":
		return strconv.FormatUint(uint64(rawMode(v.info)), 16), false
	case "F":
		return typeName(v.info), false
	case "u":
		return num(uint64(s.uid))
	case "U":
		return v.users.name(s.uid), false
	case "g":
		return num(uint64(s.gid))
	case "G":
		return v.groups.name(s.gid), false
	case "h":
		return num(s.nlink)
	case "i":
		return num(s.ino)
	case "d":
		return num(s.dev)
	case "D":
		return strconv.FormatUint(s.dev, 16), false
	case "Hd":
		return num(uint64(major(s.dev)))
	case "Ld":
		return num(uint64(minor(s.dev)))
	case "t", "Hr":
		return strconv.FormatUint(uint64(major(s.rdev)), 16), false
	case "T", "Lr":
		return strconv.FormatUint(uint64(minor(s.rdev)), 16), false
	case "x":
		return stamp(s.atime)
	case "y":
		return stamp(v.info.ModTime())
	case "z":
		return stamp(s.ctime)
	case "X":
		return strconv.FormatInt(s.atime.Unix(), 10), true
	case "Y":
		return strconv.FormatInt(v.info.ModTime().Unix(), 10), true
	case "Z":
		return strconv.FormatInt(s.ctime.Unix(), 10), true
	case "w":
		return "-", false // the time of birth is not known here
	case "W":
		return "0", true
	}
	return "?", false
}

func typeName(info fs.FileInfo) string {
	letter := typeLetter(info.Mode())
	if letter == '-' && info.Size() == 0 {
		return "regular empty file"
	}
	name, ok := map[byte]string{
		'-': "regular file", 'd': "directory", 'l': "symbolic link", 'c': "character special file",
		'b': "block special file", 'p': "fifo", 's': "socket",
	}[letter]
	if !ok {
		return "weird file" // as GNU stat has it
	}
	return name
}
