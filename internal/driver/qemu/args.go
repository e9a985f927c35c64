package qemu

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// fds are the descriptor numbers under which QEMU finds what the driver opened for it.
type fds struct {
	qmp, console   int
	kernel, initrd int   // 0: pass the paths instead
	disks          []int // one per Boot.Disks
	vsock          int   // an open /dev/vhost-vsock with cid set; 0: virtio-serial
	cid            uint32
}

// Names of objects inside QEMU that the driver speaks of over QMP.
const (
	agentChardev = "agent"
	agentDevice  = "agentport" // must be set: QEMU sends VSERPORT_CHANGE only for devices with an id
)

// agentPortName is the virtio-serial port name by which the guest finds the channel.
const agentPortName = "mvm.agent"

// commandLine returns QEMU's arguments. It is pure: same input, same output, on every OS.
// kernelArgs are further words for the kernel command line.
func commandLine(b machine.Boot, h host, f fds, kernelArgs ...string) ([]string, error) {
	if err := vmm.CheckBoot(b, maxCPUs, ""); err != nil {
		return nil, err
	}
	cmdline, err := kernelCommandLine(h, kernelArgs...)
	if err != nil {
		return nil, err
	}
	args := []string{
		"-name", b.Name,
		// Nothing that we did not ask for: no default devices, no configuration files of the host.
		"-no-user-config", "-nodefaults", "-display", "none", "-monitor", "none", "-parallel", "none",
		"-no-reboot", // a guest that reboots (or panics, with panic=-1) ends the machine
	}
	if h.bin.Sandbox {
		args = append(args, "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	}
	args = append(args, monitor(f)...)
	args = append(args,
		"-machine", machineType(h),
		"-accel", accelerator(h),
		"-cpu", cpuModel(h),
		"-smp", strconv.Itoa(b.CPUs),
		"-m", fmt.Sprintf("size=%dk", b.MemoryBytes>>10),
		"-rtc", "base=utc",
		// A serial port and not a virtio console: it works from the kernel's first line on and
		// with kernels that have virtio as a module. With "quiet" it costs nothing measurable.
		"-chardev", "socket,id=console,fd="+strconv.Itoa(f.console), "-serial", "chardev:console",
	)
	args = append(args, kernelFiles(b, f)...)
	args = append(args, "-append", cmdline)
	args = append(args, "-object", "rng-builtin,id=rng", "-device", device(h, "virtio-rng", "rng=rng"))
	args = append(args, channel(h, f)...)
	for i, d := range b.Disks {
		more, err := diskArgs(h, d, i, f.disks[i])
		if err != nil {
			return nil, err
		}
		args = append(args, more...)
	}
	return args, nil
}

// monitor is the driver's own QMP monitor.
func monitor(f fds) []string {
	return []string{"-chardev", "socket,id=qmp,fd=" + strconv.Itoa(f.qmp), "-mon", "chardev=qmp,mode=control"}
}

func machineType(h host) string {
	// mem-merge=off: KSM would let one guest time another's memory. dump-guest-core=off: a
	// crash of QEMU must not write the guest's memory to disk.
	const common = ",mem-merge=off,dump-guest-core=off"
	switch h.flavor {
	case flavorMicroVM:
		// pit and pic are dead weight to a Linux with an APIC; the RTC gives the guest its clock.
		return "microvm,rtc=on,pit=off,pic=off" + common
	case flavorVirt:
		return "virt" + common
	}
	return "q35,usb=off,vmport=off,smm=off" + common
}

func accelerator(h host) string {
	if h.accel == accelTCG {
		// Translated code is kept up to 1 GiB by default; a boot fills 40 MiB, and 32 are too few.
		return "tcg,tb-size=128"
	}
	return h.accel
}

func cpuModel(h host) string {
	if h.accel != accelTCG {
		return "host"
	}
	if h.arch != "amd64" {
		return "max"
	}
	// Everything that QEMU can emulate, so that programs built for x86-64-v3 run, but not AES:
	// the emulated instruction is slow and TLS prefers it where it exists; without it the
	// agent's channel takes ChaCha20 (QEMU 7.2: 18 MB/s against 10). la57 would add a level to
	// every page walk.
	return "max,aes=off,la57=off"
}

// device names a virtio device on the machine's bus.
func device(h host, name, props string) string {
	if h.flavor == flavorMicroVM {
		return name + "-device," + props
	}
	return name + "-pci," + props
}

func kernelFiles(b machine.Boot, f fds) []string {
	kernel, initrd := kernelImage(b.Kernel), b.Initrd
	if f.kernel != 0 {
		kernel, initrd = fdPath(f.kernel), fdPath(f.initrd)
	}
	return []string{"-kernel", kernel, "-initrd", initrd}
}

// kernelImage chooses the form to boot. The ELF form starts by its PVH entry: no firmware
// option ROM and no decompression inside the guest, which under TCG saves 0.2-0.4 s.
func kernelImage(k machine.Kernel) string {
	if k.VMLinux != "" {
		return k.VMLinux
	}
	return k.BzImage
}

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// channel is the way to the agent.
func channel(h host, f fds) []string {
	if f.vsock != 0 {
		return []string{"-device", device(h, "vhost-vsock", fmt.Sprintf("guest-cid=%d,vhostfd=%d", f.cid, f.vsock))}
	}
	return []string{
		"-device", device(h, "virtio-serial", "id=serial,max_ports=2"),
		// Nothing at first: each Dial hands over a socket of its own (QMP chardev-change), so
		// that the guest sees one connection end before the next begins.
		"-chardev", "null,id=" + agentChardev,
		"-device", "virtserialport,bus=serial.0,nr=1,id=" + agentDevice + ",chardev=" + agentChardev + ",name=" + agentPortName,
	}
}

// diskNode is QEMU's name for the nth disk.
func diskNode(n int) string { return "disk" + strconv.Itoa(n) }

// diskArgs attaches one disk by descriptor, always as raw: a guest that writes another
// format's header into its disk must not have it believed (libvirt commit a93402d4).
func diskArgs(h host, d machine.Disk, n, fd int) ([]string, error) {
	set, file, node := n+1, fmt.Sprintf("file%d", n), diskNode(n)
	protocol := map[string]any{
		"driver": "file", "node-name": file, "filename": fmt.Sprintf("/dev/fdset/%d", set),
		"read-only": d.ReadOnly, "auto-read-only": false,
		"locking": "on",      // two writers of one image would destroy it
		"aio":     "threads", // works everywhere; io_uring is often forbidden and was not faster here
		"discard": "unmap",   // what the guest deletes, the host gets back
		// The guest's flush is an fdatasync of the file; between flushes the host may cache.
		"cache": map[string]bool{"direct": false, "no-flush": false},
	}
	format := map[string]any{
		"driver": "raw", "node-name": node, "file": file,
		"read-only": d.ReadOnly, "discard": "unmap", "detect-zeroes": "off",
		"cache": map[string]bool{"direct": false, "no-flush": false},
	}
	protocolJSON, err := json.Marshal(protocol)
	if err != nil {
		return nil, fmt.Errorf("describing disk: %w", err)
	}
	formatJSON, err := json.Marshal(format)
	if err != nil {
		return nil, fmt.Errorf("describing disk: %w", err)
	}
	return []string{
		"-add-fd", fmt.Sprintf("fd=%d,set=%d", fd, set),
		"-blockdev", string(protocolJSON),
		"-blockdev", string(formatJSON),
		// QEMU's own choice is to pause the machine when the host's disk is full, which to whoever
		// uses it is a hang. An error the guest's programs can tell and its file system can take.
		"-device", device(h, "virtio-blk", "drive="+node+",serial="+d.Serial()+",werror=report,rerror=report"),
	}, nil
}
