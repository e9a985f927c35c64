package guestinit_test

import (
	"strings"
	"testing"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/disk"
)

// TestVolumes: a volume begins with what the image has at its place, keeps what is written to
// it for the next machine, and one file of a drive can be shown alone.
func TestVolumes(t *testing.T) {
	r := newRig(t)
	data := upperDrive(t)
	data.serial = "mvm-volume0"
	id := newIdentity(t)
	id.config.Mounts = []agentproto.Mount{
		{Serial: "mvm-volume0", Path: "/etc", Keep: true},
		{Serial: "mvm-volume1", Path: "/etc/app/settings", Entry: "settings", ReadOnly: true},
		{Serial: "mvm-volume2", Path: "/opt/new/folder", ReadOnly: true},
		{Serial: "mvm-volume3", Path: "/run/keys", ReadOnly: true, Memory: true},
	}
	drives := func() []drive {
		one := makeDrive(t, "one", disk.File{Path: "settings", Mode: 0o644, Data: []byte("color=blue\n")})
		two := makeDrive(t, "two", disk.File{Path: "a/b", Mode: 0o644, Data: []byte("deep\n")})
		key := makeDrive(t, "key", disk.File{Path: "key", Mode: 0o440, Data: []byte("sesame\n")})
		one.serial, two.serial, key.serial = "mvm-volume1", "mvm-volume2", "mvm-volume3"
		return []drive{two, key, {"mvm-root", r.root, true}, data, one, upperDrive(t), id.drive(t)}
	}
	const script = `
stat -c '%u %g %a %n' /etc /etc/shadow
grep -c root /etc/passwd
cat /etc/app/settings /opt/new/folder/a/b /run/keys/key
grep -c ' /run/keys tmpfs ro' /proc/mounts
echo x 2>/dev/null >/etc/app/settings || echo read-only
echo x 2>/dev/null >/opt/new/folder/x || echo read-only
cat /etc/kept 2>/dev/null || echo first
echo kept >/etc/kept`
	for i, first := range []string{"first\n", "kept\n"} {
		g := r.boot(t, "", drives()...)
		c := g.connect(id)
		got, _ := g.run(c, "", script)
		want := "0 0 755 /etc\n0 0 600 /etc/shadow\n1\ncolor=blue\ndeep\nsesame\n1\nread-only\nread-only\n" + first
		if got != want {
			t.Errorf("boot %d:\n%s\nwant:\n%s", i+1, got, want)
		}
		if err := c.Shutdown(t.Context(), agentproto.ShutdownRequest{}); err != nil {
			t.Log(err)
		}
		g.wantPowerOff()
	}
}

// A machine whose volume is missing does not start: its program would begin without its data.
func TestVolumeMissing(t *testing.T) {
	r := newRig(t)
	id := newIdentity(t)
	id.config.Mounts = []agentproto.Mount{{Serial: "mvm-volume0", Path: "/data", Keep: true}}
	g := r.boot(t, "", drive{"mvm-root", r.root, true}, upperDrive(t), id.drive(t))
	g.wantPowerOff()
	if said := g.console.String(); !strings.Contains(said, "volume for /data: there is no drive mvm-volume0") {
		t.Errorf("console: %s", said)
	}
}
