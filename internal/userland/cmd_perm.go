package userland

import (
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// walk visits a file and, when recursive, everything below it, parents first.
// Links below the start are not followed. visit's errors are reported.
func (c *call) walk(name string, recursive bool, visit func(name string, info fs.FileInfo) error) int {
	return c.walkFrom(name, recursive, visit, 0)
}

func (c *call) walkFrom(name string, recursive bool, visit func(string, fs.FileInfo) error, depth int) int {
	if c.stopped() || depth > maxDepth {
		return exitFailure
	}
	info, err := os.Lstat(c.path(name))
	if err == nil {
		err = visit(name, info)
	}
	status := exitOK
	if err != nil {
		status = c.fail(name, err)
	}
	if info == nil || !recursive || !info.IsDir() {
		return status
	}
	list, err := os.ReadDir(c.path(name))
	if err != nil {
		status = c.fail(name, err)
	}
	for _, d := range list {
		if c.walkFrom(strings.TrimSuffix(name, "/")+"/"+d.Name(), recursive, visit, depth+1) != exitOK {
			status = exitFailure
		}
	}
	return status
}

func runChmod(c *call) int {
	// A mode like -x looks like an option: everything that is not one of ours
	// is a mode.
	for i, arg := range c.args {
		if arg == "--" || len(arg) < 2 || arg[0] != '-' || arg[1] == '-' {
			if len(arg) > 0 && arg[0] != '-' {
				break
			}
			continue
		}
		if strings.Trim(arg[1:], "Rvcf") != "" {
			c.args = append(append(append([]string{}, c.args[:i]...), "--"), c.args[i:]...)
			break
		}
	}
	o, names, ok := c.parse("Rvcf\x01:", longOptions{"recursive": 'R', "verbose": 'v', "changes": 'c', "silent": 'f', "quiet": 'f', "reference": '\x01'})
	if !ok {
		return exitFailure
	}
	var m fileMode
	if ref, ok := o.get('\x01'); ok {
		st, err := os.Stat(c.path(ref))
		if err != nil {
			return c.fail(ref, err)
		}
		m = fileMode{octal: true, value: unixMode(st.Mode())}
	} else if len(names) > 0 {
		var err error
		if m, err = parseMode(names[0]); err != nil {
			return c.errorf("%s: %s", names[0], err)
		}
		names = names[1:]
	}
	if len(names) == 0 {
		return c.usageError("missing operand")
	}
	umask := uint32(currentUmask())
	status := exitOK
	for _, name := range names {
		first := true
		s := c.walk(name, o.has('R'), func(name string, info fs.FileInfo) error {
			operand := first
			first = false
			if info.Mode()&fs.ModeSymlink != 0 {
				if !operand {
					return nil // links have no mode; what they lead to is not ours to change
				}
				var err error
				if info, err = os.Stat(c.path(name)); err != nil {
					return err
				}
			}
			old := unixMode(info.Mode())
			mode := m.apply(old, info.IsDir(), umask)
			if err := os.Chmod(c.path(name), goMode(mode)); err != nil {
				return err
			}
			if o.has('v') || (o.has('c') && mode != old) {
				c.printf("mode of '%s' changed from %04o to %04o\n", name, old, mode)
			}
			return nil
		})
		status = max(status, s)
	}
	return status
}

// runChown is chown and chgrp.
func runChown(c *call) int {
	o, names, ok := c.parse("RhvcfLHP\x01:", longOptions{
		"recursive": 'R', "no-dereference": 'h', "verbose": 'v', "changes": 'c', "silent": 'f', "quiet": 'f', "reference": '\x01',
	})
	if !ok {
		return exitFailure
	}
	uid, gid := -1, -1
	if ref, ok := o.get('\x01'); ok {
		st, err := os.Stat(c.path(ref))
		if err != nil {
			return c.fail(ref, err)
		}
		s := statOf(st)
		uid, gid = int(s.uid), int(s.gid)
		if c.cmd.name == "chgrp" {
			uid = -1
		}
	} else if len(names) > 0 {
		owner := names[0]
		if c.cmd.name == "chgrp" {
			owner = ":" + owner
		}
		var bad string
		if uid, gid, bad = parseOwner(owner); bad != "" {
			return c.errorf("%s", bad)
		}
		names = names[1:]
	}
	if len(names) == 0 {
		return c.usageError("missing operand")
	}
	status := exitOK
	for _, name := range names {
		s := c.walk(name, o.has('R'), func(name string, info fs.FileInfo) error {
			change := os.Chown
			if o.has('h') || (o.has('R') && info.Mode()&fs.ModeSymlink != 0) {
				change = os.Lchown
			}
			if err := change(c.path(name), uid, gid); err != nil {
				return err
			}
			if o.has('v') {
				c.printf("changed ownership of '%s'\n", name)
			}
			return nil
		})
		status = max(status, s)
	}
	return status
}

// parseOwner reads USER, USER:GROUP, USER: (the user's own group) or :GROUP.
// bad is the message for a name that is not known.
func parseOwner(s string) (uid, gid int, bad string) {
	uid, gid = -1, -1
	user, group, hasGroup := strings.Cut(s, ":")
	if user != "" {
		a, ok := loadUsers().find(user)
		if !ok {
			n, err := strconv.ParseUint(user, 10, 31)
			if err != nil {
				return -1, -1, "invalid user: '" + s + "'"
			}
			a = account{id: uint32(n)}
			if hasGroup && group == "" {
				return -1, -1, "invalid spec: '" + s + "'"
			}
		}
		uid = int(a.id)
		if hasGroup && group == "" {
			gid = int(a.gid)
		}
	}
	if group != "" {
		a, ok := loadGroups().find(group)
		if !ok {
			n, err := strconv.ParseUint(group, 10, 31)
			if err != nil {
				return -1, -1, "invalid group: '" + group + "'"
			}
			a.id = uint32(n)
		}
		gid = int(a.id)
	}
	return uid, gid, ""
}
