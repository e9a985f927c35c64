package guestinit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestproc"
)

// Enter is Boot for the first process of a container: who made that has mounted everything,
// agentproto.GuestDir with the agent among it, and hands the configuration over through in. It
// has no privileges to do what Boot and Finish do beyond files. The machine ends with Leave.
func Enter(o Options, in io.Reader) (*System, error) {
	s := &System{log: o.Log, ending: holdSignals()}
	var err error
	if s.Config, err = readConfigStream(in); err != nil {
		return nil, err
	}
	s.Env = environment(s.Config, guestproc.DefaultPath)
	for _, dir := range []string{agentproto.GuestBin, agentproto.ContainerSocketDir} {
		mode := os.FileMode(0o755)
		if dir != agentproto.GuestBin {
			mode = 0o700
		}
		if err := os.Mkdir(dir, mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("preparing %s: %w", agentproto.GuestDir, err)
		}
	}
	if err := linkCommands(o.Commands); err != nil {
		return nil, fmt.Errorf("making the user land: %w", err)
	}
	if err := os.Mkdir("/tmp", 0o777); err == nil {
		_ = os.Chmod("/tmp", 0o777|os.ModeSticky) // the umask took its share
	}
	var files syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) == nil && files.Cur < softFiles {
		files.Cur = min(softFiles, files.Max)
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files) // up to the hard limit it cannot fail
	}
	if err := s.addUsers(); err != nil {
		s.logf("adding users: %v", err)
	}
	return s, nil
}

// readConfigStream reads what agentproto.ContainerCommand promises.
func readConfigStream(in io.Reader) (*agentproto.Config, error) {
	var size [4]byte
	if _, err := io.ReadFull(in, size[:]); err != nil {
		return nil, &agentproto.Error{Code: agentproto.CodeUnprovisioned, Message: "reading the configuration: " + err.Error()}
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > agentproto.MaxConfig {
		return nil, &agentproto.Error{Code: agentproto.CodeUnprovisioned, Message: fmt.Sprintf("a configuration of %d bytes", n)}
	}
	return agentproto.ReadConfig(io.LimitReader(in, int64(n)))
}

// Leave ends every process of the container but this one, whose end is the container's.
func (s *System) Leave() { endProcesses(agentproto.KillGrace) }
