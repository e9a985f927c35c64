//go:build unix

package userland

import (
	"bufio"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// fileStat is what the commands need to know of a file beyond fs.FileInfo.
type fileStat struct {
	ino, nlink   uint64
	uid, gid     uint32
	blocks       int64 // of 512 bytes
	dev, rdev    uint64
	blksize      int64
	atime, ctime time.Time
}

// statOf extracts the system's part of a FileInfo that os.Stat or os.Lstat made.
func statOf(fi fs.FileInfo) fileStat {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fileStat{nlink: 1}
	}
	s := fileStat{
		ino: uint64(st.Ino), nlink: uint64(st.Nlink), uid: st.Uid, gid: st.Gid,
		blocks: st.Blocks, dev: uint64(st.Dev), rdev: uint64(st.Rdev), blksize: int64(st.Blksize),
	}
	s.atime, s.ctime = statTimes(st)
	return s
}

func major(dev uint64) uint32 { return unix.Major(dev) }
func minor(dev uint64) uint32 { return unix.Minor(dev) }

// modeString is the first column of ls -l.
func modeString(m fs.FileMode) string {
	b := []byte("?---------")
	b[0] = typeLetter(m)
	for i, l := range "rwxrwxrwx" {
		if m&(1<<(8-i)) != 0 {
			b[1+i] = byte(l)
		}
	}
	special := func(set bool, at int, with, without byte) {
		if !set {
			return
		}
		if b[at] == 'x' {
			b[at] = with
		} else {
			b[at] = without
		}
	}
	special(m&fs.ModeSetuid != 0, 3, 's', 'S')
	special(m&fs.ModeSetgid != 0, 6, 's', 'S')
	special(m&fs.ModeSticky != 0, 9, 't', 'T')
	return string(b)
}

// typeLetter is the letter of ls -l for a file's type.
func typeLetter(m fs.FileMode) byte {
	switch {
	case m.IsDir():
		return 'd'
	case m&fs.ModeSymlink != 0:
		return 'l'
	case m&fs.ModeCharDevice != 0:
		return 'c'
	case m&fs.ModeDevice != 0:
		return 'b'
	case m&fs.ModeNamedPipe != 0:
		return 'p'
	case m&fs.ModeSocket != 0:
		return 's'
	case m.IsRegular():
		return '-'
	}
	return '?'
}

// account is one line of /etc/passwd or /etc/group.
type account struct {
	name string
	id   uint32
	// gid, home and shell are of users; members of groups.
	gid         uint32
	home, shell string
	members     []string
}

// accounts is the user or group database: the files only, because a microVM
// has no directory service and os/user would read the file for every name.
type accounts []account

// maxAccounts bounds the entries read from a database file.
const maxAccounts = 100_000

func loadUsers() accounts  { return loadAccounts("/etc/passwd", true) }
func loadGroups() accounts { return loadAccounts("/etc/group", false) }

func loadAccounts(path string, users bool) accounts {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	var list accounts
	scanner := bufio.NewScanner(io.LimitReader(f, 16<<20))
	for scanner.Scan() && len(list) < maxAccounts {
		fields := strings.Split(scanner.Text(), ":")
		if len(fields) < 4 {
			continue
		}
		id, err := strconv.ParseUint(fields[2], 10, 32)
		if err != nil {
			continue
		}
		a := account{name: fields[0], id: uint32(id)}
		if users {
			gid, err := strconv.ParseUint(fields[3], 10, 32)
			if err != nil || len(fields) < 7 {
				continue
			}
			a.gid, a.home, a.shell = uint32(gid), fields[5], fields[6]
		} else if fields[3] != "" {
			a.members = strings.Split(fields[3], ",")
		}
		list = append(list, a)
	}
	return list
}

// name gives the name of an id, or the number.
func (l accounts) name(id uint32) string {
	for _, a := range l {
		if a.id == id {
			return a.name
		}
	}
	// Without any image there is no /etc/passwd; root is root all the same.
	if id == 0 {
		return "root"
	}
	return strconv.FormatUint(uint64(id), 10)
}

// find gives the entry of a name.
func (l accounts) find(name string) (account, bool) {
	for _, a := range l {
		if a.name == name {
			return a, true
		}
	}
	if name == "root" {
		return account{name: "root", home: "/root", shell: "/bin/sh"}, true
	}
	return account{}, false
}

// rawMode is st_mode as the kernel gives it.
func rawMode(fi fs.FileInfo) uint32 {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return uint32(fi.Mode().Perm())
	}
	return uint32(st.Mode)
}

// statFilesystems is stat -f.
func (c *call) statFilesystems(names []string, o options) int {
	status := exitOK
	for _, name := range names {
		var s unix.Statfs_t
		if err := unix.Statfs(c.path(name), &s); err != nil {
			status = c.fail(name, err)
			continue
		}
		values := strings.NewReplacer(
			"%n", name, "%b", strconv.FormatUint(uint64(s.Blocks), 10), "%f", strconv.FormatUint(uint64(s.Bfree), 10),
			"%a", strconv.FormatUint(uint64(s.Bavail), 10), "%S", strconv.FormatInt(int64(s.Bsize), 10),
			"%s", strconv.FormatInt(int64(s.Bsize), 10), "%c", strconv.FormatUint(uint64(s.Files), 10),
			"%d", strconv.FormatUint(uint64(s.Ffree), 10), "%t", strconv.FormatUint(uint64(s.Type), 16),
			"%T", filesystemName(int64(s.Type)), "%%", "%",
		)
		format, ok := o.get('c')
		if !ok {
			format = "  File: \"%n\"\n    Type: %T\nBlock size: %S\nBlocks: Total: %b      Free: %f      Available: %a\nInodes: Total: %c      Free: %d"
		}
		c.out.WriteString(values.Replace(format) + "\n")
	}
	return status
}

// filesystemName names a file system by its magic number (linux/magic.h).
func filesystemName(magic int64) string {
	switch uint32(magic) {
	case 0xEF53:
		return "ext2/ext3"
	case 0x01021994:
		return "tmpfs"
	case 0x794c7630:
		return "overlayfs"
	case 0x9fa0:
		return "proc"
	case 0x62656572:
		return "sysfs"
	case 0x858458f6:
		return "ramfs"
	case 0x73717368:
		return "squashfs"
	case 0x58465342:
		return "xfs"
	case 0x9123683e:
		return "btrfs"
	case 0x01021997:
		return "v9fs"
	}
	return "UNKNOWN (0x" + strconv.FormatUint(uint64(uint32(magic)), 16) + ")"
}
