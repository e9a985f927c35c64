// Package paths names every file and directory that mvmctl owns (docs/paths.md), from the XDG
// variables and their MVM_* overrides. It makes directories safely but reads and writes no
// files: what is in them is store's, image's, kernel's and the supervisor's business.
package paths

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// maxSocket is the longest path a unix socket may have: 108 bytes on Linux (unix(7)), 104 on
// macOS, with the closing NUL.
const maxSocket = 103

// Paths are the roots. All are absolute.
type Paths struct {
	Cache   string // kernels, initramfs, images, agents: can be deleted at any time
	Config  string // config.toml
	State   string // machine records, their disks and logs
	Data    string // templates, networks, names
	Runtime string // sockets; short, 0700, empty after a reboot
}

// Find answers the roots from the environment; getenv is os.Getenv in the program. It touches
// no file.
func Find(getenv func(string) string, uid int) (Paths, error) {
	home := getenv("HOME")
	var missing []string // what could be set instead of HOME
	pick := func(override, xdg, below string) (string, error) {
		if v := getenv(override); v != "" {
			return absolute(override, v)
		}
		if v := getenv(xdg); v != "" && filepath.IsAbs(v) { // the XDG specification ignores relative ones
			return filepath.Join(v, "mvm"), nil
		}
		if !filepath.IsAbs(home) {
			missing = append(missing, override)
			return "", nil
		}
		return filepath.Join(home, below, "mvm"), nil
	}
	var p Paths
	for _, r := range []struct {
		to                   *string
		override, xdg, below string
	}{
		{&p.Cache, "MVM_CACHE_DIR", "XDG_CACHE_HOME", ".cache"},
		{&p.Config, "MVM_CONFIG_DIR", "XDG_CONFIG_HOME", ".config"},
		{&p.State, "MVM_STATE_DIR", "XDG_STATE_HOME", ".local/state"},
		{&p.Data, "MVM_DATA_DIR", "XDG_DATA_HOME", ".local/share"},
	} {
		dir, err := pick(r.override, r.xdg, r.below)
		if err != nil {
			return Paths{}, err
		}
		*r.to = dir
	}
	if len(missing) > 0 {
		return Paths{}, noHome(home, missing)
	}
	runtimeDir, err := findRuntime(getenv, uid)
	if err != nil {
		return Paths{}, err
	}
	p.Runtime = runtimeDir
	return p, nil
}

// noHome is the error of an environment that leaves the places of some files open.
func noHome(home string, missing []string) error {
	instead := missing[0]
	if last := len(missing) - 1; last > 0 {
		instead = strings.Join(missing[:last], ", ") + " and " + missing[last]
	}
	what := "HOME is not set"
	if home != "" {
		what = "HOME is not an absolute path"
	}
	return machine.Errorf("env.home", "set HOME, or "+instead, "%s, so there is no place for mvmctl's files", what)
}

func findRuntime(getenv func(string) string, uid int) (string, error) {
	if v := getenv("MVM_RUNTIME_DIR"); v != "" {
		return absolute("MVM_RUNTIME_DIR", v)
	}
	if v := getenv("XDG_RUNTIME_DIR"); v != "" && filepath.IsAbs(v) {
		return filepath.Join(v, "mvm"), nil
	}
	if uid == 0 && runtime.GOOS == "linux" {
		return "/run/mvm", nil
	}
	// No session manager made a runtime directory: a folder of our own in /tmp, whose owner and
	// mode MakePrivate checks before anything is put there.
	return filepath.Join("/tmp", "mvm-"+strconv.Itoa(uid)), nil
}

func absolute(variable, v string) (string, error) {
	if !filepath.IsAbs(v) {
		return "", machine.Usagef("env.path", "set "+variable+" to an absolute path", "%s=%s is not an absolute path", variable, v)
	}
	return filepath.Clean(v), nil
}

// Machine is where one machine's files are.
type Machine struct {
	Dir     string // below State; the anchor: made first, removed last
	Runtime string // below Runtime; made by MakeRuntime
}

// Machines returns the folder that holds all machines' folders.
func (p Paths) Machines() string { return filepath.Join(p.State, "machines") }

// Locks returns the folder of the machines' command locks.
func (p Paths) Locks() string { return filepath.Join(p.State, "locks") }

// Lock returns the file whose flock a command holds while it changes the named machine.
func (p Paths) Lock(name string) string { return filepath.Join(p.Locks(), name) }

// Machine returns the places of the named machine; id is the machine's id and may be empty
// when the runtime folder is not needed.
func (p Paths) Machine(name, id string) Machine {
	m := Machine{Dir: filepath.Join(p.Machines(), name)}
	if id != "" {
		m.Runtime = filepath.Join(p.Runtime, id)
	}
	return m
}

