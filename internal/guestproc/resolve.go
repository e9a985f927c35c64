//go:build unix

package guestproc

import (
	"errors"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// DefaultPath is the search path of a process when nothing says another one.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Resolver answers what a request leaves open: the program's full path, the user's numbers,
// the working directory and the environment. All files are looked up below Root as a chroot
// there would see them, links included.
type Resolver struct {
	Root    string            // "" or "/": this process's own root
	BaseEnv map[string]string // for every process of the machine
	Path    string            // search path when neither BaseEnv nor the request has one; "": DefaultPath
}

// Resolve checks p and returns what to start. HOME, USER, LOGNAME, SHELL and PATH are filled
// in where neither BaseEnv nor p has them; p's own environment wins over BaseEnv. A
// working directory that p does not name is the user's home, or / when that is missing.
func (r Resolver) Resolve(p agentproto.Process) (Spec, *agentproto.Error) {
	if err := checkProcess(p); err != nil {
		return Spec{}, err
	}
	root := rootView{r.Root}
	acct, err := root.account(p.User)
	if err != nil {
		return Spec{}, err
	}
	env := r.env(acct, p.Env)
	dir, err := root.workDir(p.Dir, acct.home)
	if err != nil {
		return Spec{}, err
	}
	prog, err := root.program(p.Args[0], dir, env["PATH"])
	if err != nil {
		return Spec{}, err
	}
	s := Spec{Path: prog, Args: p.Args, Env: make([]string, 0, len(env)), Dir: dir, Cred: acct.credential()}
	for _, k := range slices.Sorted(maps.Keys(env)) {
		s.Env = append(s.Env, k+"="+env[k])
	}
	if !root.own() {
		s.Root = r.Root
	}
	return s, nil
}

func checkProcess(p agentproto.Process) *agentproto.Error {
	invalid := func(format string, args ...any) *agentproto.Error {
		return agentproto.Errorf(agentproto.CodeInvalid, "correct the request", format, args...)
	}
	switch {
	case len(p.Args) == 0 || p.Args[0] == "":
		return invalid("no command")
	case len(p.Args) > agentproto.MaxArgs:
		return invalid("%d arguments, at most %d are taken", len(p.Args), agentproto.MaxArgs)
	case len(p.Env) > agentproto.MaxEnv:
		return invalid("%d environment variables, at most %d are taken", len(p.Env), agentproto.MaxEnv)
	case slices.ContainsFunc(p.Args, hasNUL) || hasNUL(p.Dir) || hasNUL(p.User):
		return invalid("a NUL byte in the command")
	}
	for k, v := range p.Env {
		if k == "" || strings.ContainsRune(k, '=') || hasNUL(k) || hasNUL(v) {
			return invalid("environment variable %q has an impossible name or value", clip(k))
		}
	}
	return nil
}

func hasNUL(s string) bool { return strings.IndexByte(s, 0) >= 0 }

// clip bounds a foreign string for a message.
func clip(s string) string {
	const most = 128
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

func (r Resolver) env(a account, own map[string]string) map[string]string {
	searchPath := r.Path
	if searchPath == "" {
		searchPath = DefaultPath
	}
	env := map[string]string{"PATH": searchPath, "HOME": a.home}
	if a.name != "" {
		env["USER"], env["LOGNAME"] = a.name, a.name
	}
	if a.shell != "" {
		env["SHELL"] = a.shell
	}
	maps.Copy(env, r.BaseEnv)
	maps.Copy(env, own)
	return env
}

// workDir returns the absolute working directory.
func (v rootView) workDir(want, home string) (string, *agentproto.Error) {
	if want == "" {
		if v.isDir(home) {
			return home, nil
		}
		return "/", nil
	}
	if !path.IsAbs(want) {
		return "", agentproto.Errorf(agentproto.CodeDir, "give it from / on", "working directory %s is not absolute", clip(want))
	}
	st, err := v.stat(want)
	switch {
	case err != nil:
		return "", agentproto.Errorf(agentproto.CodeDir, "create it, or name another with --workdir",
			"working directory %s: %v", clip(want), errors.Unwrap(err))
	case st.Mode&syscall.S_IFMT != syscall.S_IFDIR:
		return "", agentproto.Errorf(agentproto.CodeDir, "name a folder", "working directory %s is not a folder", clip(want))
	}
	return want, nil
}

// program returns the path of the program that name means, as execvp(3) finds it, except
// that an empty element of the search path is skipped and not the working directory.
func (v rootView) program(name, dir, searchPath string) (string, *agentproto.Error) {
	if strings.ContainsRune(name, '/') {
		full := name
		if !path.IsAbs(full) {
			full = path.Join(dir, full)
		}
		return full, v.executable(full, name)
	}
	var found *agentproto.Error
	for elem := range strings.SplitSeq(searchPath, ":") {
		if elem == "" {
			continue
		}
		if !path.IsAbs(elem) {
			elem = path.Join(dir, elem)
		}
		full := strings.TrimSuffix(elem, "/") + "/" + name
		err := v.executable(full, name)
		if err == nil {
			return full, nil
		}
		if err.Code != agentproto.CodeNotFound && found == nil {
			found = err
		}
	}
	if found != nil {
		return "", found
	}
	return "", agentproto.Errorf(agentproto.CodeNotFound, "check the spelling, or give the full path; PATH in the guest is "+clip(searchPath),
		"%s: not found", clip(name))
}

func (v rootView) executable(full, name string) *agentproto.Error {
	st, err := v.stat(full)
	switch {
	case errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.ELOOP):
		return agentproto.Errorf(agentproto.CodeNotExecutable, "check the modes of its folders", "%s: %v", clip(name), errors.Unwrap(err))
	case err != nil:
		return agentproto.Errorf(agentproto.CodeNotFound, "check the path in the guest", "%s: not found", clip(name))
	case st.Mode&syscall.S_IFMT == syscall.S_IFDIR:
		return agentproto.Errorf(agentproto.CodeNotExecutable, "name a program in it", "%s: is a folder", clip(name))
	case st.Mode&0o111 == 0 || st.Mode&syscall.S_IFMT != syscall.S_IFREG:
		return agentproto.Errorf(agentproto.CodeNotExecutable, "chmod +x it in the guest", "%s: not executable", clip(name))
	}
	return nil
}
