package kvmhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/e2e/kvmhost/wire"
	"github.com/mvmctl/mvmctl/internal/disk"
)

// How long the host may take to boot (5 s on an idle machine), to power off, and to answer a ping.
const (
	bootTime = 3 * time.Minute
	stopTime = 20 * time.Second
	pingTime = time.Minute
)

// pingEvery is how often the host is asked whether it still goes.
const pingEvery = time.Second

// ErrStuck is the error of a host that stood still and was ended: QEMU's emulation of virtualisation
// can lose the interrupts of a processor, and then nothing in the host goes on.
var ErrStuck = errors.New("the KVM host stood still")

// Options say what is in a host beside Debian.
type Options struct {
	CacheDir string            // where its image is kept from run to run
	Files    map[string]string // path there → file or folder here; what is there can be written to, for as long as the host lives
	Memory   int               // MiB; 0: 4096
}

// Host is a running host.
type Host struct {
	dir     string
	cmd     *exec.Cmd
	port    net.Conn
	enc     *json.Encoder
	from    chan wire.FromInit // closed when the host is gone
	exited  chan struct{}
	console string

	mu     sync.Mutex // one command at a time
	sendMu sync.Mutex // for enc
	stuck  atomic.Bool

	every, patience time.Duration // pingEvery and pingTime
}

// Start boots a host, which lives until Close or the end of ctx. What it needs and is not there is a
// MissingError.
func Start(ctx context.Context, o Options) (*Host, error) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return nil, MissingError("linux/amd64: the host's virtualisation is AMD's, this is " + runtime.GOOS + "/" + runtime.GOARCH)
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return nil, MissingError("qemu-system-x86_64 (scripts/dev-setup.sh installs it)")
	}
	img, err := makeImage(ctx, o.CacheDir)
	if err != nil {
		return nil, err
	}
	h := &Host{from: make(chan wire.FromInit), exited: make(chan struct{}), every: pingEvery, patience: pingTime}
	if h.dir, err = os.MkdirTemp("", "mvm-kvmhost-*"); err != nil {
		return nil, err
	}
	if err := h.boot(ctx, qemu, img, o); err != nil {
		_ = os.RemoveAll(h.dir)
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	select {
	case m, ok := <-h.from:
		if ok && m.Ready {
			return h, nil
		}
		err = errors.New("it ended at boot")
	case <-ctx.Done():
		err = ctx.Err()
	}
	err = fmt.Errorf("booting the KVM host: %w; its console ends: %s", err, h.Console())
	h.Close()
	return nil, err
}

// boot makes the disk with the tests' files and starts QEMU.
func (h *Host) boot(ctx context.Context, qemu string, img image, o Options) error {
	files := filepath.Join(h.dir, "files.ext4")
	if err := makeFiles(ctx, files, h.dir, o.Files); err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	unix.CloseOnExec(pair[0])
	unix.CloseOnExec(pair[1])
	ours, theirs := os.NewFile(uintptr(pair[0]), "port"), os.NewFile(uintptr(pair[1]), "port")
	defer func() { _ = ours.Close(); _ = theirs.Close() }()
	if h.port, err = net.FileConn(ours); err != nil {
		return err
	}
	h.console = filepath.Join(h.dir, "console")
	memory := o.Memory
	if memory == 0 {
		memory = 4096
	}
	// Two processors: with one, a host is at times lost in a guest and hears of nothing more.
	h.cmd = exec.CommandContext(ctx, qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35", "-accel", "tcg,thread=multi", "-smp", "2", "-cpu", "EPYC,+svm,+npt", "-m", fmt.Sprint(memory),
		"-kernel", img.kernel, "-append", "console=ttyS0 quiet panic=-1 root=/dev/nvme0n1 rootfstype=ext4 ro init=/init random.trust_cpu=on",
		"-drive", "if=none,id=files,format=raw,readonly=on,file="+files, "-device", "nvme,serial=files,drive=files",
		"-drive", "if=none,id=root,format=raw,readonly=on,file="+img.root, "-device", "nvme,serial=root,drive=root",
		"-chardev", "file,id=console,path="+h.console, "-serial", "chardev:console",
		"-chardev", "socket,id=port,fd=3", "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=port,name="+wire.PortName)
	h.cmd.ExtraFiles = []*os.File{theirs}
	var said strings.Builder
	h.cmd.Stderr = &said
	if err := h.cmd.Start(); err != nil {
		_ = h.port.Close()
		return err
	}
	h.enc = json.NewEncoder(h.port)
	go func() {
		defer close(h.exited)
		_ = h.cmd.Wait() // why it ended is on its console
		if said.Len() > 0 {
			_ = os.WriteFile(h.console+".vmm", []byte(said.String()), 0o600)
		}
	}()
	go h.receive()
	return nil
}

// receive hands on what the host says, and watches that it says something.
func (h *Host) receive() {
	defer close(h.from)
	watch := time.AfterFunc(bootTime, func() { // at boot, Start has its own patience
		h.stuck.Store(true)
		_ = h.cmd.Process.Kill()
	})
	defer watch.Stop()
	done := make(chan struct{})
	defer close(done)
	for dec := json.NewDecoder(h.port); ; {
		var m wire.FromInit
		if dec.Decode(&m) != nil {
			return
		}
		watch.Reset(h.patience)
		if m.Pong {
			continue
		}
		if m.Ready {
			go h.ping(done)
		}
		h.from <- m
	}
}

