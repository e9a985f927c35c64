//go:build unix

package guestproc

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

const testPasswd = `# people
root:x:0:0:root:/root:/bin/ash
broken line
alice:x:1000:100:Alice,,,:/home/alice:/bin/bash
nohome:x:1001:1001::/nowhere:
evil:x:-1:0::/:/bin/sh
huge:x:4294967295:0::/:/bin/sh
`

const testGroup = `root:x:0:
users:x:100:alice
wheel:x:10:root,alice
docker:x:999:bob,alice
dup:x:10:alice
bad:x:zero:alice
`

// testRoot is a small guest root.
func testRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, d := range []string{"etc", "bin", "usr/bin", "home/alice", "root", "srv"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("etc/passwd", testPasswd, 0o644)
	write("etc/group", testGroup, 0o644)
	write("bin/tool", "x", 0o755)
	write("usr/bin/plain", "x", 0o644)
	write("srv/app", "x", 0o755)
	return root
}

func TestResolveUsers(t *testing.T) {
	r := Resolver{Root: testRoot(t), Path: "/bin"}
	self := os.Geteuid() // the credential of one's own user is nil
	for _, c := range []struct {
		user   string
		want   *syscall.Credential
		dir    string
		envHas string
	}{
		{"alice", &syscall.Credential{Uid: 1000, Gid: 100, Groups: []uint32{10, 999}}, "/home/alice", "USER=alice"},
		{"1000", &syscall.Credential{Uid: 1000, Gid: 100, Groups: []uint32{10, 999}}, "/home/alice", "SHELL=/bin/bash"},
		{"1000:5", &syscall.Credential{Uid: 1000, Gid: 5}, "/home/alice", "HOME=/home/alice"},
		{"alice:docker", &syscall.Credential{Uid: 1000, Gid: 999}, "/home/alice", "LOGNAME=alice"},
		{"nohome", &syscall.Credential{Uid: 1001, Gid: 1001}, "/", "HOME=/nowhere"},
		{"5000", &syscall.Credential{Uid: 5000}, "/", "HOME=/"},
		{"5000:6000", &syscall.Credential{Uid: 5000, Gid: 6000}, "/", "PATH=/bin"},
	} {
		s, err := r.Resolve(agentproto.Process{Args: []string{"tool"}, User: c.user})
		if err != nil {
			t.Errorf("%q: %v", c.user, err)
			continue
		}
		if diff := cmp.Diff(c.want, s.Cred); diff != "" && self != 1000 {
			t.Errorf("%q: credential (-want +got):\n%s", c.user, diff)
		}
		if s.Dir != c.dir || !strings.Contains(strings.Join(s.Env, "\n"), c.envHas) || s.Path != "/bin/tool" || s.Root != r.Root {
			t.Errorf("%q: got %+v", c.user, s)
		}
	}
}

func TestResolveOwnUserNeedsNoCredential(t *testing.T) {
	s, err := Resolver{Root: testRoot(t), Path: "/bin"}.Resolve(agentproto.Process{Args: []string{"tool"}})
	if err != nil || s.Cred != nil {
		t.Errorf("got %+v, %v", s.Cred, err)
	}
}

