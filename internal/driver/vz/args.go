package vz

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// Names of what a machine has in its runtime folder while it runs.
const (
	apiSocket   = "vz.api"
	agentSocket = "vz.agent"
)

// sockets are the paths of a machine's sockets.
type sockets struct{ api, agent string }

func socketsIn(dir string) sockets {
	return sockets{api: filepath.Join(dir, apiSocket), agent: filepath.Join(dir, agentSocket)}
}

// commandLine returns vfkit's arguments. It is pure: same input, same output, on every OS. kernel is
// the path of what is to be booted, kernelArgs are further words for its command line.
//
// Everything after --device is cut at commas, and there is no way to write one in a value; what
// follows --bootloader is cut at commas outside of double quotes (pkg/config/virtio.go and
// pkg/cmdline/string_slice.go of vfkit).
func commandLine(b machine.Boot, kernel string, s sockets, maxCPUs int, kernelArgs ...string) ([]string, error) {
	if err := vmm.CheckBoot(b, maxCPUs, ": Apple's framework gives a guest no more than the Mac has"); err != nil {
		return nil, err
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	cmdline, err := vmm.KernelCommandLine(vmm.MaxKernelCommandLine, kernelWords(), kernelArgs...)
	if err != nil {
		return nil, err
	}
	for _, path := range []string{kernel, b.Initrd} {
		if strings.Contains(path, `"`) {
			return nil, pathError(path, `a double quote`)
		}
	}
	args := []string{
		"--cpus", strconv.Itoa(b.CPUs),
		"--memory", strconv.FormatInt(b.MemoryBytes>>20, 10),
		"--bootloader", fmt.Sprintf(`linux,"kernel=%s","initrd=%s","cmdline=%s"`, kernel, b.Initrd, cmdline),
		"--restful-uri", "unix://" + s.api,
		// A terminal and not a file, which would grow without bound.
		"--device", "virtio-serial,pty",
		"--device", "virtio-rng",
		// It is there so that memory can be taken back while the machine runs.
		"--device", "virtio-balloon",
		// "connect": we connect to the socket, and vfkit to the guest.
		"--device", fmt.Sprintf("virtio-vsock,port=%d,socketURL=%s,connect", driver.AgentPort, s.agent),
	}
	for _, d := range b.Disks {
		if strings.Contains(d.Path, ",") {
			return nil, pathError(d.Path, "a comma")
		}
		device := "virtio-blk,path=" + d.Path
		if d.ReadOnly {
			device += ",readonly"
		}
		args = append(args, "--device", device+",deviceId="+d.Serial())
	}
	return args, nil
}

// kernelWords are what a guest kernel needs here.
func kernelWords() []string {
	return []string{
		"console=hvc0", // the only console that the framework has
		"quiet",        // each console byte is an exit; errors and panics are printed all the same
		// Reset at once. Whether that ends the machine or boots it again is the framework's affair and
		// not documented; a guest that boots again is noticed by whoever speaks with its agent.
		"panic=-1",
	}
}

// check refuses what vfkit would not take. It reads both paths as parts of a URL, and of the agent's
// the form with escapes is what it binds (pkg/vf/vsock.go, connectVsock).
func (s sockets) check() error {
	for _, path := range []string{s.api, s.agent} {
		if err := vmm.CheckSocketPath(path); err != nil {
			return err
		}
		if (&url.URL{Path: path}).EscapedPath() != path || strings.ContainsAny(path, ",?#%") {
			return machine.Errorf("env.path", "set MVM_RUNTIME_DIR to a folder with only letters, digits, - and _ in its path, such as /tmp/mvm",
				"vfkit cannot bind a socket at %q", path)
		}
	}
	return nil
}

func pathError(path, what string) error {
	return machine.Errorf("env.path", "move it, or set MVM_STATE_DIR and MVM_CACHE_DIR to folders without such characters",
		"vfkit cannot be given the path %q: it has %s", path, what)
}
