package e2e

import (
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// systemLayer is what the systemd image has beside Debian: a name that is not the machine's, and
// a service that writes down that it was stopped in order.
func systemLayer(t *testing.T) v1.Layer {
	t.Helper()
	const unit = `[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/bin/sh -c 'echo "stopped in order" >>/var/log/last-words'
`
	wanted := tarEntry{}
	wanted.Name, wanted.Linkname, wanted.Typeflag = "etc/systemd/system/multi-user.target.wants/witness.service", "../witness.service", '2'
	return smallLayer(t, tarFile("etc/hostname", "somebody-else\n"), tarFile("etc/systemd/system/witness.service", unit), wanted)
}

// booted waits until the machine's systemd has started everything.
func (l *lab) booted(name string) {
	l.t.Helper()
	// Its socket is not there at once, and until then the waiting form says "offline" and ends.
	const wait = `until test -S /run/systemd/private; do sleep 0.1; done; systemctl is-system-running --wait; systemctl list-units --failed --no-legend`
	if out := l.must("exec", name, "--", "sh", "-c", wait); out != "running\n" {
		l.t.Fatalf("systemd of %s: %q", name, out)
	}
}

// TestTheImagesOwnInit: an image with systemd boots under real QEMU as a system of its own, below
// the agent, which keeps its duties.
func TestTheImagesOwnInit(t *testing.T) {
	l := newLab(t, "qemu", false)
	l.ownCache()
	images := serveImages(t)
	l.must("up", "-d", images.system, "--init", "image", "--name", "sys", "-m", "1G", "-p", "0:6379", "--timeout", "5m")
	l.booted("sys")
	if out := l.must("exec", "sys", "--", "sh", "-c", "cat /proc/1/comm; hostname; systemd-detect-virt -c; id -un; ls -d /proc/[0-9]* | wc -l >/tmp/n; systemctl is-active redis-server"); out != "systemd\nsys\ncontainer-other\nroot\nactive\n" {
		t.Errorf("in the machine: %q", out)
	}
	// A service of the image is reached from outside; files go where its programs see them.
	l.host("PONG", "redis-cli", "-p", l.port("sys"), "ping")
	l.must("exec", "sys", "--", "mkdir", "/run/lock/ours")
	if out := l.must("cp", "sys:/run/lock/ours", "-"); !strings.Contains(out, "ours") {
		t.Errorf("a folder below a mount of the init was copied as %q", out)
	}
	// It is stopped in order, and starts again as it was.
	l.must("down", "--time", "60s", "sys")
	if st := l.status("sys"); st.ExitCode == nil || *st.ExitCode != 0 {
		t.Errorf("after down: %+v", st)
	}
	l.must("up", "-d", "--name", "sys")
	l.booted("sys")
	if out := l.must("exec", "sys", "--", "cat", "/var/log/last-words"); out != "stopped in order\n" {
		t.Errorf("the service's last words: %q", out)
	}
	// Also when it has hardly begun, and has no handler for its stop signal yet.
	l.must("down", "--time", "60s", "sys")
	l.must("up", "-d", "--name", "sys")
	if r := l.run("down", "--time", "60s", "sys"); r.code != 0 || r.stderr != "" {
		t.Errorf("down right after up: %v", r)
	}
	if st := l.status("sys"); st.ExitCode == nil || *st.ExitCode != 0 {
		t.Errorf("after down right after up: %+v", st)
	}
	l.must("up", "-d", "--name", "sys")
	l.booted("sys")
	// What the init does with the machine, the machine does.
	l.run("exec", "sys", "--", "systemctl", "poweroff")
	if r := l.run("wait", "sys"); r.code != 0 {
		t.Errorf("after a power-off from inside: %v", r)
	}
	if r := l.run("up", "-d", "minimal", "--init", "image"); r.code != 125 || !strings.Contains(r.stderr, "has no init") {
		t.Errorf("an image without an init: %v", r)
	}
	l.must("rm", "--force", "sys")
	l.nothingLeft()
}
