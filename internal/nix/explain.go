package nix

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

const maxDetail = 4 << 10 // of what is shown of nix's words, in bytes

const listTime = 20 * time.Second // for asking a flake which packages it has

// missing is the error for a host without nix.
func missing(err error) error {
	return machine.Errorf("nix.missing", installHint(runtime.GOOS), "nix is not installed: %w", err)
}

func installHint(goos string) string {
	if goos == "darwin" {
		return "install it: https://nixos.org/download (multi-user); guests are built by a Linux builder, see docs/nix.md"
	}
	return "install it: https://nixos.org/download, or your distribution's package (Debian, Ubuntu: apt-get install nix-bin nix-setup-systemd; Fedora: dnf install nix; Arch: pacman -S nix; Alpine: apk add nix), then start its daemon"
}

// rule recognises one kind of failure by what nix says. The first that matches decides, so the
// special ones come first.
type rule struct {
	pattern *regexp.Regexp
	make    func(t target, text []string) *machine.Error // text: the match and its groups
}

func is(pattern string, f func(t target, m []string) *machine.Error) rule {
	return rule{regexp.MustCompile("(?i)" + pattern), f}
}

// rules returns what we know of nix's messages, from Nix 2.8 (Debian 12) to 2.30.
func rules() []rule {
	return slices.Concat(hostRules(), flakeRules(), buildRules())
}

// hostRules are about Nix itself and the machine that it runs on.
func hostRules() []rule {
	return []rule{
		is(`the group '[^']*' specified in 'build-users-group' does not exist|the build users group '[^']*' has no members`, func(target, []string) *machine.Error {
			return machine.Errorf("nix.setup", "set Nix up with its daemon (Debian: apt-get install nix-setup-systemd); or, in a container as root, let builds run as root: put the line 'build-users-group =' into /etc/nix/nix.conf",
				"Nix has no users to run builds as")
		}),
		is(`(could not set permissions on|creating directory|opening lock file|cannot connect to (?:socket|daemon)|changing ownership of path|cannot open connection).*(/nix/|daemon-socket)[^\n]*`, func(_ target, m []string) *machine.Error {
			return machine.Errorf("nix.setup", "start the Nix daemon (systemctl start nix-daemon) and see that you may use it (group nix-users, where there is one); without a daemon only the owner of /nix can build",
				"you may not use this host's Nix store: %s", firstLine(m[0]))
		}),
		is(`no space left on device|disk quota exceeded`, func(_ target, m []string) *machine.Error {
			return noSpace(firstLine(m[0]))
		}),
		is(`experimental (?:nix )?feature '([^']*)' is disabled`, func(_ target, m []string) *machine.Error {
			return machine.Errorf("nix.features", "allow it: put 'extra-experimental-features = nix-command flakes "+word(m[1])+"' into /etc/nix/nix.conf or ~/.config/nix/nix.conf",
				"Nix was told not to use its feature %s", word(m[1]))
		}),
		is(`unrecogni[sz]ed (?:flag|option) '([^']*)'`, func(_ target, m []string) *machine.Error {
			return machine.Errorf("nix.argument", "`nix --version` says which Nix this is; mvmctl needs 2.8 or later. `"+byHand("build", "--help")+"` lists its flags",
				"this Nix does not know the flag %s", word(m[1]))
		}),
	}
}

func noSpace(what string) *machine.Error {
	return machine.Errorf("limit.disk", "make room: nix-collect-garbage -d removes what no longer is in use; see also df -h /nix /tmp",
		"there is no space left for Nix: %s", what)
}

