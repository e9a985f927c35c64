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
	"sync/atomic"
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
	turn    sync.Mutex    // held by the command under way
	answers chan struct{} // one for each answer to a command; closed at the end
	channel string        // abstract socket of the agent's serial port

	mu       sync.Mutex
	open     bool          // the guest has the port open
	changes  int           // how often it was opened and closed
	changed  chan struct{} // closed at the next change
	owed     bool          // the guest is about to close and to open it
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
	q.answers, q.changed = make(chan struct{}, 1), make(chan struct{})
	go q.readQMP()
	// QEMU answers when it has opened everything, as a VMM has that answers its own client.
	if err := q.Command("qmp_capabilities", "{}"); err != nil {
		_ = q.cmd.Process.Kill()
		_ = q.cmd.Wait()
		return fmt.Errorf("QEMU does not start the machine: %w", err)
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

// Command has QEMU carry out a QMP command: stop, for example, has stopped the guest when it returns.
func (q *StandIn) Command(name, arguments string) error {
	q.turn.Lock()
	defer q.turn.Unlock()
	if _, err := fmt.Fprintf(q.qmp, `{"execute":%q,"arguments":%s}`+"\n", name, arguments); err != nil {
		return err
	}
	select {
	case _, ok := <-q.answers:
		if !ok {
			return errors.New("it has ended")
		}
		return nil
	case <-time.After(time.Minute):
		return errors.New("it does not answer")
	}
}

// readQMP follows the answers, and what the guest does with the port.
func (q *StandIn) readQMP() {
	sc := bufio.NewScanner(q.qmp)
	for sc.Scan() {
		if line := sc.Bytes(); bytes.HasPrefix(line, []byte(`{"return"`)) || bytes.HasPrefix(line, []byte(`{"error"`)) {
			q.answers <- struct{}{}
		}
		if !bytes.Contains(sc.Bytes(), []byte("VSERPORT_CHANGE")) || !bytes.Contains(sc.Bytes(), []byte(`"agentport"`)) {
			continue
		}
		q.mu.Lock()
		q.open = bytes.Contains(sc.Bytes(), []byte(`"open": true`))
		q.changes++
		q.owed = false
		close(q.changed)
		q.changed = make(chan struct{})
		old := q.current
		q.mu.Unlock()
		if old != nil {
			_ = old.Close() // it takes the lock itself
		}
	}
	close(q.answers)
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
	old := q.current
	q.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
	q.mu.Lock()
	owed, changed, pause := q.owed, q.changed, q.settle()-time.Since(q.detached)
	q.owed = false
	q.mu.Unlock()
	if owed {
		select {
		case <-changed:
		case <-time.After(owedTime):
		}
	}
	<-time.After(pause)
	if !q.Listens() {
		_ = c.Close()
		return
	}
	g, err := net.Dial("unix", "@"+q.channel) //nolint:noctx // it succeeds or fails at once
	if err != nil {
		_ = c.Close()
		return
	}
	var sent atomic.Int64 // to the guest
	q.mu.Lock()
	before := q.changes
	both := &bridge{Conn: c, other: g, over: func() {
		n := sent.Load()
		q.mu.Lock()
		q.detached = time.Now()
		q.owed = n > 0 && n < handshakeBytes && q.changes == before
		q.mu.Unlock()
	}}
	q.current = both
	q.mu.Unlock()
	if _, err := io.WriteString(c, greeting); err != nil {
		_ = both.Close()
	}
	asked := time.Now() // until the first bytes come: the client speaks first
	go func() {
		_, _ = io.Copy(counted{g, &sent}, &onFirst{c, func() { q.mu.Lock(); asked = time.Now(); q.mu.Unlock() }})
		_ = both.Close()
	}()
	go func() {
		_, _ = io.Copy(c, &onFirst{g, func() { q.mu.Lock(); q.answer = time.Since(asked); q.mu.Unlock() }})
		_ = both.Close()
	}()
}

// A handshake that was broken off makes the agent close the port and open it again. QEMU tells of
// that at most once a second, so it may do so when the next connection is there already, which that
// would end: it is waited for. More than handshakeBytes are only sent once a handshake is done.
const (
	owedTime       = 3 * time.Second
	handshakeBytes = 1024
)

// counted counts what is written.
type counted struct {
	io.Writer
	n *atomic.Int64
}

// Write implements io.Writer.
func (c counted) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n.Add(int64(n))
	return n, err
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
