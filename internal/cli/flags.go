package cli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// maxEnvFile is the largest --env-file, in bytes.
const maxEnvFile = 1 << 20

// maxEnv is how many variables one command may be given.
const maxEnv = 1024

// envFlags are -e and --env-file.
type envFlags struct{ entries, files []string }

func (e *envFlags) register(f *pflag.FlagSet) {
	f.StringArrayVarP(&e.entries, "env", "e", nil, "`KEY=VALUE` for the command, or KEY to pass on your own value")
	f.StringArrayVar(&e.files, "env-file", nil, "`FILE` of KEY=VALUE lines")
}

// read returns all variables; -e wins over files, a later one over an earlier one.
func (e *envFlags) read(a *app) (map[string]string, error) {
	var all []string
	for _, path := range e.files {
		lines, err := a.readEnvFile(path)
		if err != nil {
			return nil, err
		}
		all = append(all, lines...)
	}
	env, err := machine.ParseEnv(append(all, e.entries...), a.env)
	switch {
	case len(env) == 0:
		env = nil
	case len(env) > maxEnv:
		return nil, machine.Usagef("limit.entries", "use fewer -e and shorter --env-file", "%d environment entries are more than %d", len(env), maxEnv)
	}
	return env, err
}

// readEnvFile reads lines of KEY=VALUE or KEY; empty lines and those that begin with # do not
// count. Values are taken as they stand, as docker does: no quotes, no expansion.
func (a *app) readEnvFile(path string) ([]string, error) {
	data, err := readRegular(a.fromHere(path), path, maxEnvFile)
	if err != nil {
		return nil, err
	}
	var out []string
	s := bufio.NewScanner(bytes.NewReader(data))
	s.Buffer(nil, maxEnvFile+1)
	for n := 1; s.Scan(); n++ {
		line := strings.TrimPrefix(s.Text(), "\ufeff")
		if trimmed := strings.TrimSpace(line); trimmed == "" || trimmed[0] == '#' {
			continue
		}
		line = strings.TrimLeft(line, " \t")
		if _, err := machine.ParseEnv([]string{line}, a.env); err != nil {
			if me, ok := errors.AsType[*machine.Error](err); ok {
				me.Message = fmt.Sprintf("%s:%d: %s", path, n, me.Message)
			}
			return nil, err
		}
		out = append(out, line)
	}
	return out, s.Err()
}

// readRegular reads a file of at most limit bytes. What is not a regular file is refused: it
// could block or never end.
func readRegular(path, name string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			err = pe.Err
		}
		return nil, machine.Usagef("input.file", "check the path", "reading %s: %w", name, err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, machine.Usagef("input.file", "check the path", "reading %s: %w", name, err)
	}
	if !info.Mode().IsRegular() {
		return nil, machine.Usagef("input.not_regular", "name a regular file", "%s is not a regular file", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, machine.Usagef("input.file", "check the path", "reading %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, machine.Usagef("limit.file", "use a smaller file", "%s is larger than %s", name, machine.FormatSize(limit))
	}
	return data, nil
}

// ttyFlags are -t, -i and --no-tty.
type ttyFlags struct{ tty, noTTY, interactive bool }

func (t *ttyFlags) register(f *pflag.FlagSet) {
	f.BoolVarP(&t.tty, "tty", "t", false, "give the command a terminal (default: when you have one)")
	f.BoolVarP(&t.noTTY, "no-tty", "T", false, "give it none")
	f.BoolVarP(&t.interactive, "interactive", "i", false, "accepted for habit: standard input is always passed on")
}

// wantTTY decides whether the guest command gets a terminal: when the caller has one at both
// ends, unless a flag says otherwise.
func (a *app) wantTTY(t ttyFlags) (bool, error) {
	switch {
	case t.tty && t.noTTY:
		return false, machine.Usagef("usage.flag", "leave one of them out", "--tty and --no-tty exclude each other")
	case t.tty:
		return true, nil
	case t.noTTY:
		return false, nil
	}
	return a.terminal(a.io.In) && a.terminal(a.io.Out), nil
}

// hostSide returns ADDRESS:PORT of a published port.
func hostSide(p machine.Port) string { return net.JoinHostPort(p.Host, strconv.Itoa(p.HostPort)) }

// parsePorts reads several ports and refuses those that exclude each other.
func parsePorts(texts []string) ([]machine.Port, error) {
	var out []machine.Port
	for _, t := range texts {
		p, err := machine.ParsePort(t)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, machine.CheckPorts(out)
}

// parseVolumes reads several volumes. What is copied from the host is named by its full path,
// so that the machine means the same when it is started from elsewhere.
func (a *app) parseVolumes(texts []string) ([]machine.Volume, error) {
	var out []machine.Volume
	for _, t := range texts {
		v, err := machine.ParseVolume(t)
		if err != nil {
			return nil, err
		}
		if v.Kind != machine.VolumeData {
			abs, err := filepath.Abs(filepath.Join(a.io.Dir, v.Source))
			if filepath.IsAbs(v.Source) {
				abs, err = filepath.Clean(v.Source), nil
			}
			if err != nil {
				return nil, machine.Usagef("input.volume", "write the full path", "finding %s: %w", quoted(v.Source), err)
			}
			v.Source = abs
		}
		out = append(out, v)
	}
	return out, machine.CheckVolumes(out)
}
