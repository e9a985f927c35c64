package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// buildTime bounds a kernel build on a busy two-core machine, with room.
const buildTime = 20 * time.Minute

// builtKernel builds the kernel without modules in the user's cache, which keeps it from run to
// run, and returns its id.
func (l *lab) builtKernel() string {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), buildTime)
	defer cancel()
	cmd := l.command(ctx, nil, "kernel", "build", "--json")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var failed struct {
		Error struct{ Code, Message string }
	}
	if _, exited := errors.AsType[*exec.ExitError](err); exited && json.Unmarshal(errOut.Bytes(), &failed) == nil {
		switch failed.Error.Code {
		case "kernel.tools", "kernel.source", "kernel.fetch":
			l.t.Skipf("missing: %s (scripts/dev-setup.sh installs the tools)", failed.Error.Message)
		}
	}
	var k struct {
		ID      string
		Modules int
		Default bool
		Build   map[string]string
	}
	if err == nil {
		err = json.Unmarshal(out.Bytes(), &k)
	}
	if err != nil {
		l.t.Fatalf("kernel build: %v\n%s%s", err, out.String(), errOut.String())
	}
	if k.ID == "" || k.Modules != 0 || k.Default || len(k.Build["source_sha256"]) != 64 {
		l.t.Errorf("kernel build says %s", out.String())
	}
	return k.ID
}

// TestBuiltKernel: a kernel that mvmctl built from source, without modules, carries a machine
// with all that the distribution's does.
func TestBuiltKernel(t *testing.T) {
	l := newLab(t, "qemu", false)
	id := l.builtKernel()
	// Once more, there is nothing to do.
	if r := l.run("kernel", "build"); r.code != 0 || strings.TrimSpace(r.stdout) != id || !strings.Contains(r.stderr, "nothing to do") {
		t.Errorf("second build: %v", r)
	}
	l.ownCache()
	l.must("up", "-d", "minimal", "--name", "m", "--kernel", id, "-v", "data:/data:size=64M", "-p", "0:7", "--timeout", "5m",
		"--", "sh", "-c", "while true; do echo from the guest | nc -l -p 7; done")
	if release := strings.TrimSpace(l.must("exec", "m", "--", "uname", "-r")); !strings.HasSuffix(release, "-mvm") {
		t.Errorf("the machine runs %q", release)
	}
	l.must("exec", "m", "--", "sh", "-c", "echo kept >/data/file")
	have := l.must("exec", "m", "--", "sh", "-c", "cat /proc/filesystems /sys/fs/cgroup/cgroup.controllers; ls /proc/sys/net/netfilter /proc/sys/fs/binfmt_misc; test -e /proc/modules || echo no modules")
	for _, want := range []string{"erofs", "squashfs", "fuse", "overlay", "tmpfs", "autofs", "memory", "pids", "io", "cpuset", "nf_conntrack_max", "no modules"} {
		if !strings.Contains(have, want) {
			t.Errorf("the guest has no %s: %s", want, have)
		}
	}
	if said := l.greeting(l.port("m")); said != "from the guest\n" {
		t.Errorf("the published port says %q", said)
	}
	l.must("down", "m")
	l.must("up", "-d", "--name", "m")
	if out := l.must("exec", "m", "--", "cat", "/data/file"); out != "kept\n" {
		t.Errorf("the volume has %q", out)
	}
	l.must("rm", "--force", "m")
	l.must("volume", "rm", "data")
	l.nothingLeft()
}

// greeting returns what a server says to those who connect to a port of this host. The
// connection is accepted at once, and closed while the guest's server is not there yet.
func (l *lab) greeting(port string) string {
	l.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		c, err := net.DialTimeout("tcp", "127.0.0.1:"+port, 10*time.Second)
		if err != nil {
			l.t.Fatal(err)
		}
		_ = c.SetDeadline(end)
		said, _ := io.ReadAll(c)
		_ = c.Close()
		if len(said) > 0 || time.Now().After(end) {
			return string(said)
		}
	}
}
