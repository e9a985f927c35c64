package guestinit

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

func TestAddUsers(t *testing.T) {
	web := agentproto.User{Name: "web", UID: 900, GID: 901}
	for name, tt := range map[string]struct {
		passwd, group, wantPasswd, wantGroup string
		users                                []agentproto.User
		added                                []string
	}{
		"an image without accounts": {
			"", "", "root:x:0:0::/root:/bin/sh\nweb:x:900:901::/home/web:/bin/sh\n", "root:x:0:\nweb:x:901:\n",
			[]agentproto.User{web},
			[]string{"root", "web"},
		},
		"what the image has stays": {
			"root:x:0:0:root:/:/bin/ash\nweb:x:5:6::/w:/bin/false\n", "root:x:0:\nstaff:x:901:\n",
			"root:x:0:0:root:/:/bin/ash\nweb:x:5:6::/w:/bin/false\n", "root:x:0:\nstaff:x:901:\n",
			[]agentproto.User{web},
			nil,
		},
		"no newline at the end": {
			"root:x:0:0::/root:/bin/sh", "root:x:0:", "root:x:0:0::/root:/bin/sh\nweb:x:900:901::/srv:/bin/dash\n", "root:x:0:\nweb:x:901:\n",
			[]agentproto.User{{Name: "web", UID: 900, GID: 901, Home: "/srv", Shell: "/bin/dash"}},
			[]string{"web"},
		},
	} {
		passwd, group, added, err := addUsers([]byte(tt.passwd), []byte(tt.group), tt.users, "/bin/sh")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var names []string
		for _, u := range added {
			names = append(names, u.Name)
		}
		if d := cmp.Diff([]string{tt.wantPasswd, tt.wantGroup, strings.Join(tt.added, " ")}, []string{string(passwd), string(group), strings.Join(names, " ")}); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// A user must not smuggle a second line, or root's number under another name's line, into passwd.
func TestAddUsersRefuses(t *testing.T) {
	for name, u := range map[string]agentproto.User{
		"no name":         {},
		"newline in name": {Name: "a\nroot2:x:0:0::/:/bin/sh"},
		"colon in name":   {Name: "a:b"},
		"slash in name":   {Name: "../a"},
		"long name":       {Name: strings.Repeat("a", 33)},
		"newline in home": {Name: "a", Home: "/x\nb"},
		"colon in shell":  {Name: "a", Shell: "/bin/sh:x"},
		"relative home":   {Name: "a", Home: "home"},
		"reserved uid":    {Name: "a", UID: 1<<32 - 1},
		"reserved gid":    {Name: "a", GID: 1<<32 - 1},
	} {
		if _, _, _, err := addUsers(nil, nil, []agentproto.User{u}, "/bin/sh"); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestHostname(t *testing.T) {
	for want, c := range map[string]agentproto.Config{
		"box":   {Hostname: "box", Name: "m"},
		"m":     {Hostname: "no good", Name: "m"},
		"a.b-c": {Hostname: "a.b-c"},
		"mvm":   {Hostname: strings.Repeat("a", 65), Name: "b\nc"},
	} {
		if got := hostnameOf(&c); got != want {
			t.Errorf("%q, %q: got %q, want %q", c.Hostname, c.Name, got, want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	c := &agentproto.Config{Env: map[string]string{"A": "1", "PATH": "/app"}}
	got := environment(c, "/bin")
	if d := cmp.Diff(map[string]string{"A": "1", "PATH": "/app:/run/mvm/bin"}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if c.Env["PATH"] != "/app" {
		t.Error("the config was changed")
	}
	if got := environment(&agentproto.Config{}, "/bin")["PATH"]; got != "/bin:/run/mvm/bin" {
		t.Errorf("PATH %q", got)
	}
}

func FuzzAddUsers(f *testing.F) {
	f.Add("root:x:0:0::/:/bin/sh\n", "root:x:0:\n", "web", "/home/web")
	f.Add("::::\n\x00", "", "a:b", "")
	f.Fuzz(func(t *testing.T, passwd, group, name, home string) {
		got, _, added, err := addUsers([]byte(passwd), []byte(group), []agentproto.User{{Name: name, UID: 1, GID: 1, Home: home}}, "/bin/sh")
		if err != nil {
			return
		}
		if !strings.HasPrefix(string(got), passwd) {
			t.Error("the image's own lines changed")
		}
		if lines := strings.Count(string(got[len(passwd):]), "\n"); lines > len(added)+1 {
			t.Errorf("%d users made %d lines", len(added), lines)
		}
	})
}
