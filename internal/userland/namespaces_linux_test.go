package userland

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// inNamespaces runs a script as root of new mount, network, UTS and process
// namespaces, where it may change what it likes.
func inNamespaces(t *testing.T, script string) result {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for new namespaces")
	}
	cmd := shellProcess(t, "-c", script)
	cmd.Env = append(cmd.Env, "IP="+hostTool("ip"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWPID}
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Start(); err != nil {
		t.Skipf("missing: leave to make namespaces: %v", err)
	}
	if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() < 0 {
		t.Fatal(err)
	}
	return result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

func hostTool(name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return path
}

// The network is set up with our ip and shown by both: the text is the same.
func TestIPShowsWhatIproute2Shows(t *testing.T) {
	if hostTool("ip") == "" {
		t.Skip("missing: iproute2")
	}
	setup := `set -e
ip link set lo up
ip link add d0 type bridge
ip link set d0 address 02:00:00:00:00:01 mtu 1400
ip link set d0 up
ip addr add 192.0.2.2/24 brd + dev d0
ip addr add 198.51.100.7/32 dev d0 label d0:1
ip addr add fd00::2/64 dev d0 nodad
ip link add d1 type ifb
ip route add default via 192.0.2.1
ip route add 203.0.113.0/24 dev d0 metric 5
ip route add 10.0.0.0/8 via 192.0.2.9 dev d0 src 192.0.2.2 mtu 1300
ip route add blackhole 172.16.0.0/12
ip -6 route add default via fd00::1 dev d0
echo set up
`
	for _, query := range []string{"addr", "address show dev d0", "-4 addr", "-6 addr show d0", "-br addr", "-o addr", "-o -4 addr show dev d0", "link", "link show d1", "-br link", "-o link", "addr show up", "link ls up", "route", "r", "route show dev d0", "-6 route", "route get 192.0.2.55 >/dev/null; true", "neigh"} {
		t.Run(query, func(t *testing.T) {
			ours := inNamespaces(t, setup+"ip "+query)
			theirs := inNamespaces(t, setup+"$IP "+query)
			normal := func(s string) string {
				// Random or version-dependent words.
				s = regexp.MustCompile(`brd ff:ff:ff:ff:ff:ff|link/ether [0-9a-f:]+|fe80::[0-9a-f:]+|([0-9a-f]{2}:){5}[0-9a-f]{2}`).ReplaceAllString(s, "X")
				s = strings.ReplaceAll(s, "proto kernel_ll ", "")
				s = strings.ReplaceAll(s, "tentative ", "")
				// The carrier of a new bridge settles some time after.
				s = strings.NewReplacer("NO-CARRIER,", "", "linkdown ", "", "state DOWN", "state X", "state UNKNOWN", "state X", "UNKNOWN ", "X ", "DOWN    ", "X       ").Replace(s)
				s = strings.ReplaceAll(s, "mtu 1300 ", "")
				return s
			}
			if !strings.HasPrefix(ours.out, "set up\n") {
				t.Fatalf("setting up: %+v", ours)
			}
			if diff := cmp.Diff(normal(theirs.out), normal(ours.out)); diff != "" || ours.code != theirs.code {
				t.Errorf("status %d, real %d (-iproute2 +ours):\n%s\nours: %s\ntheirs: %s", ours.code, theirs.code, diff, ours.err, theirs.err)
			}
		})
	}
}

func TestIPChangesAndErrors(t *testing.T) {
	for _, test := range []struct{ script, out, err string }{
		{"ip addr add 192.0.2.2/24 dev lo; ip addr del 192.0.2.2/24 dev lo; ip -br addr show lo", "lo               DOWN           \n", ""},
		{"ip link set lo up; ip addr flush dev lo; ip -br -4 addr", "", ""},
		{"ip addr add 192.0.2.2/24 dev lo; ip addr add 192.0.2.2/24 dev lo; echo $?", "2\n", "RTNETLINK answers: File exists\n"},
		{"ip link set nosuch up; echo $?", "1\n", "ip: Cannot find device \"nosuch\"\n"},
		{"ip addr show dev nosuch; echo $?", "1\n", "ip: Device \"nosuch\" does not exist.\n"},
		{"ip route add default via 192.0.2.1; echo $?", "2\n", "RTNETLINK answers: Network is unreachable\n"},
		{"ip link set lo up; ip route add 203.0.113.0/24 dev lo; ip route del 203.0.113.0/24; ip route", "", ""},
		{"ip link add x type ifb; ip link set x name y; ip link del y; ip link show y; echo $?", "1\n", "ip: Device \"y\" does not exist.\n"},
		{"ip nonsense", "", "ip: Object \"nonsense\" is unknown, try \"ip --help\".\n"},
	} {
		t.Run(test.script, func(t *testing.T) {
			got := inNamespaces(t, test.script)
			if got.out != test.out || got.err != test.err {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestPingOverLoopback(t *testing.T) {
	for _, to := range []string{"127.0.0.1", "::1", "localhost"} {
		got := inNamespaces(t, "ip link set lo up; ping -c 2 -i 0.01 "+to)
		if got.code != 0 || !strings.Contains(got.out, "2 packets transmitted, 2 packets received, 0% packet loss") || !strings.Contains(got.out, "64 bytes from ") {
			t.Errorf("%s: %+v", to, got)
		}
	}
	if got := inNamespaces(t, "ip link set lo up; ip addr add 192.0.2.2/24 dev lo; ip link add d0 type ifb; ip addr add 198.51.100.1/24 dev d0; ip link set d0 up; ping -c 1 -W 0.05 198.51.100.77"); got.code != 1 || !strings.Contains(got.out, "1 packets transmitted, 0 packets received, 100% packet loss") {
		t.Errorf("no answer: %+v", got)
	}
	if got := inNamespaces(t, "ip link set lo up; timeout -s INT 0.2 ping -i 0.01 127.0.0.1 | grep -c 'round-trip min/avg/max'"); got.out != "1\n" {
		t.Errorf("interrupted: %+v", got)
	}
	if got := inNamespaces(t, "ping -c 1 no.such.host.invalid"); got.code != 2 || got.err != "ping: no.such.host.invalid: Name or service not known\n" {
		t.Errorf("unknown host: %+v", got)
	}
}

func TestMountAndUmount(t *testing.T) {
	got := inNamespaces(t, `set -e
mount --make-rprivate /
mkdir m b
mount -t tmpfs -o size=1m,nosuid none m
echo x >m/f
mount | grep " $PWD/m " | cut -d' ' -f5
mount --bind -o ro m b
cat b/f
touch b/g 2>/dev/null || echo read-only
df m | tail -n 1 | tr -s ' ' | cut -d' ' -f2
df -h m | head -n 1
mount -o remount,size=2m m
df -P m | tail -n 1 | tr -s ' ' | cut -d' ' -f2
umount b
umount m
ls m
umount m || echo not mounted
mount -t nosuchfs none m || echo no type
`)
	want := "tmpfs\nx\nread-only\n1024\nFilesystem      Size  Used Avail Use% Mounted on\n2048\nnot mounted\nno type\n"
	if got.code != 0 {
		t.Errorf("%+v", got)
	}
	normal := regexp.MustCompile(` +`)
	if diff := cmp.Diff(normal.ReplaceAllString(want, " "), normal.ReplaceAllString(got.out, " ")); diff != "" {
		t.Error(diff, got.err)
	}
}

func TestProcessesInANamespace(t *testing.T) {
	got := inNamespaces(t, `mount --make-rprivate / && mount -t proc proc /proc || exit 9
sleep 50 & s=$!
ps -o comm | grep -c '^sleep$'
pgrep -f 'sleep 50'
echo $s
pkill -f 'sleep 50'; wait $s; echo $?
hostname inner; hostname; uname -n
ps | head -n 1
ps -p 1 -o pid=
`)
	lines := strings.Split(got.out, "\n")
	if len(lines) < 9 || lines[0] != "1" || lines[1] != lines[2] || lines[3] != "143" || lines[4] != "inner" || lines[5] != "inner" || !strings.HasPrefix(lines[6], "  PID USER") || strings.TrimSpace(lines[7]) != "1" {
		t.Errorf("%+v", got)
	}
}

func TestChrootRunsOurCommandsInside(t *testing.T) {
	got := inNamespaces(t, "mkdir -p r/d; echo x >r/f; chroot r ls /; chroot r cat /f; chroot r nosuch; echo $?; chroot nosuch; echo $?")
	want := result{"d\nf\nx\n127\n125\n", "chroot: nosuch: not found\nchroot: cannot change root directory to 'nosuch': No such file or directory\n", 0}
	if got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// What the commands would send is checked without sending it.
func TestShutdownSignalsAreBusyboxs(t *testing.T) {
	for name, want := range map[string]syscall.Signal{"poweroff": syscall.SIGUSR2, "reboot": syscall.SIGTERM, "halt": syscall.SIGUSR1} {
		if got, _ := shutdownPlan(name); got != want {
			t.Errorf("%s sends %v, want %v", name, got, want)
		}
	}
}

func TestDeviceAndMemoryTools(t *testing.T) {
	for script, want := range map[string]string{
		"mknod n c 1 3 && stat -c '%F %t,%T' n; rm n":                       "character special file 1,3\n",
		"mknod -m 600 p p; stat -c '%F %a' p":                               "fifo 600\n",
		"free | head -n 1 | tr -s ' '":                                      " total used free shared buff/cache available\n",
		"free -m | wc -l":                                                   "3\n",
		"uptime | grep -c 'load average: '":                                 "1\n",
		"nproc | grep -c '^[1-9]'":                                          "1\n",
		"stat -f -c %T /proc":                                               "proc\n",
		"du -b /dev/null | cut -f1":                                         "0\n",
		"ls -l /dev/null | cut -c1-10":                                      "crw-rw-rw-\n",
		"ps -o pid=,ppid= -p $$ | wc -w":                                    "2\n",
		"dd if=/dev/zero of=z bs=1M count=3 status=none; du -k z | cut -f1": "3072\n",
	} {
		t.Run(script, func(t *testing.T) {
			if got := inNamespaces(t, script); got.out != want {
				t.Errorf("%+v, want %q", got, want)
			}
		})
	}
}

func TestParseProcStat(t *testing.T) {
	p, err := parseProcStat("42 (a) b (c)) S 1 42 42 34816 42 0 0 0 0 0 150 50 0 0 20 0 3 0 1000 10485760 100 0 0 0")
	if err != nil || p.pid != 42 || p.comm != "a) b (c)" || p.state != "S" || p.ppid != 1 || p.threads != 3 || p.cpu.Seconds() != 2 || p.started.Seconds() != 10 || p.vsz != 10240 {
		t.Errorf("%+v, %v", p, err)
	}
	for _, bad := range []string{"", "1", "1 (x", "1 (x) S", ") ("} {
		if _, err := parseProcStat(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func FuzzParseProcStat(f *testing.F) {
	f.Add("42 (a) S 1 42 42 34816 42 0 0 0 0 0 150 50 0 0 20 0 3 0 1000 10485760 100")
	f.Fuzz(func(_ *testing.T, s string) { parseProcStat(s) })
}

func FuzzNetlinkObject(f *testing.F) {
	f.Add([]byte{8, 0, 1, 0, 1, 2, 3, 4})
	f.Fuzz(func(_ *testing.T, data []byte) {
		o, err := parseObject(syscall.NetlinkMessage{Data: data}, 4)
		if err != nil && !errors.Is(err, errNetlink) {
			panic("unexpected error " + strconv.Quote(err.Error()))
		}
		o.u32(1)
		o.text(2)
	})
}
