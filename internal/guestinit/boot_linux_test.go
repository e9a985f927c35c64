package guestinit_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/guestinit"
)

// TestBoot boots real machines under emulation and looks at them from the inside.
func TestBoot(t *testing.T) {
	r := newRig(t)
	t.Run("probe", r.testProbe)
	t.Run("a whole machine", r.testWhole)
	t.Run("without an image", r.testNoImage)
	t.Run("unprovisioned", r.testUnprovisioned)
}

func (r *rig) testProbe(t *testing.T) {
	g := r.boot(t, "mvm.probe") // no drives at all
	g.wantPowerOff()
	if !strings.Contains(g.console.String(), guestinit.ProbeLine) {
		t.Errorf("the console does not say %s", guestinit.ProbeLine)
	}
}

func (r *rig) testWhole(t *testing.T) {
	id := newIdentity(t)
	id.config.Env = map[string]string{"COLOUR": "blue"}
	id.config.Users = []agentproto.User{{Name: "service", UID: 900, GID: 900, Home: "/srv/home"}, {Name: "other", UID: 901, GID: 901}}
	upper := upperDrive(t)
	drives := []drive{ // on purpose in another order than they are used
		makeDrive(t, "mvm-secrets", disk.File{Path: "token", Mode: 0o400, Data: []byte("hunter2")},
			disk.File{Path: "deep/.hidden", Mode: 0o600, Data: []byte("dot")}),
		upper, id.drive(t),
		{"mvm-root", r.root, true},
	}
	g := r.boot(t, "", drives...)
	c := g.connect(id)
	for name, tt := range map[string]struct {
		user, script, want string
	}{
		"host name":                      {"", "hostname; cat /etc/hostname; grep -c box /etc/hosts", "box\nbox\n1\n"},
		"user, group, home":              {"service", "id -u; id -g; pwd; echo $HOME", "900\n900\n/srv/home\n/srv/home\n"},
		"the machine's environment":      {"", "echo $COLOUR", "blue\n"},
		"loopback is up":                 {"", "cat /sys/class/net/lo/flags", "0x9\n"},
		"secrets for services":           {"service", "cat /run/mvm/secrets/token /run/mvm/secrets/deep/.hidden", "hunter2dot"},
		"secrets are for no one else":    {"other", "cat /run/mvm/secrets/token 2>/dev/null || echo no", "no\n"},
		"secrets cannot be written":      {"service", "(echo x > /run/mvm/secrets/token) 2>/dev/null || echo no", "no\n"},
		"the upper folder is hidden":     {"other", "ls /run/mvm/upper 2>/dev/null || echo no", "no\n"},
		"drives are not mounted":         {"", "grep -c -e config -e secrets-drive /proc/mounts", "0\n"},
		"drives are root's":              {"other", "head -c 1 /dev/vda 2>/dev/null || echo no", "no\n"},
		"the agent cannot be replaced":   {"", "(echo x > /run/mvm/mvm-agent) 2>/dev/null || echo no; rm /run/mvm/bin/ls 2>/dev/null || echo no", "no\nno\n"},
		"terminals and shared memory":    {"", "ls -d /dev/pts/ptmx /dev/shm /dev/fd", "/dev/fd\n/dev/pts/ptmx\n/dev/shm\n"},
		"limits":                         {"service", "ulimit -Hn", "1048576\n"},
		"the initramfs is out of sight":  {"", "ls -d /mvm /newroot 2>/dev/null || echo gone", "gone\n"},
		"modules for no device":          {"", "grep -c -e ^virtio_balloon -e ^virtio_net /proc/modules", "0\n"},
		"the random device has a module": {"", "i=0; while [ $i -lt 100 ] && ! grep -q ^virtio_rng /proc/modules; do sleep 0.1; i=$((i+1)); done; grep -c ^virtio_rng /proc/modules", "1\n"},
	} {
		if got, exit := g.run(c, tt.user, tt.script); got != tt.want {
			t.Errorf("%s: %q printed %q (exit %d), want %q", name, tt.script, got, exit.Code, tt.want)
		}
	}
	r.wantTimings(t, g, c)
	// Any root process can send these; the default of each would be the end of PID 1, a panic.
	if out, exit := g.run(c, "", "for s in HUP QUIT ILL TRAP ABRT BUS FPE SEGV PIPE ALRM STKFLT TSTP XCPU XFSZ VTALRM PROF IO SYS; do kill -$s 1; done; echo alive"); out != "alive\n" {
		t.Errorf("signals to PID 1: %q, %+v", out, exit)
	}
	if out, _ := g.run(c, "", "grep -e ^SigIgn -e ^SigBlk /proc/self/status"); out != "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n" {
		t.Errorf("a program starts with signals ignored or blocked:\n%s", out)
	}
	if out, exit := g.run(c, "", "(sleep 0.05 &) ; echo kept > /srv/data; sync"); exit.Code != 0 {
		t.Fatalf("writing: %s", out)
	}
	if out, _ := g.run(c, "", "sleep 0.2; grep -l '^State:.Z' /proc/[0-9]*/status"); out != "" {
		t.Errorf("zombies: %s", out)
	}
	if err := c.Shutdown(context.Background(), agentproto.ShutdownRequest{}); err != nil {
		t.Fatal(err)
	}
	g.wantPowerOff()

	// The same disks again: what was written is there, and the journal was closed.
	g = r.boot(t, "", drives...)
	c = g.connect(id)
	if out, _ := g.run(c, "", "cat /srv/data; dmesg 2>/dev/null | grep -i -c -e recovery -e 'ext4.*error'"); out != "kept\n0\n" {
		t.Errorf("after a second boot: %q", out)
	}
	g.run(c, "", "kill -USR2 1")
	g.wantPowerOff()
}

