//go:build linux

// Command init is process 1 of a kvmhost: it makes Debian's file system with the tests' files over
// it, loads what Debian has as modules, and runs the commands that come through a virtio port. When
// the other end of that goes away, so does the machine. It is not for real use of any kind: whoever
// holds the port is root.
package main

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/e2e/kvmhost/wire"
)

// The parts of the root file system before they are put together: the disk with the tests' files,
// which the kernel has mounted as root, and Debian's.
const (
	debianDisk = "/dev/nvme1n1"
	debianDir  = "/mvm-debian"
	overDir    = "/mvm-over"
	newRoot    = "/mvm-root"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		if err := serve(); err != nil {
			fmt.Fprintln(os.Stderr, "kvmhost:", err)
			os.Exit(1)
		}
		return
	}
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "kvmhost:", err)
	} else if err := reap(); err != nil {
		fmt.Fprintln(os.Stderr, "kvmhost:", err)
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// prepare makes the root file system and loads the modules.
func prepare() error {
	if err := mount("devtmpfs", "/dev", "devtmpfs", ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return err
	}
	if err := mount("proc", "/proc", "proc", ""); err != nil {
		return err
	}
	if err := unix.Mount(debianDisk, debianDir, "ext4", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mounting Debian: %w", err)
	}
	if err := loadModules(debianDir, "overlay"); err != nil {
		return err
	}
	if err := mount("tmpfs", overDir, "tmpfs", "size=75%"); err != nil {
		return err
	}
	for _, dir := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(overDir, dir), 0o755); err != nil {
			return err
		}
	}
	if err := mount("overlay", newRoot, "overlay", "lowerdir=/:"+debianDir+",upperdir="+overDir+"/upper,workdir="+overDir+"/work"); err != nil {
		return err
	}
	if err := unix.Mount("/dev", newRoot+"/dev", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	// The way of switch_root: the new root over the old one.
	if err := errors.Join(os.Chdir(newRoot), unix.Mount(".", "/", "", unix.MS_MOVE, ""), unix.Chroot("."), os.Chdir("/")); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	for _, m := range [][3]string{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"tmpfs", "/tmp", "mode=1777,size=75%"},
		{"tmpfs", "/run", "mode=755"},
		{"devpts", "/dev/pts", "ptmxmode=666"},
		{"tmpfs", "/dev/shm", "mode=1777"},
		{"cgroup2", "/sys/fs/cgroup", ""},
	} {
		if err := os.MkdirAll(m[1], 0o755); err != nil {
			return err
		}
		if err := mount(m[0], m[1], m[0], m[2]); err != nil {
			return err
		}
	}
	_ = os.Symlink("/proc/self/fd", "/dev/fd")
	if err := unix.Sethostname([]byte("kvmhost")); err != nil {
		return err
	}
	if err := loadModules("/", "virtio_pci", "virtio_console", "kvm_amd", "vhost_vsock", "tun"); err != nil {
		return err
	}
	for _, device := range []string{"/dev/kvm", "/dev/vhost-vsock", "/dev/net/tun"} {
		if err := os.Chmod(device, 0o666); err != nil { // as udev's rules have it on most hosts
			return err
		}
	}
	for _, args := range [][]string{{"--install", "-s", "/usr/local/bin"}, {"ip", "link", "set", "lo", "up"}} {
		if out, err := exec.CommandContext(context.Background(), "/bin/busybox", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("busybox %q: %w: %s", args, err, out)
		}
	}
	return nil
}

func mount(what, where, kind, options string) error {
	if err := unix.Mount(what, where, kind, 0, options); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", kind, where, err)
	}
	return nil
}

// loadModules loads modules and what they say that they need.
func loadModules(root string, names ...string) error {
	files := map[string]string{}
	err := filepath.WalkDir(filepath.Join(root, "usr/lib/modules"), func(p string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(p), ".ko"); ok {
			files[strings.ReplaceAll(name, "-", "_")] = p
		}
		return err
	})
	if err != nil {
		return err
	}
	var load func(name string) error
	load = func(name string) error {
		p, ok := files[name]
		if !ok {
			return nil // built into the kernel
		}
		delete(files, name)
		needs, err := moduleNeeds(p)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, n := range needs {
			if err := load(n); err != nil {
				return err
			}
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		if err := unix.FinitModule(int(f.Fd()), parameters(name), 0); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("module %s: %w", name, err)
		}
		return nil
	}
	for _, n := range names {
		if err := load(n); err != nil {
			return err
		}
	}
	return nil
}

// moduleNeeds reads a module's own list of those that must be there before it.
func moduleNeeds(name string) ([]string, error) {
	f, err := elf.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info := f.Section(".modinfo")
	if info == nil {
		return nil, errors.New("it has no .modinfo")
	}
	data, err := info.Data()
	if err != nil {
		return nil, err
	}
	var needs []string
	for field := range bytes.SplitSeq(data, []byte{0}) {
		if list, ok := strings.CutPrefix(string(field), "depends="); ok && list != "" {
			needs = append(needs, strings.Split(strings.ReplaceAll(list, "-", "_"), ",")...)
		}
	}
	return needs, nil
}