// Files of a machine.
func (m Machine) Record() string        { return filepath.Join(m.Dir, "record.json") }                  // what is remembered
func (m Machine) Status() string        { return filepath.Join(m.Dir, "status.json") }                  // the supervisor's last word
func (m Machine) Boot() string          { return filepath.Join(m.Dir, "boot.json") }                    // the last boot, without keys
func (m Machine) Alive() string         { return filepath.Join(m.Dir, "alive.lock") }                   // flock held by the supervisor for life
func (m Machine) Upper() string         { return filepath.Join(m.Dir, "upper.img") }                    // the machine's own disk
func (m Machine) ConfigDrive() string   { return filepath.Join(m.Dir, "config.img") }                   // config drive of this generation
func (m Machine) Volume(i int) string   { return filepath.Join(m.Dir, fmt.Sprintf("volume%d.img", i)) } // copy of a host folder, for one boot
func (m Machine) Logs() string          { return filepath.Join(m.Dir, "logs") }                         // folder
func (m Machine) GuestLog() string      { return filepath.Join(m.Logs(), "guest.jsonl") }               // programs and agent
func (m Machine) ConsoleLog() string    { return filepath.Join(m.Logs(), "console.log") }               // kernel console
func (m Machine) VMMLog() string        { return filepath.Join(m.Logs(), "vmm.log") }                   // VMM process
func (m Machine) SupervisorLog() string { return filepath.Join(m.Logs(), "supervisor.log") }
func (m Machine) Control() string       { return filepath.Join(m.Runtime, "ctl") } // supervisor's API socket
func (m Machine) Secret(i int) string {
	return filepath.Join(m.Runtime, fmt.Sprintf("secret%d.img", i))
} // copy of a secret, until the guest has it

// PerBoot returns the drives that are made anew for each boot and hold its keys, or what was
// copied from the host: they go when it ends.
func (m Machine) PerBoot() []string {
	out := []string{m.ConfigDrive()}
	for i := range machine.MaxVolumes {
		out = append(out, m.Volume(i))
	}
	return out
}

// MakeRuntime makes the machine's runtime folder, and its root, which must be ours too: whoever
// owns it could rename our folder and put a socket of his own there.
func (m Machine) MakeRuntime() error {
	for _, dir := range []string{filepath.Dir(m.Runtime), m.Runtime} {
		if err := MakePrivate(dir); err != nil {
			return err
		}
	}
	return nil
}

// CheckSocket refuses a socket path that the kernel would not take.
func (m Machine) CheckSocket() error {
	if n := len(m.Control()); n > maxSocket {
		return machine.Errorf("env.path", "set MVM_RUNTIME_DIR to a shorter directory, such as /tmp/mvm",
			"the socket path %s is %d bytes long, %d are allowed", m.Control(), n, maxSocket)
	}
	return nil
}

// MakePrivate makes a directory (and its parents) that only its owner can enter, and refuses
// one that belongs to somebody else or is a link: a stranger's folder could swap our files.
func MakePrivate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return dirError(dir, err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return dirError(dir, err)
	}
	if !info.IsDir() {
		return machine.Errorf("env.ownership", "remove it, or choose another directory with the MVM_* variables", "%s is not a directory", dir)
	}
	if owner, ok := ownerOf(info); ok && owner != os.Geteuid() {
		return machine.Errorf("env.ownership", "choose a directory of your own with the MVM_* variables",
			"%s belongs to user %d, not to you", dir, owner)
	}
	if info.Mode()&(fs.ModeSticky|0o022) != 0 {
		// Shared on purpose, such as /tmp: closing it would break it for everybody else.
		return machine.Errorf("env.ownership", "choose a directory of your own with the MVM_* variables, or close it: chmod go-w "+dir,
			"%s can be written by other users", dir)
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(dir, 0o700); err != nil {
			return dirError(dir, err)
		}
	}
	return nil
}

func dirError(dir string, err error) error {
	err = writeError("making "+dir, "free some space there: "+removeMachines+"; "+removeCached, err)
	if _, known := errors.AsType[*machine.Error](err); !known {
		return machine.Errorf("env.path", "choose another place with MVM_STATE_DIR, MVM_CACHE_DIR or MVM_RUNTIME_DIR", "%w", err)
	}
	return err
}

// What makes room, by what a directory holds.
const (
	removeMachines = "`mvmctl rm` removes machines you no longer need"
	removeCached   = "`mvmctl cache prune --all` removes what can be fetched or made again, `mvmctl image prune` images without a name"
)

// WriteError turns an error of writing below our directories into one that says what to do.
func WriteError(doing string, err error) error {
	return writeError(doing, "free some space there, for example with `mvmctl rm` of machines you no longer need", err)
}

// CacheError is WriteError for the files below Cache, which no machine's end makes smaller.
func CacheError(doing string, err error) error {
	return writeError(doing, "free some space there: "+removeCached+"; or set MVM_CACHE_DIR to a directory with more", err)
}

// TargetError is WriteError for a file that the user told us to write.
func TargetError(doing string, err error) error {
	return writeError(doing, "free some space there, or write to another place", err)
}

func writeError(doing, room string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*machine.Error](err); ok {
		return err
	}
	switch {
	case isNoSpace(err):
		return machine.Errorf("limit.disk", room, "%s: %w", doing, err)
	case isReadOnly(err), errors.Is(err, fs.ErrPermission):
		return machine.Errorf("state.readonly", "make it writable, or choose other places with MVM_STATE_DIR, MVM_CACHE_DIR and MVM_RUNTIME_DIR", "%s: %w", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