// flakeRules are about the flake as source.
func flakeRules() []rule {
	return []rule{
		is(`path '?([^'\n]*)'? (?:in the repository "?([^"\n]*)"? )?is not tracked by git`, func(t target, m []string) *machine.Error {
			return t.untracked(m[1], m[2])
		}),
		is(`getting status of '[^']*/store/[0-9a-z]{32}-source/([^'\n]*)'`, func(t target, m []string) *machine.Error {
			if t.local == "" {
				return machine.Errorf("nix.flake", "tell its author", "the flake %s lacks its file %s", clip(t.shown, 80), m[1])
			}
			return t.untracked(m[1], "")
		}),
		is(`could not find a flake\.nix file|does not contain a '?(?:[^\n']*/)?flake\.nix'?|getting status of '[^']*': no such file or directory|has no file named 'flake\.nix'|path '[^']*' does not exist`, func(t target, _ []string) *machine.Error {
			return machine.Errorf("nix.flake", "mvmctl template init writes one to start from; a flake in a folder of a repository is github:OWNER/REPO?dir=FOLDER",
				"there is no flake.nix in %s", clip(t.shown, 120))
		}),
		is(`cannot find flake '([^']*)' in the flake registries|input '([^']*)' is unsupported|'([^']*)' is not a valid (?:url|flake)`, func(t target, _ []string) *machine.Error {
			return machine.Errorf("nix.flake", "give a folder with a flake.nix (./FOLDER), or a reference such as github:OWNER/REPO", "%q is neither a folder nor a flake that Nix knows", clip(t.shown, 120))
		}),
		is(`unable to download '([^']*)': http error 404`, func(_ target, m []string) *machine.Error {
			return machine.Errorf("nix.download", "check owner, repository and branch; a private one needs access-tokens in nix.conf", "Nix cannot find %s", word(m[1]))
		}),
		is(`unable to download '([^']*)'([^\n;]*)|unable to access '(https?://[^']*)'([^\n]*)`, func(_ target, m []string) *machine.Error {
			return machine.Errorf("nix.download", "check the network and proxy settings (https_proxy); what was fetched before works with --offline", "Nix cannot download %s%s", word(m[1]+m[3]), firstLine(m[2]+m[4]))
		}),
		is(`does not provide attribute [^\n]*`, func(t target, _ []string) *machine.Error {
			what := "packages." + t.system + "." + t.profile
			if t.attr != "" {
				what = t.attr
			}
			return machine.Errorf("nix.attribute", "`"+t.byHand("flake", "show", t.ref)+"` lists what the flake has", "the flake %s has no %s", clip(t.shown, 80), what)
		}),
		is(`is not a derivation`, func(t target, _ []string) *machine.Error {
			return machine.Errorf("nix.output", "make it with mvm.lib.mkGuest (docs/nix.md); mvmctl template init shows how", "%s is not a guest, and nothing that can be built", t.installable())
		}),
	}
}

// untracked is the error for a file that the flake's source does not have; repository is where
// Nix says that it should be, if it does.
func (t target) untracked(file, repository string) *machine.Error {
	file = clip(file, 120)
	if repository == "" {
		repository = repositoryOf(t.local)
	}
	if repository == "" {
		return machine.Errorf("nix.flake", "write the file, or correct the flake where it names it", "the flake %s needs its file %s, and it is not there", clip(t.shown, 80), file)
	}
	return machine.Errorf("nix.untracked", "git -C "+quote(repository)+" add "+quote(file)+"; in a Git repository a flake sees only files that Git knows (committed or not)",
		"the flake needs %s, and it is not there or not tracked by Git", file)
}

// repositoryOf returns the top of the Git repository that a folder is in, "" for none. A flake's
// source is the whole repository, so that is what its files' names begin at.
func repositoryOf(dir string) string {
	for dir != "" {
		if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			break
		}
		dir = up
	}
	return ""
}

// byHand is a command line of nix that can be pasted: it asks for what may not be switched on,
// and its words are quoted for a shell.
func byHand(words ...string) string {
	line := []string{"nix --extra-experimental-features 'nix-command flakes'"}
	for _, w := range words {
		line = append(line, quote(w))
	}
	return strings.Join(line, " ")
}

// byHand is byHand with the flags that were in use, which come before the flake.
func (t target) byHand(words ...string) string {
	last := len(words) - 1
	return byHand(slices.Concat(words[:last], t.flags, words[last:])...)
}

// quote makes a text one word of a shell.
func quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// buildRules are about evaluation and builds.
func buildRules() []rule {
	return []rule{
		is(`hash mismatch in [^\n]*'([^']*)':?(?s:.*?)got:\s*(\S+)`, func(_ target, m []string) *machine.Error {
			return machine.Errorf("nix.hash", "if the change is expected, write "+clip(m[2], 120)+" as the new hash into the flake; otherwise the source was changed under you",
				"what was downloaded for %s is not what the flake says", derivationName(m[1]))
		}),
		is(`package ['‘]([^'’\n]*)['’][^\n]*(unfree|marked as broken|marked as insecure|not available on the requested)[^\n]*`, func(_ target, m []string) *machine.Error {
			return machine.Errorf("nix.refused", "allow it in the flake where nixpkgs is imported: import nixpkgs { inherit system; config.allowUnfree = true; } (or permittedInsecurePackages, allowBroken)",
				"nixpkgs refuses %s: %s", clip(m[1], 80), strings.ToLower(m[2]))
		}),
		is(`a '([^']*)' with features[^\n]* is required to build '([^']*)'[^\n]*|required system(?: or feature)?[^\n]*?\x{27}?([a-z0-9_]+-(?:linux|darwin))`, func(_ target, m []string) *machine.Error {
			need := m[1] + m[3]
			return machine.Errorf("nix.system", "give Nix a builder for "+word(need)+" (docs/nix.md, \"Other systems\"), or build on such a machine", "this host cannot build for %s", word(need))
		}),
		is(`(mkGuest|mkPythonService|mkNodeService|mkStaticSite): [^\n]*`, func(_ target, m []string) *machine.Error {
			return machine.Errorf("nix.guest", "correct the argument in the flake; docs/nix.md says what each takes", "%s", firstLine(m[0]))
		}),
		is(`builder for '([^']*)' failed|cannot build '([^']*)'`, func(_ target, m []string) *machine.Error {
			drv := m[1] + m[2]
			return machine.Errorf("nix.build", "`"+byHand("log", clip(drv, 200))+"` shows all of it", "building %s failed", derivationName(drv))
		}),
	}
}

