package firecracker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver/drivertest"
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
	qemu   *drivertest.StandIn // once started
	ended  chan int            // exit code
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
			return d.qemu.Command("send-key", `{"keys":[{"type":"qcode","data":"ctrl"},{"type":"qcode","data":"alt"},{"type":"qcode","data":"delete"}]}`)
		case running:
			return errors.New("the requested operation is not supported after starting the microVM")
		}
		return errors.New("the requested operation is not supported until the microVM is started")
	}
	if r.URL.Path == "/vm" && running {
		return d.qemu.Command(map[any]string{"Paused": "stop", "Resumed": "cont"}[body["state"]], `{}`)
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
	q, err := guestOf(d)
	if err == nil {
		err = q.Start()
	}
	if err != nil {
		return err
	}
	d.qemu = q
	if d.vsock != nil {
		go serveVsock(d.vsock, q)
	}
	go func() {
		if err := q.Wait(); err != nil {
			fmt.Fprintln(os.Stderr, "double: QEMU:", err)
			d.ended <- 148
			return
		}
		d.ended <- 0
	}()
	return nil
}

// guestOf is the guest that was configured.
func guestOf(d *double) (*drivertest.StandIn, error) {
	boot, config := d.bodies["/boot-source"], d.bodies["/machine-config"]
	if config == nil {
		config = map[string]any{"vcpu_count": 1.0, "mem_size_mib": 128.0} // Firecracker's defaults
	}
	q := &drivertest.StandIn{
		ID: d.id, CPUs: fmt.Sprint(config["vcpu_count"]), MiB: fmt.Sprint(config["mem_size_mib"]),
		Kernel: d.root + boot["kernel_image_path"].(string), Initrd: d.root + boot["initrd_path"].(string), Cmdline: boot["boot_args"].(string),
		RNG: d.bodies["/entropy"] != nil, Balloon: d.bodies["/balloon"] != nil, Console: os.Stdout, VMM: os.Stderr,
	}
	for _, drive := range d.drives {
		path := d.root + drive["path_on_host"].(string)
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil {
			return nil, err
		}
		serial := fmt.Sprintf("%d%d%d", st.Dev, st.Rdev, st.Ino) // as Firecracker makes it up
		q.Disks = append(q.Disks, drivertest.StandInDisk{Path: path, Serial: serial[:min(20, len(serial))], ReadOnly: drive["is_read_only"] == true})
	}
	return q, nil
}

// serveVsock keeps to the host's side of docs/vsock.md of Firecracker: a line "CONNECT <port>\n",
// answered by "OK <port>\n", or the end when the guest refuses.
func serveVsock(ln net.Listener, q *drivertest.StandIn) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		if firstLine(c) != "CONNECT 52\n" {
			_ = c.Close()
			continue
		}
		q.Bridge(c, "OK 1073741824\n")
	}
}

// firstLine reads a short line and nothing after it.
func firstLine(r io.Reader) string {
	var line []byte
	for one := make([]byte, 1); len(line) < 32 && !bytes.HasSuffix(line, []byte("\n")); line = append(line, one[0]) {
		if _, err := io.ReadFull(r, one); err != nil {
			return ""
		}
	}
	return string(line)
}
