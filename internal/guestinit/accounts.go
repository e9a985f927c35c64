package guestinit

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// addUsers returns passwd and group with entries for root and for all users, and which users
// are new. Entries that are there stay as the image has them.
func addUsers(passwd, group []byte, users []agentproto.User, shell string) (newPasswd, newGroup []byte, added []agentproto.User, err error) {
	all := append([]agentproto.User{{Name: "root", Home: "/root"}}, users...)
	for _, u := range all {
		if err := checkUser(u); err != nil {
			return nil, nil, nil, err
		}
		if !hasField(group, 0, u.Name) && !hasField(group, 2, fmt.Sprint(u.GID)) {
			group = appendLine(group, fmt.Sprintf("%s:x:%d:", u.Name, u.GID))
		}
		if hasField(passwd, 0, u.Name) {
			continue
		}
		if u.Home == "" {
			u.Home = "/home/" + u.Name
		}
		if u.Shell == "" {
			u.Shell = shell
		}
		passwd = appendLine(passwd, fmt.Sprintf("%s:x:%d:%d::%s:%s", u.Name, u.UID, u.GID, u.Home, u.Shell))
		added = append(added, u)
	}
	return passwd, group, added, nil
}

// checkUser refuses what would break the line it is written to.
func checkUser(u agentproto.User) error {
	bad := func(s string) bool { return strings.ContainsAny(s, ":\n\x00") }
	switch {
	case u.Name == "" || len(u.Name) > 32 || bad(u.Name) || strings.ContainsAny(u.Name, "/ \t"):
		return fmt.Errorf("user name %.40q is impossible", u.Name)
	case bad(u.Home) || bad(u.Shell) || u.Home != "" && !strings.HasPrefix(u.Home, "/"):
		return fmt.Errorf("user %s has an impossible home or shell", u.Name)
	case u.UID == 1<<32-1 || u.GID == 1<<32-1:
		return fmt.Errorf("user %s has a reserved number", u.Name)
	}
	return nil
}

// hasField reports whether a line of a colon-separated database has value in field n.
func hasField(db []byte, n int, value string) bool {
	for line := range bytes.Lines(db) {
		f := strings.Split(strings.TrimSuffix(string(line), "\n"), ":")
		if len(f) > n && f[n] == value {
			return true
		}
	}
	return false
}

func appendLine(db []byte, line string) []byte {
	if len(db) > 0 && db[len(db)-1] != '\n' {
		db = append(db, '\n')
	}
	return append(append(db, line...), '\n')
}

// hostsFile is /etc/hosts for an image that has none.
func hostsFile(hostname string) string {
	return "127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 " + hostname + "\n"
}

// hostnameOf returns a host name that the kernel and /etc/hosts can take: letters, digits,
// hyphens and dots, at most 64 bytes (HOST_NAME_MAX).
func hostnameOf(c *agentproto.Config) string {
	for _, name := range []string{c.Hostname, c.Name} {
		if name != "" && len(name) <= 64 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") == "" {
			return name
		}
	}
	return "mvm"
}

// ServiceGroup is the group that may read secrets, if the image has it.
const ServiceGroup = "service"
