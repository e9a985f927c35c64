package firecracker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The double stands in for Firecracker where there is none. It is this test binary under the name
// firecracker-double: it serves the API, refuses every request that Firecracker's own document
// does not allow or that comes at the wrong time, and boots the guest by QEMU, without KVM. What
// passes with it is not known to pass with Firecracker, so tests with it are called so.
const doubleName = "firecracker-double"

// doubleVersion is the release whose document it keeps to.
const doubleVersion = "1.16.1"

func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case doubleName:
		os.Exit(runDouble(os.Args[1:], os.Getenv(doubleRoot)))
	case "jailer":
		os.Exit(runJailerDouble(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// double is one Firecracker that is none.
type double struct {
	doc  document
	id   string
	root string // prefix of paths in requests: a jail without chroot; "" for none

	mu     sync.Mutex
	bodies map[string]map[string]any // what was configured, by path
	drives []map[string]any          // in attach order
	vsock  net.Listener
	qemu   *guestVM // once started
	ended  chan int // exit code
}

func runDouble(args []string, root string) int {
	runtime.LockOSThread() // QEMU dies with the thread that starts it: this one
	if len(args) == 1 && args[0] == "--version" {
		fmt.Printf("Firecracker v%s\n\nSupported snapshot data format versions: none\n", doubleVersion)
		return 0
	}
	if len(args) != 4 || args[0] != "--id" || args[1] == "" || args[2] != "--api-sock" {
		fmt.Fprintf(os.Stderr, "double: arguments %q\n", args)
		return 153
	}
	doc, err := readDocument(doubleVersion)
	if err != nil {
		fmt.Fprintln(os.Stderr, "double:", err)
		return 1
	}
	ln, err := net.Listen("unix", root+args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, "double: Failed to open the API socket:", err)
		return 1
	}
	d := &double{doc: doc, id: args[1], root: root, bodies: map[string]map[string]any{}, ended: make(chan int, 1)}
	starts := make(chan chan error) // InstanceStart, done by this thread
	server := &http.Server{Handler: d.handler(starts), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(ln) }()
	for {
		select {
		case answer := <-starts:
			answer <- d.start()
		case code := <-d.ended:
			return code
		}
	}
}

func (d *double) handler(starts chan chan error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := d.handle(r, starts)
		if err == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		fmt.Fprintf(os.Stderr, "double: %s %s: %v\n", r.Method, r.URL.Path, err)
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"fault_message": err.Error()})
	})
}

