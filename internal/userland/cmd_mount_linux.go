package userland

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mountEntry is one line of /proc/self/mounts.
type mountEntry struct{ source, target, fstype, options string }

// readMounts reads a table in the form of fstab(5).
func readMounts(path string) ([]mountEntry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 16<<20))
	if err != nil {
		return nil, err
	}
	var list []mountEntry
	for line := range strings.SplitSeq(string(data), "\n") {
		f := strings.Fields(line)
		if len(f) < 3 || strings.HasPrefix(f[0], "#") {
			continue
		}
		options := "defaults"
		if len(f) > 3 {
			options = f[3]
		}
		list = append(list, mountEntry{octalUnescape(f[0]), octalUnescape(f[1]), f[2], options})
	}
	return list, nil
}

// octalUnescape replaces \040 and the like.
func octalUnescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' {
			if v, n := digits(s[i+1:], 8, 3); n == 3 {
				b.WriteByte(byte(v))
				i += n
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mountFlag gives the flag bits of a mount option; clear says that they are
// taken away.
func mountFlag(name string) (bits uintptr, clear, ok bool) {
	switch name {
	case "defaults", "auto", "noauto", "user", "nofail", "_netdev", "":
		return 0, false, true
	case "ro":
		return unix.MS_RDONLY, false, true
	case "rw":
		return unix.MS_RDONLY, true, true
	case "nosuid":
		return unix.MS_NOSUID, false, true
	case "suid":
		return unix.MS_NOSUID, true, true
	case "nodev":
		return unix.MS_NODEV, false, true
	case "dev":
		return unix.MS_NODEV, true, true
	case "noexec":
		return unix.MS_NOEXEC, false, true
	case "exec":
		return unix.MS_NOEXEC, true, true
	case "sync":
		return unix.MS_SYNCHRONOUS, false, true
	case "async":
		return unix.MS_SYNCHRONOUS, true, true
	case "remount":
		return unix.MS_REMOUNT, false, true
	case "bind":
		return unix.MS_BIND, false, true
	case "rbind":
		return unix.MS_BIND | unix.MS_REC, false, true
	case "move":
		return unix.MS_MOVE, false, true
	case "noatime":
		return unix.MS_NOATIME, false, true
	case "atime":
		return unix.MS_NOATIME, true, true
	case "nodiratime":
		return unix.MS_NODIRATIME, false, true
	case "relatime":
		return unix.MS_RELATIME, false, true
	case "strictatime":
		return unix.MS_STRICTATIME, false, true
	case "dirsync":
		return unix.MS_DIRSYNC, false, true
	case "silent":
		return unix.MS_SILENT, false, true
	case "private":
		return unix.MS_PRIVATE, false, true
	case "rprivate":
		return unix.MS_PRIVATE | unix.MS_REC, false, true
	case "shared":
		return unix.MS_SHARED, false, true
	case "rshared":
		return unix.MS_SHARED | unix.MS_REC, false, true
	case "slave":
		return unix.MS_SLAVE, false, true
	case "rslave":
		return unix.MS_SLAVE | unix.MS_REC, false, true
	case "unbindable":
		return unix.MS_UNBINDABLE, false, true
	}
	return 0, false, false
}

// parseMountOptions splits options into flags and what the file system reads.
func parseMountOptions(list string) (flags uintptr, data string) {
	var rest []string
	for name := range strings.SplitSeq(list, ",") {
		bits, clear, ok := mountFlag(name)
		switch {
		case !ok:
			rest = append(rest, name)
		case clear:
			flags &^= bits
		default:
			flags |= bits
		}
	}
	return flags, strings.Join(rest, ",")
}

func runMount(c *call) int {
	o, args, ok := c.parse("t:o:raw\x01\x02\x03\x04\x05\x06nvi", longOptions{
		"types": 't', "options": 'o', "read-only": 'r', "all": 'a', "bind": '\x01', "rbind": '\x02', "move": '\x03',
		"make-private": '\x04', "make-rprivate": '\x05', "make-shared": '\x06',
	})
	if !ok {
		return exitFailure
	}
	var opts []string
	for _, opt := range o {
		switch opt.flag {
		case 'o':
			opts = append(opts, opt.value)
		case 'r':
			opts = append(opts, "ro")
		case '\x01', '\x02', '\x03', '\x04', '\x05', '\x06':
			opts = append(opts, []string{"bind", "rbind", "move", "private", "rprivate", "shared"}[opt.flag-1])
		}
	}
	fstype, _ := o.get('t')
	switch {
	case o.has('a'):
		return c.mountAll(fstype)
	case len(args) == 0:
		return c.listMounts(fstype)
	}
	options := strings.Join(opts, ",")
	e := mountEntry{target: args[len(args)-1], fstype: fstype, options: options}
	if len(args) > 1 {
		e.source = args[0]
	} else if flags, _ := parseMountOptions(options); flags&(unix.MS_REMOUNT|unix.MS_PRIVATE|unix.MS_SHARED|unix.MS_SLAVE) == 0 {
		if e, ok = c.fstabEntry(args[0], e); !ok {
			return exitFailure
		}
	}
	if err := c.mount(e); err != nil {
		return c.errorf("mounting %s on %s: %s", e.source, e.target, reason(err))
	}
	return exitOK
}

func (c *call) fstabEntry(name string, given mountEntry) (mountEntry, bool) {
	list, err := readMounts("/etc/fstab")
	if err == nil {
		for _, e := range list {
			if e.source == name || e.target == name {
				e.options += "," + given.options
				return e, true
			}
		}
	}
	c.errorf("%s: can't find in /etc/fstab", name)
	return given, false
}

func (c *call) listMounts(fstype string) int {
	list, err := readMounts("/proc/self/mounts")
	if err != nil {
		return c.fail("/proc/self/mounts", err)
	}
	c.out.buffered()
	for _, e := range list {
		if fstype == "" || e.fstype == fstype {
			c.printf("%s on %s type %s (%s)\n", e.source, e.target, e.fstype, e.options)
		}
	}
	return exitOK
}

func (c *call) mountAll(fstype string) int {
	list, err := readMounts("/etc/fstab")
	if err != nil {
		return c.fail("/etc/fstab", err)
	}
	mounted, _ := readMounts("/proc/self/mounts")
	status := exitOK
next:
	for _, e := range list {
		if e.fstype == "swap" || strings.Contains(","+e.options+",", ",noauto,") || (fstype != "" && fstype != e.fstype) {
			continue
		}
		for _, m := range mounted {
			if m.target == e.target {
				continue next
			}
		}
		if err := c.mount(e); err != nil {
			status = c.errorf("mounting %s on %s: %s", e.source, e.target, reason(err))
		}
	}
	return status
}

var errNoType = errors.New("no known file system type fits; give one with -t")

// mount mounts one entry. Without a type the kernel's own ones are tried.
func (c *call) mount(e mountEntry) error {
	flags, data := parseMountOptions(e.options)
	target, source := c.path(e.target), e.source
	if flags&(unix.MS_BIND|unix.MS_MOVE) != 0 {
		source = c.path(source)
	}
	const propagation = unix.MS_PRIVATE | unix.MS_SHARED | unix.MS_SLAVE | unix.MS_UNBINDABLE
	if change := flags & propagation; change != 0 && source == "" {
		return unix.Mount("", target, "", change|flags&unix.MS_REC, "")
	}
	if e.fstype != "" && e.fstype != "auto" || flags&(unix.MS_BIND|unix.MS_MOVE|unix.MS_REMOUNT) != 0 {
		err := unix.Mount(source, target, e.fstype, flags, data)
		if err == nil && flags&unix.MS_BIND != 0 && flags&^uintptr(unix.MS_BIND|unix.MS_REC|unix.MS_SILENT) != 0 && flags&unix.MS_REMOUNT == 0 {
			// The kernel takes other flags of a bind mount on a remount only.
			err = unix.Mount("", target, "", flags|unix.MS_REMOUNT, "")
		}
		return err
	}
	types, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err
	}
	err = errNoType
	for line := range strings.SplitSeq(string(types), "\n") {
		name := strings.TrimSpace(line)
		if name == "" || strings.HasPrefix(line, "nodev") {
			continue
		}
		merr := unix.Mount(source, target, name, flags, data)
		if merr == nil {
			return nil
		}
		if !errors.Is(merr, unix.EINVAL) {
			err = merr
		}
	}
	return err
}

