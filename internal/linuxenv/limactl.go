package linuxenv

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

const (
	// DefaultInstance is the name of the virtual machine.
	DefaultInstance = "mvmctl"

	// Lima 1.0 is the first with what the template says ("user", "minimumLimaVersion") and with plain
	// virtual machines whose provisioning scripts run.
	floorMajor, floorMinor = 1, 0

	askTime   = 30 * time.Second // for limactl to answer what it knows itself
	maxAnswer = 4 << 20
	endGrace  = 10 * time.Second // for a process to end by itself
)

// The states of a virtual machine, in limactl's words, and ours for one that is not there.
const (
	StatusRunning = "Running"
	StatusStopped = "Stopped"
	StatusNone    = ""
)

const installLima = "install Lima: https://lima-vm.io/docs/installation (macOS: `brew install lima`)"

// Options say which virtual machine, and how to get at it.
type Options struct {
	Limactl  string   // path of limactl; "": search PATH
	Instance string   // name of the virtual machine; "": DefaultInstance
	Environ  []string // the user's; nil: os.Environ()
	Template Template // of a virtual machine that has to be made
	LockDir  string   // where it is noted that one is being made or started; "": nowhere
	// Program returns the path of this program built for Linux on this processor.
	Program func() (string, error)
}

// VM is a Lima virtual machine, which may not exist yet.
type VM struct{ opts Options }

// New returns a VM. It touches nothing.
func New(o Options) *VM {
	if o.Instance == "" {
		o.Instance = DefaultInstance
	}
	if o.Environ == nil {
		o.Environ = os.Environ()
	}
	return &VM{opts: o}
}

// Instance returns the virtual machine's name.
func (v *VM) Instance() string { return v.opts.Instance }

// Tool is the limactl that is used.
type Tool struct{ Path, Version string }

// Find finds limactl and refuses one that is too old.
func (v *VM) Find(ctx context.Context) (Tool, error) {
	name := v.opts.Limactl
	if name == "" {
		name = "limactl"
	}
	path, err := exec.LookPath(name)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return Tool{}, machine.Errorf("lima.missing", installLima, "limactl is not installed: %w", err)
	}
	if !PlainName(v.opts.Instance) {
		return Tool{}, machine.Usagef("lima.instance", "use letters, digits, '-' and '_' in MVM_LIMA_INSTANCE", "%q is no name of a Lima instance", v.opts.Instance)
	}
	out, err := v.ask(ctx, path, "--version")
	if err != nil {
		return Tool{}, machine.Errorf("lima.broken", "run `"+path+" --version`; if it fails, "+installLima, "limactl does not run: %w", err)
	}
	t := Tool{Path: path, Version: strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(string(out)), "limactl version "))}
	major, minor, ok := parseVersion(t.Version)
	if !ok {
		return Tool{}, machine.Errorf("lima.version", installLima, "limactl does not say which version it is: %q", clip(t.Version, 80))
	}
	if major < floorMajor || major == floorMajor && minor < floorMinor {
		return Tool{}, machine.Errorf("lima.version", installLima, "limactl is version %s, and mvmctl needs %d.%d or later", clip(t.Version, 40), floorMajor, floorMinor)
	}
	return t, nil
}

