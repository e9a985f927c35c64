package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// script makes a program of the lab.
func (l *lab) script(name, text string) string {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	// A program that runs cannot be written.
	next := path + ".next"
	if err := os.WriteFile(next, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil { //nolint:gosec // a program
		l.t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// tooOld checks what `up` and `doctor` say of a backend that is too old, and that the rest of the
// world is as it was.
func (l *lab) tooOld(backend, code string, says ...string) {
	l.t.Helper()
	machines := len(l.list())
	r := l.run("up", "-d", "--json", "--hypervisor", backend, "--name", "new", "minimal")
	if r.code != 125 || r.errorCode() != code {
		l.t.Errorf("up: %v, want %s", r, code)
	}
	d := l.run("doctor", "--json")
	for _, word := range says {
		if !strings.Contains(r.stderr, word) || !strings.Contains(d.stdout, word) {
			l.t.Errorf("not both say %q: up %v; doctor %v", word, r, d)
		}
	}
	if n := len(l.list()); n != machines {
		l.t.Errorf("%d machines, before %d", n, machines)
	}
}

// QEMU is replaced by one that is too old while a machine runs: the machine is not disturbed and
// can be ended, no other starts, and all is well when QEMU is new again.
func TestQEMUTooOld(t *testing.T) {
	l := newLab(t, "qemu", false)
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("missing: qemu-system-x86_64")
	}
	good := fmt.Sprintf("exec %s \"$@\"", qemu)
	old := "case \"$*\" in *-version*) echo 'QEMU emulator version 5.2.0 (Debian 1:5.2)' ;; *) " + good + " ;; esac"
	program := l.script("qemu", good)
	l.ownCache() // what is remembered of this QEMU is nobody else's
	_ = os.Remove(filepath.Join(l.dir, "cache", "qemu.json"))
	l.env = append(l.env, "MVM_QEMU="+program)
	l.must("up", "-d", "--name", "m", "minimal")
	l.script("qemu", old)
	l.tooOld("qemu", "backend.version", program, "5.2.0", "6.2")
	l.tooOld("qemu", "backend.version", program, "5.2.0", "6.2") // also when its version is remembered
	l.must("exec", "m", "--", "true")
	l.must("down", "m")
	if r := l.run("up", "-d", "--json", "--name", "m"); r.code != 125 || r.errorCode() != "backend.version" {
		t.Errorf("the machine starts again: %v", r)
	}
	if v := l.machine("m"); v == nil || v.State != "exited" {
		t.Errorf("ls says %+v", v)
	}
	l.script("qemu", good)
	l.must("up", "-d", "--name", "m")
	l.must("exec", "m", "--", "true")
	l.must("rm", "--force", "m")
	l.nothingLeft()
}

// noQEMU keeps doctor from trying a backend that is not the test's.
const noQEMU = "MVM_QEMU=/no/such/qemu"

// A Firecracker that is too old, or says nothing that is a version, is refused, and doctor says
// why, before anything else is looked at: also where there is no KVM.
func TestFirecrackerTooOld(t *testing.T) {
	l := newLab(t, "firecracker", false)
	program := l.script("firecracker", "echo Firecracker v1.7.9")
	l.env = append(l.env, "MVM_CACHE_DIR="+filepath.Join(l.dir, "cache"), "MVM_FIRECRACKER="+program, noQEMU)
	l.tooOld("firecracker", "backend.version", program, "1.7.9", "1.8.0")
	l.script("firecracker", "echo 'a new world'")
	l.tooOld("firecracker", "backend.version", program, "a new world")
	l.nothingLeft()
}

// So is an engine that is too old, which answers as such an engine does.
func TestDockerTooOld(t *testing.T) {
	l := newLab(t, "docker", false)
	socket := filepath.Join(l.dir, "docker.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	engine := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Api-Version", "1.40")
		_, _ = io.WriteString(w, "OK")
	})}
	go func() { _ = engine.Serve(ln) }()
	defer func() { _ = engine.Close() }()
	l.env = append(l.env, "MVM_CACHE_DIR="+filepath.Join(l.dir, "cache"), "DOCKER_HOST=unix://"+socket, noQEMU)
	l.tooOld("docker", "backend.version", "1.40", "1.41")
	l.nothingLeft()
}

// And so is a limactl, before anything is asked of its virtual machines.
func TestLimactlTooOld(t *testing.T) {
	l := newLab(t, "lima", false)
	asked := filepath.Join(l.dir, "asked")
	program := l.script("limactl", "case \"$1\" in --version) echo limactl version 0.18.0 ;; *) echo \"$*\" >>"+asked+"; exit 1 ;; esac")
	l.env = append(l.env, "MVM_CACHE_DIR="+filepath.Join(l.dir, "cache"), "MVM_LIMACTL="+program, noQEMU)
	l.tooOld("lima", "lima.version", "0.18.0", "1.0")
	if data, err := os.ReadFile(asked); err == nil {
		t.Errorf("it was told to %s", data)
	}
	l.nothingLeft()
}
