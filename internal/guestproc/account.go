//go:build unix

package guestproc

import (
	"bufio"
	"bytes"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// Bounds of what is read from a guest's passwd and group files: an image may say anything.
const (
	maxDatabase = 1 << 20 // bytes of one file; the rest is not looked at
	maxGroups   = 1024    // supplementary groups of one user; the kernel takes 65536
)

// account is who a process runs as.
type account struct {
	name   string // "" for a number without an entry
	uid    uint32
	gid    uint32
	groups []uint32
	home   string
	shell  string
}

// credential is nil when this process runs as the same user already, so that an agent
// without privileges can run programs as itself.
func (a account) credential() *syscall.Credential {
	if int(a.uid) == os.Geteuid() && int(a.gid) == os.Getegid() && len(a.groups) == 0 {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid, Groups: a.groups}
}

// account finds the user that spec names: "", name, uid, and either with :group or :gid. ""
// is the user that this process runs as, which is root in a guest. A uid without an entry
// has group 0 and home /, as container engines have it.
func (v rootView) account(spec string) (account, *agentproto.Error) {
	passwd := v.database("/etc/passwd")
	if spec == "" {
		uid := uint32(os.Geteuid())
		a, ok := findUser(passwd, "", uid)
		if !ok {
			a = fallbackAccount(uid)
		}
		// No change of identity: the process keeps what this one has.
		a.uid, a.gid, a.groups = uid, uint32(os.Getegid()), nil
		return a, nil
	}
	user, group, withGroup := strings.Cut(spec, ":")
	uid, numeric := parseID(user)
	var (
		a  account
		ok bool
	)
	if numeric {
		if a, ok = findUser(passwd, "", uid); !ok {
			a, ok = fallbackAccount(uid), true
		}
	} else if user != "" {
		if a, ok = findUser(passwd, user, 0); !ok && user == "root" {
			a, ok = fallbackAccount(0), true
		}
	}
	if !ok {
		return account{}, agentproto.Errorf(agentproto.CodeUser, "use a name from the guest's /etc/passwd, or uid:gid",
			"no user %q in the guest", clip(user))
	}
	if withGroup {
		gid, ok := v.groupID(group)
		if !ok {
			return account{}, agentproto.Errorf(agentproto.CodeUser, "use a name from the guest's /etc/group, or a number",
				"no group %q in the guest", clip(group))
		}
		a.gid = gid // an explicit group stands alone, as with newgrp(1) in container engines
		return a, nil
	}
	if a.name != "" {
		a.groups = findGroups(v.database("/etc/group"), a.name, a.gid)
	}
	return a, nil
}

func fallbackAccount(uid uint32) account {
	if uid == 0 {
		return account{name: "root", home: "/root"}
	}
	return account{uid: uid, home: "/"}
}

func (v rootView) groupID(group string) (uint32, bool) {
	if gid, ok := parseID(group); ok {
		return gid, true
	}
	if group == "" {
		return 0, false
	}
	for f := range records(v.database("/etc/group")) {
		if len(f) >= 3 && f[0] == group {
			return parseID(f[2])
		}
	}
	return 0, false
}

// findUser looks for a name, or for a uid when name is "".
func findUser(passwd []byte, name string, uid uint32) (account, bool) {
	for f := range records(passwd) {
		if len(f) < 6 || f[0] == "" || name != "" && f[0] != name {
			continue
		}
		id, ok := parseID(f[2])
		gid, gok := parseID(f[3])
		if !ok || !gok || name == "" && id != uid {
			continue
		}
		a := account{name: f[0], uid: id, gid: gid, home: f[5]}
		if !strings.HasPrefix(a.home, "/") {
			a.home = "/"
		}
		if len(f) > 6 {
			a.shell = f[6]
		}
		return a, true
	}
	return account{}, false
}

func findGroups(group []byte, user string, primary uint32) []uint32 {
	var gids []uint32
	for f := range records(group) {
		if len(f) < 4 || !slices.Contains(strings.Split(f[3], ","), user) {
			continue
		}
		gid, ok := parseID(f[2])
		if ok && gid != primary && !slices.Contains(gids, gid) {
			gids = append(gids, gid)
		}
		if len(gids) == maxGroups {
			break
		}
	}
	return gids
}

// records iterates over the fields of a colon-separated database.
func records(data []byte) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		lines := bufio.NewScanner(bytes.NewReader(data))
		lines.Buffer(make([]byte, 0, 4096), maxDatabase+1)
		for lines.Scan() {
			line := lines.Text()
			if line == "" || line[0] == '#' || hasNUL(line) {
				continue
			}
			if !yield(strings.Split(line, ":")) {
				return
			}
		}
	}
}

// parseID reads a uid or gid. The largest number means "no change" to the kernel and is no id.
func parseID(s string) (uint32, bool) {
	if s == "" || s[0] == '+' || s[0] == '-' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == math.MaxUint32 {
		return 0, false
	}
	return uint32(n), true
}

// database returns the first maxDatabase bytes of a file of the guest, nothing when it is
// missing or no regular file.
func (v rootView) database(name string) []byte {
	f, err := v.openRegular(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxDatabase))
	if err != nil {
		return nil
	}
	return data
}