// PlainName reports whether a virtual machine may be called so.
func PlainName(s string) bool {
	return regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{0,62}$`).MatchString(s)
}

func parseVersion(s string) (major, minor int, ok bool) {
	m := regexp.MustCompile(`^v?(\d{1,4})\.(\d{1,4})(?:[.+-]|$)`).FindStringSubmatch(s)
	if m == nil {
		return 0, 0, false
	}
	major, _ = strconv.Atoi(m[1])
	minor, _ = strconv.Atoi(m[2])
	return major, minor, true
}

// State is what limactl says of the virtual machine.
type State struct {
	Status string // StatusNone when it does not exist
	Dir    string
	Unsafe string // what of it differs from our template in a way that exposes the host; "" for nothing
}

// State asks limactl about the virtual machine.
func (v *VM) State(ctx context.Context, t Tool) (State, error) {
	// Without a name: asked for one that does not exist limactl fails, as it does for other reasons.
	out, err := v.ask(ctx, t.Path, "list", "--json")
	switch {
	case err != nil && strings.Contains(err.Error(), refusesRoot):
		return State{}, machine.Errorf("lima.root", "run mvmctl as the user whose machines they are, without sudo; or set MVM_LIMACTL to a program that runs limactl as another user",
			"limactl does not run as root: %w", err)
	case err != nil:
		return State{}, machine.Errorf("lima.broken", "run `limactl list`", "limactl does not say which virtual machines it has: %w", err)
	}
	return parseList(out, v.opts.Instance)
}

// refusesRoot is what limactl says to root.
const refusesRoot = "must not run as the root"

// parseList finds one virtual machine in what `limactl list --json` says.
func parseList(out []byte, name string) (State, error) {
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var in instance
		if err := dec.Decode(&in); errors.Is(err, io.EOF) {
			return State{}, nil
		} else if err != nil {
			return State{}, machine.Errorf("lima.broken", "run `limactl list --json`", "limactl says nonsense: %w", err)
		}
		if in.Name == name {
			return State{Status: clip(machine.Printable(in.Status), 40), Dir: in.Dir, Unsafe: in.exposes()}, nil
		}
	}
}

// instance is one line of `limactl list --json`.
type instance struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Dir    string `json:"dir"`
	Config *struct {
		Plain  bool              `json:"plain"`
		Mounts []json.RawMessage `json:"mounts"`
		SSH    struct {
			ForwardAgent bool `json:"forwardAgent"`
		} `json:"ssh"`
	} `json:"config"`
}

// exposes says what of the host a guest would find behind its machine.
func (i instance) exposes() string {
	switch {
	case i.Config == nil:
		return "limactl does not say how it is made"
	case !i.Config.Plain:
		return "it is not plain, so ports of its guests may appear on the host"
	case len(i.Config.Mounts) > 0:
		return "it mounts folders of the host"
	case i.Config.SSH.ForwardAgent:
		return "it can use the host's ssh agent"
	}
	return ""
}

// ask runs limactl for an answer that it has at once.
func (v *VM) ask(ctx context.Context, path string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	own(cmd)
	cmd.Env = v.environment(true)
	var out, words limited
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil {
		return nil, said(ctx, err, words.String())
	}
	if out.over {
		return nil, errors.New("it says too much")
	}
	return out.Bytes(), nil
}

// limactl runs a command of limactl that changes something.
func (v *VM) limactl(ctx context.Context, t Tool, progress io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, t.Path, args...)
	own(cmd)
	cmd.Env = v.environment(true)
	var words limited
	cmd.Stdout = progress
	cmd.Stderr = io.MultiWriter(&words, progress)
	if err := cmd.Run(); err != nil {
		return machine.Errorf("lima.start", "look at `limactl list`, and at ha.stderr.log and serial*.log in the instance's folder", "starting the Lima instance %s: %w", v.opts.Instance, said(ctx, err, words.String()))
	}
	return nil
}

// own puts a command in a session of its own, out of reach of a terminal's signals, and ends all of
// it with its context.
func own(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir = "/" // the virtual machine outlives the command, and holds nobody's folder
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = endGrace
	fence()
}

// said makes an error of how a command ended and what it said last.
func said(ctx context.Context, err error, words string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	lines := strings.Split(strings.TrimSpace(words), "\n")
	if last := clip(machine.Printable(lines[len(lines)-1]), 400); last != "" {
		return fmt.Errorf("%w: %s", err, last)
	}
	return err
}

// environment returns what limactl needs of the user's environment: where things are, and for what
// downloads also the proxies.
func (v *VM) environment(network bool) []string {
	keep := []string{"HOME", "USER", "LOGNAME", "PATH", "TMPDIR", "LIMA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"}
	if network {
		keep = append(keep, "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
	}
	var out []string
	for _, e := range v.opts.Environ {
		name, _, _ := strings.Cut(e, "=")
		if slices.Contains(keep, name) || network && slices.Contains(keep, strings.ToUpper(name)) || network && strings.HasPrefix(name, "QEMU_SYSTEM_") {
			out = append(out, e)
		}
	}
	return append(out, "LC_ALL=C")
}

// limited keeps the first maxAnswer bytes.
// It embeds no buffer, whose ReadFrom would be used instead of Write.
type limited struct {
	buf  bytes.Buffer
	over bool
}

func (l *limited) String() string { return l.buf.String() }

func (l *limited) Bytes() []byte { return l.buf.Bytes() }

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	n := len(p)
	if room := maxAnswer - l.buf.Len(); n > room {
		p, l.over = p[:room], true
	}
	l.buf.Write(p)
	return n, nil
}

func clip(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + "…" // no half of a character
	}
	return s
}
