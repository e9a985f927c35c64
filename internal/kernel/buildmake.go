package kernel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

const (
	logName      = "build.log"
	makeGrace    = 10 * time.Second // SIGTERM → SIGKILL: make deletes half-made files meanwhile
	logTail      = 12               // lines of the log in an error
	maxFaults    = 6                // lines with the compiler's errors in an error
	maxMakeLine  = 4 << 10
	reportFiles  = 50 // files between two reports
	buildUser    = "mvmctl"
	buildSecond  = "Thu Jan  1 00:00:00 UTC 1970" // the same source gives the same bytes at any time
	configTarget = "allnoconfig"                  // everything off but what the file in KCONFIG_ALLCONFIG asks for, and what that needs
)

// maker runs the kernel's makefiles.
type maker struct {
	*builder
	tree, out string
}

func (m *maker) configPath() string { return filepath.Join(m.out, ".config") }
func (m *maker) askedPath() string  { return filepath.Join(filepath.Dir(m.out), "asked.config") }
func (m *maker) logPath() string    { return filepath.Join(filepath.Dir(m.out), logName) }

// image is the finished kernel; target is the makefiles' name for it.
func (m *maker) image() string {
	if m.store.arch == "amd64" {
		return filepath.Join(m.out, "arch", "x86", "boot", m.target())
	}
	return filepath.Join(m.out, "arch", m.store.arch, "boot", m.target())
}

func (m *maker) target() string {
	if m.store.arch == "amd64" {
		return "bzImage"
	}
	return "Image.gz"
}

// make configures and compiles. The configuration is made anew each time; make sees by its
// contents that nothing has changed.
func (m *maker) make(ctx context.Context) error {
	if err := removeIfThere(m.logPath()); err != nil {
		return paths.CacheError("writing the build's log", err)
	}
	m.opts.Progress(0, 0, "configuring")
	if err := os.WriteFile(m.askedPath(), []byte(optionText(m.asked)), 0o644); err != nil {
		return paths.CacheError("writing the kernel's options", err)
	}
	if err := m.run(ctx, configTarget); err != nil {
		return err
	}
	if err := checkOptions(m.configPath(), m.asked); err != nil {
		return err
	}
	return m.run(ctx, m.target())
}

// run runs make for one target in a process group of its own. The log is appended to.
func (m *maker) run(ctx context.Context, target string) error {
	logFile, err := os.OpenFile(m.logPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return paths.CacheError("writing the build's log", err)
	}
	defer logFile.Close()
	out := &makeLog{file: logFile, report: func(what string) { m.opts.Progress(0, 0, what) }}
	cmd := exec.CommandContext(ctx, "make", "-C", m.tree, "O="+m.out, "ARCH="+machineName(m.store.arch), "CROSS_COMPILE="+m.tools.cross,
		"LOCALVERSION=", fmt.Sprintf("-j%d", m.opts.Jobs), target)
	cmd.Env = append(buildEnv(), "KCONFIG_ALLCONFIG="+m.askedPath())
	cmd.Stdout, cmd.Stderr = out, out
	cmd.ExtraFiles = []*os.File{m.lock}
	cmd.SysProcAttr = makeAttr()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = makeGrace
	// The death signal of makeAttr comes when the thread ends that started make.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return machine.Errorf("kernel.tools", "run `make --version` to see what is wrong with it", "make cannot be started: %w", err)
	}
	err = cmd.Wait()
	// Whatever outlived make in its group; its number stays taken as long as something is left.
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case out.err != nil:
		return paths.CacheError("writing the build's log", out.err)
	case err != nil:
		return m.failed(target, err, out)
	}
	return nil
}

func (m *maker) failed(target string, err error, out *makeLog) error {
	if text := out.text(); strings.Contains(text, "No space left on device") {
		return paths.CacheError("building the kernel in "+m.work, syscall.ENOSPC)
	}
	return &machine.Error{
		Code:    "kernel.build",
		Message: fmt.Sprintf("building the kernel: make %s: %v", target, err),
		Remedy:  "the log says what the compiler did not like; options of --config, or another --source, may be the cause",
		Log:     m.logPath(), Detail: out.text(), Err: err,
	}
}

// buildEnv is what the build sees: nothing of the user's own settings may change the result.
func buildEnv() []string {
	env := []string{
		"LC_ALL=C", "TZ=UTC", "KBUILD_BUILD_TIMESTAMP=" + buildSecond, "KBUILD_BUILD_VERSION=1",
		"KBUILD_BUILD_USER=" + buildUser, "KBUILD_BUILD_HOST=" + buildUser,
	}
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if v := os.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// nameDigest makes the name of a folder of what it is for.
func nameDigest(what string) string {
	sum := sha256.Sum256([]byte(what))
	return hex.EncodeToString(sum[:])[:16]
}

// makeLog writes make's output to a file, counts what was compiled, and keeps what an error
// shows. A line is kept up to maxMakeLine bytes.
type makeLog struct {
	file   io.Writer
	report func(string)
	err    error // of writing the file
	line   []byte
	files  int
	faults []string
	tail   []string
}

// Write implements io.Writer. It never fails: a full disk must not end make before we know.
func (l *makeLog) Write(p []byte) (int, error) {
	if _, err := l.file.Write(p); err != nil && l.err == nil {
		l.err = err
	}
	for rest := p; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte{'\n'})
		if room := maxMakeLine - len(l.line); room > 0 {
			l.line = append(l.line, line[:min(len(line), room)]...)
		}
		if whole {
			l.take(string(bytes.TrimRight(l.line, "\r")))
			l.line = l.line[:0]
		}
		rest = after
	}
	return len(p), nil
}

// take looks at one line of the makefiles' short form: "  CC      init/main.o".
func (l *makeLog) take(line string) {
	word, what, _ := strings.Cut(strings.TrimSpace(line), " ")
	switch {
	case word == "CC" || word == "AS":
		if l.files++; l.files%reportFiles == 0 {
			l.report(fmt.Sprintf("compiling, %d files so far", l.files))
		}
	case word == "LD" && strings.TrimSpace(what) == "vmlinux":
		l.report("linking")
	case strings.Contains(line, "error:") && len(l.faults) < maxFaults:
		l.faults = append(l.faults, line)
	}
	if l.tail = append(l.tail, line); len(l.tail) > logTail {
		l.tail = l.tail[1:]
	}
}

// text is what an error shows: the first errors of the compiler, which other jobs' lines may
// have pushed out of the end, and the end.
func (l *makeLog) text() string {
	end := strings.Join(l.tail, "\n")
	var lines []string
	for _, f := range l.faults {
		if !strings.Contains(end, f) {
			lines = append(lines, f)
		}
	}
	return strings.Join(append(lines, end), "\n")
}