func (d *double) handle(r *http.Request, starts chan chan error) error {
	data, err := io.ReadAll(io.LimitReader(r.Body, 51200)) // Firecracker's own limit
	if err != nil {
		return err
	}
	if r.ContentLength != int64(len(data)) || len(r.TransferEncoding) > 0 {
		return errors.New("the body has no length that is true: Firecracker knows no chunks")
	}
	if err := d.doc.check(r.Method, r.URL.Path, data); err != nil {
		return fmt.Errorf("not in the API of %s: %w", doubleVersion, err)
	}
	var body map[string]any
	if err := json.Unmarshal(data, &body); err != nil {
		return err
	}
	d.mu.Lock()
	running := d.qemu != nil
	d.mu.Unlock()
	if r.URL.Path == "/actions" {
		switch action := body["action_type"]; {
		case action == "InstanceStart" && !running:
			answer := make(chan error, 1)
			starts <- answer
			return <-answer
		case action == "SendCtrlAltDel" && running:
			return d.qemu.command("send-key", `{"keys":[{"type":"qcode","data":"ctrl"},{"type":"qcode","data":"alt"},{"type":"qcode","data":"delete"}]}`)
		case running:
			return errors.New("the requested operation is not supported after starting the microVM")
		}
		return errors.New("the requested operation is not supported until the microVM is started")
	}
	if running {
		return errors.New("the requested operation is not supported after starting the microVM")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.configure(r.URL.Path, body)
}

// configure does what Firecracker does at once: it opens what it is told of.
func (d *double) configure(path string, body map[string]any) error {
	file := func(key string) string { s, _ := body[key].(string); return d.root + s }
	opens := func(name string, flags int) error {
		f, err := os.OpenFile(name, flags, 0)
		if err != nil {
			return err
		}
		return f.Close()
	}
	switch {
	case path == "/boot-source":
		if err := errors.Join(opens(file("kernel_image_path"), os.O_RDONLY), opens(file("initrd_path"), os.O_RDONLY)); err != nil {
			return fmt.Errorf("the kernel file cannot be opened: %w", err)
		}
	case path == "/logger":
		f, err := os.OpenFile(file("log_path"), os.O_RDWR|syscall.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		fmt.Fprintf(f, "double: logging to %s\n", file("log_path")) // and stays open
	case path == "/vsock":
		ln, err := net.Listen("unix", file("uds_path"))
		if err != nil {
			return fmt.Errorf("cannot create backend for vsock device: %w", err)
		}
		d.vsock = ln
	case strings.HasPrefix(path, "/drives/"):
		flags := os.O_RDWR
		if body["is_read_only"] == true {
			flags = os.O_RDONLY
		}
		if err := opens(file("path_on_host"), flags); err != nil {
			return fmt.Errorf("unable to create the block device: %w", err)
		}
		d.drives = append(d.drives, body)
	}
	d.bodies[path] = body
	return nil
}

// start boots the guest, on the thread that lives as long as this process.
func (d *double) start() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bodies["/boot-source"] == nil {
		return errors.New("cannot start microvm without kernel configuration")
	}
	q, err := startGuest(d)
	if err != nil {
		return err
	}
	d.qemu = q
	if d.vsock != nil {
		go q.serveVsock(d.vsock)
	}
	go func() { d.ended <- q.wait() }()
	return nil
}

// guestVM is the QEMU behind the double.
type guestVM struct {
	cmd     *exec.Cmd
	qmp     net.Conn
	channel string // abstract socket of the agent's serial port

	mu       sync.Mutex
	open     bool // the guest has the port open
	current  net.Conn
	detached time.Time
}

// startGuest starts QEMU with what was configured.
func startGuest(d *double) (*guestVM, error) {
	q := &guestVM{channel: "mvm-double-" + d.id}
	args, err := guestArgs(d, q.channel)
	if err != nil {
		return nil, err
	}
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "qmp"), os.NewFile(uintptr(fds[1]), "qmp")
	defer theirs.Close()
	defer ours.Close()
	if q.qmp, err = net.FileConn(ours); err != nil {
		return nil, err
	}
	q.cmd = exec.Command("qemu-system-x86_64", args...)
	q.cmd.Stdout, q.cmd.Stderr = os.Stdout, os.Stderr
	q.cmd.ExtraFiles = []*os.File{theirs}
	q.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := q.cmd.Start(); err != nil {
		return nil, err
	}
	ready := make(chan bool, 1)
	go q.readQMP(ready)
	if err := q.command("qmp_capabilities", "{}"); err != nil {
		return nil, err
	}
	// QEMU answers when it has opened everything, as Firecracker has by now.
	if !<-ready {
		_ = q.cmd.Wait()
		return nil, errors.New("QEMU does not start the machine")
	}
	return q, nil
}