// reap runs the server and collects whatever ends, also what nobody else waits for.
func reap() error {
	self, err := os.StartProcess("/init", []string{"/init", "serve"}, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return err
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return err
		case pid == self.Pid:
			return nil
		}
	}
}

// server is the end of the port in the host.
type server struct {
	mu  sync.Mutex // for enc
	enc *json.Encoder
}

func (s *server) send(m wire.FromInit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.enc.Encode(m) // nobody left to tell: the next read ends us
}

// serve runs commands until the other end goes away.
func serve() error {
	port, err := openPort()
	if err != nil {
		return err
	}
	stir, err := stirrer(runtime.NumCPU())
	if err != nil {
		return err
	}
	s := &server{enc: json.NewEncoder(port)}
	requests := make(chan wire.ToInit)
	go func() {
		defer close(requests)
		for dec := json.NewDecoder(port); ; {
			var m wire.ToInit
			if dec.Decode(&m) != nil {
				return
			}
			if m.Ping {
				stir()
				s.send(wire.FromInit{Pong: true})
				continue
			}
			requests <- m
		}
	}()
	s.send(wire.FromInit{Ready: true})
	for m := range requests {
		if m.Run == nil {
			continue // to end what has ended
		}
		if !s.run(*m.Run, requests) {
			return nil
		}
	}
	return nil
}

// stirrer returns what has each of n processors run a thread at once, and returns when all have. When
// QEMU emulates a processor that begins to run a guest of its own while an interrupt of that guest waits
// (VMRUN with V_IRQ), it marks that without a lock in the word in which another thread marks the
// processor's own interrupts (helper_vmrun in svm_helper.c, read 2026-11), so that one of those may get
// lost. If it was the timer's, that processor does nothing more until some other interrupt has it look:
// here, the call to run the thread. It is not all that stops a host: docs/testing.md has the figures.
func stirrer(n int) (func(), error) {
	var spoons []chan chan<- struct{}
	for cpu := range n {
		spoon, ready := make(chan chan<- struct{}), make(chan error)
		go func() {
			runtime.LockOSThread() // for good
			var set unix.CPUSet
			set.Set(cpu)
			err := errors.Join(
				unix.SchedSetaffinity(0, &set),
				// Before all others, or the processor would not be interrupted for it.
				unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0),
			)
			ready <- err
			if err != nil {
				return
			}
			for done := range spoon {
				done <- struct{}{}
			}
		}()
		if err := <-ready; err != nil {
			return nil, fmt.Errorf("binding a thread to processor %d: %w", cpu, err)
		}
		spoons = append(spoons, spoon)
	}
	return func() {
		done := make(chan struct{}, n)
		for _, spoon := range spoons {
			spoon <- done
		}
		for range n {
			<-done
		}
	}, nil
}

// openPort waits for the port's device to appear.
func openPort() (*os.File, error) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-time.After(10 * time.Millisecond) { // there is no udev to tell
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, n := range names {
			name, err := os.ReadFile(n)
			if err == nil && strings.TrimSpace(string(name)) == wire.PortName {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(n)), os.O_RDWR, 0)
			}
		}
	}
	return nil, errors.New("the port did not appear")
}

// run runs one command, and reports whether the other end is still there.
func (s *server) run(c wire.Command, requests <-chan wire.ToInit) bool {
	path := c.Args[0]
	if !strings.Contains(path, "/") {
		path = find(path, c.Env)
	}
	cmd := &exec.Cmd{
		Path: path, Args: c.Args, Env: c.Env, Dir: c.Dir, WaitDelay: 10 * time.Second,
		Stdout: stream(func(p []byte) { s.send(wire.FromInit{Out: p}) }), Stderr: stream(func(p []byte) { s.send(wire.FromInit{Err: p}) }),
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Credential: &syscall.Credential{Uid: c.UID, Gid: c.UID}},
	}
	if err := cmd.Start(); err != nil {
		s.send(wire.FromInit{Ended: true, Failed: err.Error()})
		return true
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // its state says more
	}()
	for {
		select {
		case <-ended:
			s.send(wire.FromInit{Ended: true, Code: exitCode(cmd.ProcessState)})
			return true
		case _, ok := <-requests: // there is one command at a time: this can only be its end
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			if !ok {
				return false
			}
		}
	}
}

func exitCode(state *os.ProcessState) int {
	if w, ok := state.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return state.ExitCode()
}

// find looks a program up in the PATH of the command.
func find(name string, env []string) string {
	for _, kv := range env {
		list, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(list) {
			if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode()&0o111 != 0 {
				return filepath.Join(dir, name)
			}
		}
	}
	return name
}

type stream func(p []byte)

var _ io.Writer = stream(nil)

func (f stream) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

// parameters are what a module is loaded with. As QEMU 7.2 emulates it, AMD's virtual interrupt
// flag stops a host for good soon after a guest of its own begins to run.
func parameters(name string) string {
	if name == "kvm_amd" {
		return "vgif=0 vls=0"
	}
	return ""
}