// explain turns what nix said into one cause and one remedy. Other errors stay as they are.
func (t target) explain(ctx context.Context, o Options, err error) error {
	var f *failure
	if !errors.As(err, &f) {
		return err
	}
	e := t.classify(f)
	e.Err = err
	e.Detail = detail(f.tail)
	if o.Offline && e.Code == "nix.download" {
		e.Remedy = "leave out --offline once, so that Nix fetches it and the flake gets its lock; or give another source: --override-input NAME=FOLDER"
	}
	if e.Code == "nix.attribute" && t.attr == "" {
		ctx, cancel := context.WithTimeout(ctx, listTime)
		defer cancel()
		if names, err := t.packages(ctx, o); err == nil && len(names) > 0 {
			e.Remedy = "choose one with --profile: " + clip(strings.Join(names, ", "), 400)
		}
	}
	return e
}

// detail is the end of what nix and its builds said, short enough for a terminal.
func detail(tail []string) string {
	var lines []string
	size := 0
	for _, text := range slices.Backward(tail) {
		for _, line := range slices.Backward(strings.Split(strings.TrimRight(text, "\n"), "\n")) {
			line = clip(line, 240)
			if size += len(line) + 1; size > maxDetail {
				slices.Reverse(lines)
				return "…\n" + strings.Join(lines, "\n")
			}
			lines = append(lines, line)
		}
	}
	slices.Reverse(lines)
	return strings.Join(lines, "\n")
}

// classify finds the rule for a failure. Nix's own errors decide, in the order in which it gave
// them: the first names the cause and later ones what failed because of it. What a build printed
// may say anything, so of it only a full disk counts.
func (t target) classify(f *failure) *machine.Error {
	causes := f.causes
	var exit *exec.ExitError
	if errors.As(f.err, &exit) && len(causes) == 0 {
		if w, ok := exit.Sys().(syscall.WaitStatus); ok && w.Signaled() {
			return machine.Errorf("nix.killed", "see whether the host ran out of memory (dmesg); otherwise try again, what was built so far is kept", "nix was killed from outside: signal %d (%s)", int(w.Signal()), w.Signal())
		}
	}
	if len(causes) == 0 {
		causes = f.tail // nix did not come as far as its logger
	}
	for _, text := range causes {
		for _, r := range rules() {
			if m := r.pattern.FindStringSubmatch(text); m != nil {
				e := r.make(t, m)
				if e.Code == "nix.build" && strings.Contains(strings.Join(f.tail, "\n"), "No space left on device") {
					return noSpace("a build wrote until the disk was full")
				}
				return e
			}
		}
	}
	for _, text := range causes {
		if e := t.mistake(text); e != nil {
			return e
		}
	}
	return machine.Errorf("nix.failed", "run `"+t.byHand("build", "--no-link", "--show-trace", t.installable())+"` for all of it", "nix failed: %s", firstLine(f.Error()))
}

// places finds where in a file nix stands: "at /nix/store/HASH-source/flake.nix:3:37:".
func places() *regexp.Regexp {
	return regexp.MustCompile(`(?m)\bat (?:«[^»\n]*»)?(/[^\n:]+\.nix):(\d+)(?::(\d+))?`)
}

// mistake is the error for a place in a source, or nil when nix names none. Nix tells places from
// the inside out; the first that is in the user's own flake counts.
func (t target) mistake(text string) *machine.Error {
	found := places().FindAllStringSubmatch(text, -1)
	if len(found) == 0 {
		return nil
	}
	at := max(0, slices.IndexFunc(found, func(m []string) bool { return t.has(inSource(m[1])) }))
	what := firstLine(places().ReplaceAllString(firstLine(text), "of a function"))
	return machine.Errorf("nix.eval", "correct the flake there; `"+t.byHand("eval", "--show-trace", t.installable())+"` shows how Nix came there",
		"%s:%s: %s", clip(t.short(found[at][1]), 120), found[at][2], what)
}

// inSource is the path of a file within the source that Nix copied into its store.
func inSource(file string) string {
	_, in, _ := strings.Cut(file, "-source/")
	return in
}

// has reports whether the user's own flake has a file.
func (t target) has(file string) bool {
	if t.local == "" || !filepath.IsLocal(file) {
		return false
	}
	_, err := os.Lstat(filepath.Join(t.local, file))
	return err == nil
}

// short is a file's name as its author knows it.
func (t target) short(file string) string {
	if in := inSource(file); in != "" {
		return in
	}
	if t.local != "" {
		return strings.TrimPrefix(file, t.local+"/")
	}
	return file
}

// firstLine returns the first line that says something, clipped.
func firstLine(s string) string {
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			return clip(line, 300)
		}
	}
	return ""
}

// word keeps a name out of nix's message short.
func word(s string) string { return clip(strings.TrimSpace(s), 160) }