func guestArgs(d *double, channel string) ([]string, error) {
	boot, config := d.bodies["/boot-source"], d.bodies["/machine-config"]
	if config == nil {
		config = map[string]any{"vcpu_count": 1.0, "mem_size_mib": 128.0} // Firecracker's defaults
	}
	args := []string{
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-M", "q35,usb=off,vmport=off", "-accel", "tcg,tb-size=128", "-cpu", "max,aes=off,la57=off",
		"-smp", fmt.Sprint(config["vcpu_count"]), "-m", fmt.Sprint(config["mem_size_mib"]),
		"-kernel", d.root + boot["kernel_image_path"].(string), "-initrd", d.root + boot["initrd_path"].(string),
		"-append", boot["boot_args"].(string) + " cryptomgr.notests",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control",
		"-device", "virtio-serial-pci,id=serial,max_ports=2",
		"-chardev", "socket,id=agent,abstract=on,server=on,wait=off,path=" + channel,
		"-device", "virtserialport,bus=serial.0,nr=1,id=agentport,chardev=agent,name=mvm.agent",
	}
	if d.bodies["/entropy"] != nil {
		args = append(args, "-object", "rng-builtin,id=rng", "-device", "virtio-rng-pci,rng=rng")
	}
	if d.bodies["/balloon"] != nil {
		args = append(args, "-device", "virtio-balloon-pci")
	}
	for i, drive := range d.drives {
		path := d.root + drive["path_on_host"].(string)
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil {
			return nil, err
		}
		serial := fmt.Sprintf("%d%d%d", st.Dev, st.Rdev, st.Ino) // as Firecracker makes it up
		ro := "off"
		if drive["is_read_only"] == true {
			ro = "on"
		}
		args = append(args,
			"-drive", fmt.Sprintf("if=none,id=d%d,format=raw,readonly=%s,file=%s", i, ro, strings.ReplaceAll(path, ",", ",,")),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=d%d,serial=%s", i, serial[:min(20, len(serial))]))
	}
	return args, nil
}

func (q *guestVM) command(name, arguments string) error {
	_, err := fmt.Fprintf(q.qmp, `{"execute":%q,"arguments":%s}`+"\n", name, arguments)
	return err
}

// readQMP follows what the guest does with the port. ready hears of the first answer, or of the
// end.
func (q *guestVM) readQMP(ready chan<- bool) {
	sc := bufio.NewScanner(q.qmp)
	for sc.Scan() {
		if bytes.HasPrefix(sc.Bytes(), []byte(`{"return"`)) {
			select {
			case ready <- true:
			default:
			}
		}
		if !bytes.Contains(sc.Bytes(), []byte("VSERPORT_CHANGE")) {
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

func (q *guestVM) wait() int {
	if err := q.cmd.Wait(); err != nil {
		fmt.Fprintln(os.Stderr, "double: QEMU:", err)
		return 148
	}
	return 0
}

// serveVsock keeps to the host's side of docs/vsock.md of Firecracker: a line "CONNECT <port>\n",
// answered by "OK <port>\n", or the end when the guest refuses. There is one byte pipe behind it,
// so a new connection ends the one before.
func (q *guestVM) serveVsock(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		q.bridge(c)
	}
}

func (q *guestVM) bridge(c net.Conn) {
	var line []byte
	for one := make([]byte, 1); len(line) < 32 && !bytes.HasSuffix(line, []byte("\n")); line = append(line, one[0]) {
		if _, err := io.ReadFull(c, one); err != nil {
			_ = c.Close()
			return
		}
	}
	q.mu.Lock()
	open, old, pause := q.open, q.current, time.Duration(0)
	q.mu.Unlock()
	if string(line) != "CONNECT 52\n" || !open {
		_ = c.Close()
		return
	}
	if old != nil {
		_ = old.Close()
	}
	q.mu.Lock()
	// The guest has no way to say that it has seen the end of the connection before.
	pause = 100*time.Millisecond - time.Since(q.detached)
	q.mu.Unlock()
	<-time.After(pause)
	g, err := net.Dial("unix", "@"+q.channel)
	if err != nil {
		_ = c.Close()
		return
	}
	both := &pairConn{Conn: c, other: g, over: func() {
		q.mu.Lock()
		q.detached = time.Now()
		q.mu.Unlock()
	}}
	q.mu.Lock()
	q.current = both
	q.mu.Unlock()
	if _, err := io.WriteString(c, "OK 1073741824\n"); err != nil {
		_ = both.Close()
	}
	go func() { _, _ = io.Copy(g, c); _ = both.Close() }()
	go func() { _, _ = io.Copy(c, g); _ = both.Close() }()
}

// pairConn closes both sides of a bridge, once.
type pairConn struct {
	net.Conn
	other net.Conn
	once  sync.Once
	over  func()
}

func (p *pairConn) Close() error {
	p.once.Do(func() {
		_, _ = p.Conn.Close(), p.other.Close()
		p.over()
	})
	return nil
}
