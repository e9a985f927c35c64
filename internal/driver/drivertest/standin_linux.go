package drivertest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// StandIn is the guest behind the double of a VMM: the machine that the double was told to build,
// booted by QEMU without KVM. Its one byte pipe to the agent stands for the VMM's vsock port.
type StandIn struct {
	ID           string // tells it from others
	CPUs, MiB    string
	Kernel       string
	Initrd       string
	Cmdline      string
	Disks        []StandInDisk
	RNG, Balloon bool
	Hvc          bool     // the console is a virtio device and not a serial port
	Console      *os.File // where it goes
	VMM          *os.File // what QEMU says

	cmd     *exec.Cmd
	qmp     net.Conn
	channel string // abstract socket of the agent's serial port

	mu       sync.Mutex
	open     bool // the guest has the port open
	current  net.Conn
	detached time.Time
	answer   time.Duration // how long the guest's last first answer took
}

// StandInDisk is a disk of a StandIn.
type StandInDisk struct {
	Path, Serial string
	ReadOnly     bool
}

// Start boots it. QEMU dies with the thread that calls it, which must be locked to its goroutine.
func (q *StandIn) Start() error {
	q.channel = "mvm-double-" + q.ID
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "qmp"), os.NewFile(uintptr(fds[1]), "qmp")
	defer func() { _, _ = theirs.Close(), ours.Close() }()
	if q.qmp, err = net.FileConn(ours); err != nil {
		return err
	}
	q.cmd = exec.CommandContext(context.Background(), "qemu-system-x86_64", q.args()...) // it lives as long as this process
	q.cmd.Stdout, q.cmd.Stderr = q.Console, q.VMM
	q.cmd.ExtraFiles = []*os.File{theirs}
	q.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := q.cmd.Start(); err != nil {
		return err
	}
	ready := make(chan bool, 1)
	go q.readQMP(ready)
	if err := q.Command("qmp_capabilities", "{}"); err != nil {
		return err
	}
	// QEMU answers when it has opened everything, as a VMM has that answers its own client.
	if !<-ready {
		_ = q.cmd.Wait()
		return errors.New("QEMU does not start the machine")
	}
	return nil
}

func (q *StandIn) args() []string {
	args := []string{
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-M", "q35,usb=off,vmport=off", "-accel", "tcg,tb-size=128", "-cpu", "max,aes=off,la57=off",
		"-smp", q.CPUs, "-m", q.MiB, "-kernel", q.Kernel, "-initrd", q.Initrd, "-append", q.Cmdline + " cryptomgr.notests",
		"-chardev", "stdio,id=console,signal=off", "-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control",
		"-device", "virtio-serial-pci,id=serial,max_ports=2",
		"-chardev", "socket,id=agent,abstract=on,server=on,wait=off,path=" + q.channel,
		"-device", "virtserialport,bus=serial.0,nr=1,id=agentport,chardev=agent,name=mvm.agent",
	}
	if q.Hvc {
		args = append(args, "-device", "virtconsole,bus=serial.0,nr=0,chardev=console")
	} else {
		args = append(args, "-serial", "chardev:console")
	}
	if q.RNG {
		args = append(args, "-object", "rng-builtin,id=rng", "-device", "virtio-rng-pci,rng=rng")
	}
	if q.Balloon {
		args = append(args, "-device", "virtio-balloon-pci")
	}
	for i, d := range q.Disks {
		ro := "off"
		if d.ReadOnly {
			ro = "on"
		}
		args = append(args,
			"-drive", fmt.Sprintf("if=none,id=d%d,format=raw,readonly=%s,file=%s", i, ro, strings.ReplaceAll(d.Path, ",", ",,")),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=d%d,serial=%s", i, d.Serial))
	}
	return args
}

// Command sends a QMP command, whose answer nobody reads.
func (q *StandIn) Command(name, arguments string) error {
	_, err := fmt.Fprintf(q.qmp, `{"execute":%q,"arguments":%s}`+"\n", name, arguments)
	return err
}

// readQMP follows what the guest does with the port. ready hears of the first answer, or of the
// end.
func (q *StandIn) readQMP(ready chan<- bool) {
	sc := bufio.NewScanner(q.qmp)
	for sc.Scan() {
		if bytes.HasPrefix(sc.Bytes(), []byte(`{"return"`)) {
			select {
			case ready <- true:
			default:
			}
		}
		if !bytes.Contains(sc.Bytes(), []byte("VSERPORT_CHANGE")) || !bytes.Contains(sc.Bytes(), []byte(`"agentport"`)) {
			continue
		}
		q.mu.Lock()
		q.open = bytes.Contains(sc.Bytes(), []byte(`"open": true`))
		if q.current != nil {
			_ = q.current.Close()
		}
		q.mu.Unlock()
	}
	close(ready)
}

// Wait returns how QEMU ended.
func (q *StandIn) Wait() error { return q.cmd.Wait() }

// Listens reports whether the guest has the agent's port open.
func (q *StandIn) Listens() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.open
}

// settle is what a guest has to notice the end of a connection, and perhaps to open the port anew,
// which ends the connection that there is then. It has no way to say that it is done; but how long it
// took to answer when it was last asked says how busy the host is. It is called with the lock held.
func (q *StandIn) settle() time.Duration {
	return min(max(3*q.answer, 200*time.Millisecond), 5*time.Second)
}

// Bridge connects c to the agent after writing greeting to it, or closes it when the guest does not
// listen. There is one byte pipe, so a new connection ends the one before.
func (q *StandIn) Bridge(c net.Conn, greeting string) {
	q.mu.Lock()
	open, old := q.open, q.current
	q.mu.Unlock()
	if !open {
		_ = c.Close()
		return
	}
	if old != nil {
		_ = old.Close()
	}
	q.mu.Lock()
	pause := q.settle() - time.Since(q.detached)
	q.mu.Unlock()
	<-time.After(pause)
	g, err := net.Dial("unix", "@"+q.channel) //nolint:noctx // it succeeds or fails at once
	if err != nil {
		_ = c.Close()
		return
	}
	both := &bridge{Conn: c, other: g, over: func() {
		q.mu.Lock()
		q.detached = time.Now()
		q.mu.Unlock()
	}}
	q.mu.Lock()
	q.current = both
	q.mu.Unlock()
	if _, err := io.WriteString(c, greeting); err != nil {
		_ = both.Close()
	}
	asked := time.Now() // until the first bytes come: the client speaks first
	go func() {
		_, _ = io.Copy(g, &onFirst{c, func() { q.mu.Lock(); asked = time.Now(); q.mu.Unlock() }})
		_ = both.Close()
	}()
	go func() {
		_, _ = io.Copy(c, &onFirst{g, func() { q.mu.Lock(); q.answer = time.Since(asked); q.mu.Unlock() }})
		_ = both.Close()
	}()
}

// onFirst calls do when something was read for the first time.
type onFirst struct {
	io.Reader
	do func()
}

// Read implements io.Reader.
func (f *onFirst) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if n > 0 && f.do != nil {
		f.do()
		f.do = nil
	}
	return n, err
}

// bridge closes both sides, once.
type bridge struct {
	net.Conn
	other net.Conn
	once  sync.Once
	over  func()
}

// Close implements net.Conn.
func (b *bridge) Close() error {
	b.once.Do(func() {
		_, _ = b.Conn.Close(), b.other.Close()
		b.over()
	})
	return nil
}