func (r *rig) wantTimings(t *testing.T, g *guest, c interface {
	Status(context.Context) (agentproto.Status, error)
},
) {
	t.Helper()
	st, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var phases []string
	last := agentproto.Duration(0)
	for _, tm := range st.Timings {
		phases = append(phases, tm.Phase)
		if tm.At < last {
			t.Errorf("phase %s at %v comes before its predecessor", tm.Phase, tm.At)
		}
		last = tm.At
	}
	if got, want := strings.Join(phases, " "), "init modules drives config root switched channel ready"; got != want {
		t.Errorf("phases %q, want %q", got, want)
	}
	for line := range strings.Lines(g.console.String()) {
		if strings.Contains(line, "up:") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

func (r *rig) testNoImage(t *testing.T) {
	id := newIdentity(t)
	g := r.boot(t, "", id.drive(t))
	c := g.connect(id)
	if out, _ := g.run(c, "", "touch /x && ls -d /x /proc/self /bin/sh; id -un; grep -c overlay /proc/mounts"); out != "/bin/sh\n/proc/self\n/x\nroot\n0\n" {
		t.Errorf("got %q", out)
	}
	g.run(c, "", "kill -PWR 1")
	g.wantPowerOff()
}

// An agent that does not know its host's key must not listen (threat A058).
func (r *rig) testUnprovisioned(t *testing.T) {
	empty := makeDrive(t, "mvm-config", disk.File{Path: "readme", Mode: 0o400, Data: []byte("x")})
	wrongID := newIdentity(t)
	wrongID.config.MachineID = "short"
	noFS := empty
	noFS.path = r.kernel // anything that is no ext4
	// What config.json may say is agentproto's to test; here it is that any refusal ends the boot.
	for name, drives := range map[string][]drive{
		"no drives at all":  nil,
		"no config drive":   {{"mvm-root", r.root, true}},
		"no file":           {empty},
		"no file system":    {noFS},
		"wrong machine id":  {wrongID.drive(t)},
		"more than allowed": {configDrive(t, bytes.Repeat([]byte(" "), agentproto.MaxConfig+1))},
	} {
		t.Run(name, func(t *testing.T) {
			g := r.boot(t, "", drives...)
			g.wantPowerOff()
			if out := g.console.String(); !strings.Contains(out, agentproto.CodeUnprovisioned+": ") {
				t.Errorf("the console does not say %s", agentproto.CodeUnprovisioned)
			}
		})
	}
}