// ping asks the host whether it still goes until done is closed. To a processor of the host it is also
// an interrupt, with which one that has lost that of its timer goes on.
func (h *Host) ping(done <-chan struct{}) {
	tick := time.NewTicker(h.every)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		if h.send(wire.ToInit{Ping: true}) != nil {
			return
		}
	}
}

// send says something to the host's process 1.
func (h *Host) send(m wire.ToInit) error {
	h.sendMu.Lock()
	defer h.sendMu.Unlock()
	return h.enc.Encode(m)
}

// gone is the error of a host that is no longer there.
func (h *Host) gone() error {
	if h.stuck.Load() {
		return fmt.Errorf("%w for %v; its console ends: %s", ErrStuck, h.patience, h.Console())
	}
	return fmt.Errorf("the KVM host is gone; its console ends: %s", h.Console())
}

// Run runs a command to its end and returns its exit code. An error means that it did not start,
// that ctx ended or that the host is gone.
func (h *Host) Run(ctx context.Context, c wire.Command, stdout, stderr io.Writer) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(c.Args) == 0 {
		return -1, errors.New("no command")
	}
	if err := h.send(wire.ToInit{Run: &c}); err != nil {
		return -1, h.gone()
	}
	done := ctx.Done()
	for {
		select {
		case m, ok := <-h.from:
			switch {
			case !ok:
				return -1, h.gone()
			case m.Failed != "":
				return -1, errors.New(m.Failed)
			case m.Ended:
				return m.Code, ctx.Err()
			}
			_, _ = stdout.Write(m.Out)
			_, _ = stderr.Write(m.Err)
		case <-done:
			done = nil
			if err := h.send(wire.ToInit{Kill: true}); err != nil {
				return -1, h.gone()
			}
			// What answers no more is ended whole; then from is closed.
			stop := time.AfterFunc(stopTime, func() { _ = h.cmd.Process.Kill() })
			defer stop.Stop()
		}
	}
}

// Console returns the end of what the host's kernel and QEMU said.
func (h *Host) Console() string {
	const most = 2000
	var text strings.Builder
	for _, name := range []string{h.console, h.console + ".vmm"} {
		data, err := os.ReadFile(name)
		if err == nil {
			text.Write(data[max(len(data)-most, 0):])
		}
	}
	return text.String()
}

// Close ends the host and deletes what was made for it.
func (h *Host) Close() {
	_ = h.port.Close() // its process 1 takes that for the wish to power off
	go func() {
		for range h.from { // nobody asks for it any more
		}
	}()
	kill := time.AfterFunc(stopTime, func() { _ = h.cmd.Process.Kill() })
	<-h.exited
	kill.Stop()
	_ = os.RemoveAll(h.dir)
}

// makeFiles makes the disk that the host's kernel mounts as its root: process 1, the tests' files
// and the few of a system's own.
func makeFiles(ctx context.Context, name, dir string, files map[string]string) error {
	program := filepath.Join(dir, "init")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "github.com/mvmctl/mvmctl/e2e/kvmhost/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the KVM host's process 1: %w\n%s", err, out)
	}
	return disk.CreateFile(name, disk.Options{Label: "files"}, func(w *disk.Writer) error {
		for _, d := range []string{"dev", "proc", "sys", "run", "tmp", "mvm-debian", "mvm-over", "mvm-root", "usr/bin"} {
			if err := w.Add(disk.Entry{Path: d, Type: disk.TypeDir, Mode: 0o755}, nil); err != nil {
				return err
			}
		}
		for _, s := range [][2]string{
			{"etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"},
			{"etc/group", "root:x:0:\nnogroup:x:65534:\n"},
			{"etc/hosts", "127.0.0.1 localhost\n"},
		} {
			if err := w.Add(disk.Entry{Path: s[0], Type: disk.TypeFile, Mode: 0o644, Size: int64(len(s[1]))}, strings.NewReader(s[1])); err != nil {
				return err
			}
		}
		for _, link := range [][2]string{{"usr/bin/sh", "busybox"}, {"bin", "usr/bin"}} {
			if err := w.Add(disk.Entry{Path: link[0], Type: disk.TypeSymlink, Mode: 0o777, Target: link[1]}, nil); err != nil {
				return err
			}
		}
		if err := addPath(w, "init", program); err != nil {
			return err
		}
		paths := make([]string, 0, len(files))
		for to := range files {
			paths = append(paths, to)
		}
		slices.Sort(paths)
		for _, to := range paths {
			if err := addPath(w, to, files[to]); err != nil {
				return err
			}
		}
		return nil
	})
}

// addPath adds a file, or a folder with all that is in it, as root's.
func addPath(w *disk.Writer, to, from string) error {
	to = strings.Trim(to, "/")
	return filepath.WalkDir(from, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		e := disk.Entry{Path: filepath.ToSlash(filepath.Join(to, rel)), Type: disk.TypeFile, Mode: uint16(info.Mode().Perm()), Size: info.Size()}
		if info.IsDir() {
			e.Type, e.Mode, e.Size = disk.TypeDir, 0o755, 0
			return w.Add(e, nil)
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		return w.Add(e, f)
	})
}