func runUmount(c *call) int {
	o, args, ok := c.parse("lfart:Rnvd", longOptions{"lazy": 'l', "force": 'f', "all": 'a', "recursive": 'R', "types": 't'})
	if !ok {
		return exitFailure
	}
	flags := 0
	if o.has('l') {
		flags |= unix.MNT_DETACH
	}
	if o.has('f') {
		flags |= unix.MNT_FORCE
	}
	mounts, _ := readMounts("/proc/self/mounts")
	if o.has('a') {
		fstype, _ := o.get('t')
		for _, m := range mounts {
			if m.target != "/" && m.target != "/proc" && (fstype == "" || m.fstype == fstype) {
				args = append(args, m.target)
			}
		}
	}
	if len(args) == 0 {
		return c.usageError("missing operand")
	}
	status := exitOK
	for _, arg := range slices.Backward(args) { // inner mounts come later in the table
		targets := []string{c.path(arg)}
		for _, m := range mounts {
			switch {
			case m.source == arg && strings.HasPrefix(m.source, "/"):
				targets = []string{m.target}
			case o.has('R') && strings.HasPrefix(m.target, strings.TrimSuffix(targets[0], "/")+"/"):
				targets = append(targets, m.target)
			}
		}
		for _, target := range slices.Backward(targets) {
			if err := unix.Unmount(target, flags); err != nil {
				status = c.fail(arg, err)
			}
		}
	}
	return status
}