func TestResolveRefuses(t *testing.T) {
	r := Resolver{Root: testRoot(t), Path: "/usr/bin:/bin"}
	for name, c := range map[string]struct {
		p    agentproto.Process
		code string
	}{
		"no command":           {agentproto.Process{}, agentproto.CodeInvalid},
		"empty command":        {agentproto.Process{Args: []string{""}}, agentproto.CodeInvalid},
		"too many arguments":   {agentproto.Process{Args: make([]string, agentproto.MaxArgs+1)}, agentproto.CodeInvalid},
		"NUL in an argument":   {agentproto.Process{Args: []string{"tool", "a\x00b"}}, agentproto.CodeInvalid},
		"NUL in a value":       {agentproto.Process{Args: []string{"tool"}, Env: map[string]string{"A": "\x00"}}, agentproto.CodeInvalid},
		"= in a name":          {agentproto.Process{Args: []string{"tool"}, Env: map[string]string{"A=B": ""}}, agentproto.CodeInvalid},
		"unknown program":      {agentproto.Process{Args: []string{"nope"}}, agentproto.CodeNotFound},
		"unknown path":         {agentproto.Process{Args: []string{"/bin/nope"}}, agentproto.CodeNotFound},
		"a folder":             {agentproto.Process{Args: []string{"/srv"}}, agentproto.CodeNotExecutable},
		"not executable":       {agentproto.Process{Args: []string{"plain"}}, agentproto.CodeNotExecutable},
		"unknown user":         {agentproto.Process{Args: []string{"tool"}, User: "mallory"}, agentproto.CodeUser},
		"unknown group":        {agentproto.Process{Args: []string{"tool"}, User: "alice:nope"}, agentproto.CodeUser},
		"empty group":          {agentproto.Process{Args: []string{"tool"}, User: "alice:"}, agentproto.CodeUser},
		"empty user":           {agentproto.Process{Args: []string{"tool"}, User: ":5"}, agentproto.CodeUser},
		"negative uid entry":   {agentproto.Process{Args: []string{"tool"}, User: "evil"}, agentproto.CodeUser},
		"reserved uid entry":   {agentproto.Process{Args: []string{"tool"}, User: "huge"}, agentproto.CodeUser},
		"reserved uid":         {agentproto.Process{Args: []string{"tool"}, User: "4294967295"}, agentproto.CodeUser},
		"signed uid":           {agentproto.Process{Args: []string{"tool"}, User: "+5"}, agentproto.CodeUser},
		"missing directory":    {agentproto.Process{Args: []string{"tool"}, Dir: "/nope"}, agentproto.CodeDir},
		"relative directory":   {agentproto.Process{Args: []string{"tool"}, Dir: "srv"}, agentproto.CodeDir},
		"file as directory":    {agentproto.Process{Args: []string{"tool"}, Dir: "/etc/passwd"}, agentproto.CodeDir},
		"user of a huge name":  {agentproto.Process{Args: []string{"tool"}, User: strings.Repeat("a", 1<<20)}, agentproto.CodeUser},
		"program of huge name": {agentproto.Process{Args: []string{strings.Repeat("a", 1<<20)}}, agentproto.CodeNotFound},
	} {
		_, err := r.Resolve(c.p)
		if err == nil || err.Code != c.code {
			t.Errorf("%s: got %v, want %s", name, err, c.code)
			continue
		}
		if len(err.Message) > 512 {
			t.Errorf("%s: message of %d bytes", name, len(err.Message))
		}
	}
}

func TestResolvePathsAndEnvironment(t *testing.T) {
	r := Resolver{Root: testRoot(t), Path: "/bin", BaseEnv: map[string]string{"A": "base", "B": "base"}}
	s, err := r.Resolve(agentproto.Process{Args: []string{"./app", "x"}, Dir: "/srv", Env: map[string]string{"B": "own", "PATH": "/usr/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	if s.Path != "/srv/app" || s.Dir != "/srv" || s.Args[0] != "./app" {
		t.Errorf("got %+v", s)
	}
	env := strings.Join(s.Env, "\n")
	for _, want := range []string{"A=base", "B=own", "PATH=/usr/bin", "HOME="} {
		if !strings.Contains(env, want) {
			t.Errorf("environment lacks %s:\n%s", want, env)
		}
	}
	// An unusable file earlier in the search path does not hide a good one later.
	if err := os.WriteFile(filepath.Join(r.Root, "usr/bin/tool"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s, err = r.Resolve(agentproto.Process{Args: []string{"tool"}, Env: map[string]string{"PATH": "::/usr/bin:/bin"}})
	if err != nil || s.Path != "/bin/tool" {
		t.Errorf("got %q, %v", s.Path, err)
	}
}

func FuzzAccount(f *testing.F) {
	f.Add(testPasswd, testGroup, "alice")
	f.Add("a:::::", "::", "0:0")
	f.Add(strings.Repeat(":", 4096), "\x00", ":")
	f.Fuzz(func(t *testing.T, passwd, group, spec string) {
		root := t.TempDir()
		_ = os.Mkdir(root+"/etc", 0o755)
		_ = os.WriteFile(root+"/etc/passwd", []byte(passwd), 0o644)
		_ = os.WriteFile(root+"/etc/group", []byte(group), 0o644)
		a, err := rootView{root}.account(spec)
		if err != nil {
			return
		}
		if len(a.groups) > maxGroups || !strings.HasPrefix(a.home, "/") || a.uid == 1<<32-1 || a.gid == 1<<32-1 {
			t.Errorf("account %+v", a)
		}
	})
}
