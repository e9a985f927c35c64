package vz

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/driver/drivertest"
)

// The double stands in for vfkit where there is none. It is this test binary under the name
// vfkit-double: it reads the command line as vfkit v0.6.3 does and is stricter, serves its REST API,
// connects its unix socket as vfkit's proxy does, and boots the guest by QEMU. What passes with it is
// not known to pass with vfkit, so tests with it are called so.
const doubleName = "vfkit-double"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == doubleName {
		os.Exit(runDouble(os.Args[1:]))
	}
	os.Exit(m.Run())
}

func runDouble(args []string) int {
	runtime.LockOSThread() // QEMU dies with the thread that starts it: this one
	if len(args) == 1 && args[0] == "--version" {
		fmt.Println("vfkit version: v0.6.3")
		return 0
	}
	if err := double(args); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		return 1
	}
	return 0
}

func double(args []string) error {
	c, err := parseArgs(args)
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return err
	}
	master, slave, err := newTerminal()
	if err != nil {
		return err
	}
	q, err := c.guest()
	if err != nil {
		return err
	}
	var out *os.File
	if out, q.Console, err = os.Pipe(); err != nil {
		return err
	}
	// QEMU throws away what a console has no room for.
	if _, err := unix.FcntlInt(out.Fd(), unix.F_SETPIPE_SZ, 1<<20); err != nil {
		return err
	}
	var state atomic.Value
	state.Store("VirtualMachineStateStarting")
	api, err := net.Listen("unix", c.api)
	if err != nil {
		return err
	}
	defer func() { _ = api.Close() }()
	server := &http.Server{Handler: doubleAPI(slave, &state, q), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(api) }()
	if err := q.Start(); err != nil {
		return err
	}
	_ = q.Console.Close()
	go func() { _, _ = io.Copy(master, out) }()
	state.Store(stateRunning)
	fmt.Fprintln(os.Stderr, `level=info msg="virtual machine is running"`)
	// vfkit goes on without the socket when it cannot have it.
	if ln, err := net.Listen("unix", c.vsockPath); err != nil {
		fmt.Fprintf(os.Stderr, "level=warning msg=%q\n", "error exposing vsock port: "+err.Error())
	} else {
		defer func() { _ = ln.Close() }()
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				q.Bridge(conn, "")
			}
		}()
	}
	if err := q.Wait(); err != nil {
		return fmt.Errorf("virtualization error: %w", err)
	}
	return nil
}

// newTerminal makes a terminal as vfkit does, and returns the end that it keeps and the name of the
// other.
func newTerminal() (*os.File, string, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", err
	}
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		return nil, "", err
	}
	name := "/dev/pts/" + strconv.Itoa(n)
	slave, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0) // stays open
	if err != nil {
		return nil, "", err
	}
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, "", err
	}
	t.Iflag &^= unix.ICRNL
	t.Lflag &^= unix.ICANON | unix.ECHO
	runtime.KeepAlive(slave)
	return master, name, unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

// doubleAPI answers as vfkit's pkg/rest does.
func doubleAPI(terminal string, state *atomic.Value, q *drivertest.StandIn) http.Handler {
	answer := func(w http.ResponseWriter, status int, v any) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /vm/inspect", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]any{"vcpus": 1, "devices": []map[string]any{
			{"kind": "virtiorng"}, {"kind": "virtioserial", "usesPty": true, "ptyName": terminal},
		}})
	})
	mux.HandleFunc("GET /vm/state", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]any{"state": state.Load(), "canStop": state.Load() == stateRunning})
	})
	mux.HandleFunc("POST /vm/state", func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			State string `json:"state"`
		}
		if err := json.NewDecoder(io.LimitReader(r.Body, 4096)).Decode(&body); err != nil {
			answer(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
			return
		}
		// What the framework allows from where, and what QEMU calls it.
		change, ok := map[string]struct{ from, to, command string }{
			"Stop":   {stateRunning, stateRunning, "system_powerdown"},
			"Pause":  {stateRunning, statePaused, "stop"},
			"Resume": {statePaused, stateRunning, "cont"},
		}[body.State]
		if !ok || !state.CompareAndSwap(change.from, change.to) {
			answer(w, http.StatusInternalServerError, map[string]string{"error": fmt.Sprintf("%s: invalid virtual machine state transition from %s", body.State, state.Load())})
			return
		}
		if err := q.Command(change.command, "{}"); err != nil {
			answer(w, http.StatusInternalServerError, map[string]string{"error": err.Error()})
			return
		}
		w.WriteHeader(http.StatusAccepted)
	})
	return mux
}

// guest is the machine that the arguments describe.
func (c vfkitArgs) guest() (*drivertest.StandIn, error) {
	q := &drivertest.StandIn{
		ID: strconv.Itoa(os.Getpid()), CPUs: strconv.Itoa(c.cpus), MiB: strconv.Itoa(c.memory),
		Kernel: c.kernel, Initrd: c.initrd, Cmdline: c.cmdline, RNG: c.rng, Balloon: c.balloon, Hvc: true, VMM: os.Stderr,
	}
	for _, d := range c.disks {
		q.Disks = append(q.Disks, drivertest.StandInDisk{Path: d.path, Serial: d.id, ReadOnly: d.readOnly})
	}
	return q, nil
}

// check does what vfkit does before it starts anything.
func (c vfkitArgs) check() error {
	if c.cpus > runtime.NumCPU() {
		return errors.New("invalid virtual machine configuration: too many CPUs")
	}
	if c.vsockPort != 52 || !c.vsockConnect {
		return errors.New("the double has only the agent's port, which the host connects to")
	}
	if !c.pty {
		return errors.New("the double has only a terminal for a console")
	}
	if u := (&url.URL{Path: c.vsockPath}).EscapedPath(); u != c.vsockPath {
		return fmt.Errorf("vfkit would bind %s", u)
	}
	for _, path := range []string{c.kernel, c.initrd} {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		_ = f.Close()
	}
	for _, d := range c.disks {
		f, err := os.Open(d.path)
		if err != nil {
			return fmt.Errorf("failed to open file %s: %w", d.path, err)
		}
		head := make([]byte, 4)
		_, err = f.Read(head)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("failed to read the header of file %s: %w", d.path, err)
		}
		if string(head) == "QFI\xfb" {
			return errors.New("vfkit does not support qcow2 image format")
		}
	}
	for _, word := range []string{"console=hvc0"} {
		if !strings.Contains(" "+c.cmdline+" ", " "+word+" ") {
			return fmt.Errorf("the kernel's command line has no %s: the framework has no other console", word)
		}
	}
	return nil
}