func runDF(c *call) int {
	o, names, ok := c.parse("hHkmPTaiB:t:x:l", longOptions{"human-readable": 'h', "si": 'H', "portability": 'P', "print-type": 'T', "all": 'a', "inodes": 'i', "type": 't', "exclude-type": 'x', "block-size": 'B'})
	if !ok {
		return exitFailure
	}
	mounts, err := readMounts("/proc/self/mounts")
	if err != nil {
		return c.fail("/proc/self/mounts", err)
	}
	d := &diskFree{c: c, o: o, unit: 1024}
	switch {
	case o.has('m'):
		d.unit = 1 << 20
	case o.has('B'):
		text, _ := o.get('B')
		if text[:min(1, len(text))] > "9" {
			text = "1" + text
		}
		if d.unit, ok = parseCount(text); !ok || d.unit == 0 {
			return c.errorf("invalid block size '%s'", text)
		}
	}
	status := exitOK
	if len(names) > 0 {
		for _, name := range names {
			e, err := c.mountOf(name, mounts)
			if err != nil {
				status = c.fail(name, err)
				continue
			}
			d.add(e, true)
		}
	} else {
		only, _ := o.get('t')
		without, _ := o.get('x')
		seen := map[string]bool{}
		for i, e := range mounts {
			shadowed := false
			for _, later := range mounts[i+1:] {
				shadowed = shadowed || later.target == e.target
			}
			if shadowed || (only != "" && e.fstype != only) || (without != "" && e.fstype == without) {
				continue
			}
			if strings.HasPrefix(e.source, "/") && seen[e.source] && !o.has('a') {
				continue // a bind mount of what has been shown
			}
			seen[e.source] = true
			d.add(e, o.has('a'))
		}
	}
	d.print()
	return status
}

// mountOf finds the mount that a file is on.
func (c *call) mountOf(name string, mounts []mountEntry) (mountEntry, error) {
	path, err := canonical(c.absolute(name), canonExisting)
	if err != nil {
		return mountEntry{}, err
	}
	best := mountEntry{source: "-", target: "/", fstype: "-"}
	for _, e := range mounts {
		if e.source == path {
			return e, nil
		}
		if (path == e.target || strings.HasPrefix(path, strings.TrimSuffix(e.target, "/")+"/")) && len(e.target) >= len(best.target) {
			best = e
		}
	}
	return best, nil
}

// diskFree collects df's table.
type diskFree struct {
	c    *call
	o    options
	unit int64
	rows [][]string
}

func (d *diskFree) add(e mountEntry, always bool) {
	var s unix.Statfs_t
	if err := unix.Statfs(e.target, &s); err != nil || (s.Blocks == 0 && !always) {
		return
	}
	block := int64(s.Frsize)
	if block == 0 {
		block = int64(s.Bsize)
	}
	total, free, avail := int64(s.Blocks), int64(s.Bfree), int64(s.Bavail)
	show := func(n int64) string { return d.size(n * block) }
	if d.o.has('i') {
		total, free, avail = int64(s.Files), int64(s.Ffree), int64(s.Ffree)
		show = func(n int64) string { return strconv.FormatInt(n, 10) }
	}
	percent := "-"
	if used := total - free; used+avail > 0 {
		percent = strconv.FormatInt((100*used+used+avail-1)/(used+avail), 10) + "%"
	}
	row := []string{e.source, show(total), show(total - free), show(avail), percent, e.target}
	if d.o.has('T') {
		row = append([]string{e.source, e.fstype}, row[1:]...)
	}
	d.rows = append(d.rows, row)
}

func (d *diskFree) size(bytes int64) string {
	if d.o.has('h', 'H') {
		return humanSize(bytes)
	}
	return strconv.FormatInt((bytes+d.unit-1)/d.unit, 10)
}

func (d *diskFree) print() {
	title := strconv.FormatInt(d.unit/1024, 10) + "K-blocks"
	if d.unit%1024 != 0 {
		title = strconv.FormatInt(d.unit, 10) + "-blocks"
	}
	if d.o.has('P') {
		title = "1024-blocks"
	}
	head := []string{"Filesystem", title, "Used", "Available", "Use%", "Mounted on"}
	switch {
	case d.o.has('i'):
		head = []string{"Filesystem", "Inodes", "IUsed", "IFree", "IUse%", "Mounted on"}
	case d.o.has('h', 'H'):
		head[1], head[3] = "Size", "Avail"
	}
	if d.o.has('P') && !d.o.has('i') {
		head[4] = "Capacity"
	}
	left := 1
	if d.o.has('T') {
		head, left = append([]string{"Filesystem", "Type"}, head[1:]...), 2
	}
	rows := append([][]string{head}, d.rows...)
	width := make([]int, len(head))
	for _, r := range rows {
		for i, cell := range r {
			width[i] = max(width[i], len(cell))
		}
	}
	width[0] = max(width[0], 14)
	for _, r := range rows {
		var b strings.Builder
		for i, cell := range r {
			switch {
			case i == len(r)-1:
				b.WriteString(cell)
			case i < left:
				fmt.Fprintf(&b, "%-*s ", width[i], cell)
			default:
				fmt.Fprintf(&b, "%*s ", width[i], cell)
			}
		}
		d.c.printf("%s\n", b.String())
	}
}
