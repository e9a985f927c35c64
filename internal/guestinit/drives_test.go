package guestinit

import (
	"fmt"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// sysfs is a /sys with virtio devices of the given types; a block device has a disk if its
// serial is not "-".
func sysfs(serials []string, others ...string) fstest.MapFS {
	m := fstest.MapFS{}
	put := func(name, text string) { m[name] = &fstest.MapFile{Data: []byte(text)} }
	n := 0
	device := func(kind string) string {
		dir := fmt.Sprintf("bus/virtio/devices/virtio%d", n)
		n++
		put(dir+"/device", kind+"\n")
		return dir
	}
	for i, s := range serials {
		dir := device(virtioBlock)
		if s == "-" {
			continue
		}
		name := fmt.Sprintf("vd%c", 'a'+i)
		put(dir+"/block/"+name+"/ro", "0\n")
		put("block/"+name+"/serial", s)
	}
	for _, kind := range others {
		device(kind)
	}
	return m
}

func TestFindDrives(t *testing.T) {
	for name, tt := range map[string]struct {
		sys     fstest.MapFS
		want    drives
		settled bool
	}{
		"nothing yet":      {fstest.MapFS{}, drives{}, true},
		"all, any order":   {sysfs([]string{"mvm-config", "mvm-root", "mvm-upper"}), drives{"mvm-config": "vda", "mvm-root": "vdb", "mvm-upper": "vdc"}, true},
		"one on its way":   {sysfs([]string{"mvm-config", "-"}), drives{"mvm-config": "vda"}, false},
		"foreign disks":    {sysfs([]string{"", "QM00001", "mvm-config"}), drives{"mvm-config": "vdc"}, true},
		"twice":            {sysfs([]string{"mvm-root", "mvm-root"}), drives{"mvm-root": "vda"}, true},
		"padded":           {sysfs([]string{"mvm-root\x00\x00\n"}), drives{"mvm-root": "vda"}, true},
		"serial by VMM":    {sysfs([]string{"651", "652", "mvm-root"}), drives{"mvm-upper": "vda", "mvm-root": "vdc"}, true},
		"no serial at all": {fstest.MapFS{"block/loop0/ro": {}}, drives{}, true},
	} {
		got, settled := findDrives(tt.sys, map[string]string{"651": "mvm-upper"})
		if d := cmp.Diff(tt.want, got); d != "" || settled != tt.settled {
			t.Errorf("%s: settled %v (-want +got):\n%s", name, settled, d)
		}
	}
}

func TestFindPort(t *testing.T) {
	sys := fstest.MapFS{
		"class/virtio-ports/vport0p0/dev":  {Data: []byte("242:0\n")}, // a console has no name
		"class/virtio-ports/vport2p1/name": {Data: []byte("mvm.agent\n")},
		"class/virtio-ports/vport2p2/name": {Data: []byte("mvm.agent.old\n")},
	}
	if got := findPort(sys, portName); got != "vport2p1" {
		t.Errorf("got %q", got)
	}
	if got := findPort(sys, "other"); got != "" {
		t.Errorf("found %q for a name that nobody has", got)
	}
	if got := findPort(fstest.MapFS{}, portName); got != "" {
		t.Errorf("found %q where there is nothing", got)
	}
}

// portName repeats PortName, which only Linux code has.
const portName = "mvm.agent"

func TestModulesAreLoadedForDevicesThatAreThere(t *testing.T) {
	sys := sysfs([]string{"mvm-root"}, "0x0001", "0x0004")
	for name, want := range map[string]struct{ now, late bool }{
		"ext4":                       {true, false}, // unknown to us: always
		"overlay":                    {true, false},
		"virtio_blk":                 {true, false},
		"virtio_net":                 {true, false},
		"failover":                   {true, false},
		"virtio_rng":                 {false, true},
		"button":                     {false, true},
		"virtio_balloon":             {false, false},
		"virtio_console":             {false, false},
		"vmw_vsock_virtio_transport": {false, false},
	} {
		n := needOf(name)
		if now, late := n.wanted(sys, false), n.wanted(sys, true); now != want.now || late != want.late {
			t.Errorf("%s: now %v, late %v; want %+v", name, now, late, want)
		}
	}
}

func TestModuleFiles(t *testing.T) {
	got := moduleFiles([]string{"010-b.ko", "002-a-c.ko", "README", "001-x.ko"})
	if d := cmp.Diff([]string{"001-x.ko", "002-a-c.ko", "010-b.ko"}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for file, want := range map[string]string{
		"004-virtio-rng.ko": "virtio_rng", "000-ext4.ko": "ext4", "crc32c_generic.ko": "crc32c_generic", "virtio-rng.ko": "virtio_rng",
	} {
		if got := moduleName(file); got != want {
			t.Errorf("%s: %q, want %q", file, got, want)
		}
	}
}

func TestParseCmdline(t *testing.T) {
	for line, want := range map[string]bootOptions{
		"":                               {},
		"console=ttyS0 quiet panic=-1\n": {},
		"quiet mvm.probe":                {probe: true},
		"mvm.slow mvm.poweroff=reboot mvm.later=1": {slow: true, reset: true},
		"mvm.poweroff=halt mvm.probe=1 xmvm.probe": {}, // none of our words
		"quiet -- mvm.probe":                       {},
		"mvm.drives=root:651,upper:652 mvm.slow":   {slow: true, drives: "root:651,upper:652"},
	} {
		if got := parseCmdline(line); got != want {
			t.Errorf("%q: %+v, want %+v", line, got, want)
		}
	}
}

func TestDriveNames(t *testing.T) {
	for list, want := range map[string]map[string]string{
		"":                     {},
		"root:651,upper:652":   {"651": "mvm-root", "652": "mvm-upper"},
		"root:,:5,upper,,x:y:": {"y:": "mvm-x"},
	} {
		if d := cmp.Diff(want, driveNames(list)); d != "" {
			t.Errorf("%q (-want +got):\n%s", list, d)
		}
	}
}
