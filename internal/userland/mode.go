package userland

import (
	"errors"
	"io/fs"
	"strconv"
)

// fileMode is a parsed mode operand of chmod, mkdir -m and umask: octal, or
// symbolic as in POSIX chmod ("u+x,go-w,a=rX").
type fileMode struct {
	octal   bool
	value   uint32
	clauses []modeClause
}

// modeClause is one "who op permissions" step.
type modeClause struct {
	who   uint32 // mask of the classes, 0 when none was named
	op    byte   // '+', '-' or '='
	perm  uint32 // rwx, s and t bits spread over all classes
	execX bool   // X
	copy  byte   // 'u', 'g' or 'o': permissions taken from that class
}

var errMode = errors.New("invalid mode")

const (
	setUID = 0o4000
	setGID = 0o2000
	sticky = 0o1000
)

func parseMode(s string) (fileMode, error) {
	if s == "" {
		return fileMode{}, errMode
	}
	if s[0] >= '0' && s[0] <= '9' {
		n, err := strconv.ParseUint(s, 8, 32)
		if err != nil || n > 0o7777 {
			return fileMode{}, errMode
		}
		return fileMode{octal: true, value: uint32(n)}, nil
	}
	var m fileMode
	for i := 0; i <= len(s); i++ {
		who, n := parseWho(s[i:])
		i += n
		steps := 0
		for i < len(s) && (s[i] == '+' || s[i] == '-' || s[i] == '=') {
			clause := modeClause{who: who, op: s[i]}
			i++
			i += clause.parsePermissions(s[i:])
			m.clauses = append(m.clauses, clause)
			steps++
		}
		if steps == 0 || (i < len(s) && s[i] != ',') || i == len(s)-1 {
			return fileMode{}, errMode
		}
	}
	return m, nil
}

func parseWho(s string) (who uint32, n int) {
	for n < len(s) {
		switch s[n] {
		case 'u':
			who |= setUID | 0o700
		case 'g':
			who |= setGID | 0o070
		case 'o':
			who |= sticky | 0o007
		case 'a':
			who |= 0o7777
		default:
			return who, n
		}
		n++
	}
	return who, n
}

func (c *modeClause) parsePermissions(s string) (n int) {
	for n < len(s) {
		switch s[n] {
		case 'r':
			c.perm |= 0o444
		case 'w':
			c.perm |= 0o222
		case 'x':
			c.perm |= 0o111
		case 'X':
			c.execX = true
		case 's':
			c.perm |= setUID | setGID
		case 't':
			c.perm |= sticky
		case 'u', 'g', 'o':
			if n > 0 {
				return n
			}
			c.copy = s[n]
			return 1
		default:
			return n
		}
		n++
	}
	return n
}

// apply computes the new mode bits from the old ones. umask limits clauses that
// name no class.
func (m fileMode) apply(old uint32, isDir bool, umask uint32) uint32 {
	if m.octal {
		if isDir && m.value&(setUID|setGID) == 0 {
			return m.value | old&(setUID|setGID) // as GNU: a number keeps a directory's s bits
		}
		return m.value
	}
	mode := old
	for _, c := range m.clauses {
		perm := c.perm
		if c.execX && (isDir || mode&0o111 != 0) {
			perm |= 0o111
		}
		switch c.copy {
		case 'u':
			perm |= (mode >> 6 & 7) * 0o111
		case 'g':
			perm |= (mode >> 3 & 7) * 0o111
		case 'o':
			perm |= (mode & 7) * 0o111
		}
		who, reset := c.who, c.who
		if who == 0 {
			who, reset = 0o7777&^umask, 0o7777
		}
		perm &= who
		switch c.op {
		case '+':
			mode |= perm
		case '-':
			mode &^= perm
		case '=':
			keep := uint32(0)
			if isDir {
				keep = setUID | setGID
			}
			mode = mode&^(reset&^keep) | perm
		}
	}
	return mode & 0o7777
}

// unixMode converts Go's mode bits to the kernel's permission bits.
func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		mode |= setUID
	}
	if m&fs.ModeSetgid != 0 {
		mode |= setGID
	}
	if m&fs.ModeSticky != 0 {
		mode |= sticky
	}
	return mode
}

// goMode converts permission bits to Go's.
func goMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	if mode&setUID != 0 {
		m |= fs.ModeSetuid
	}
	if mode&setGID != 0 {
		m |= fs.ModeSetgid
	}
	if mode&sticky != 0 {
		m |= fs.ModeSticky
	}
	return m
}
