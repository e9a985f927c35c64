package krun

import (
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/krun/wire"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// maxMemory is what a machine on amd64 may have: with more, libkrun puts the initramfs above 4 GiB and
// tells the kernel the lower half of its address only (arch/src/x86_64/mod.rs, 1.17 to 1.19:
// ramdisk_image). Memory goes up to MMIO_MEM_START (layout.rs there) in one piece.
const maxMemory = 3328 << 20

// maxCmdline leaves room for what libkrun adds: a word of 40 bytes for each device.
const maxCmdline = vmm.MaxKernelCommandLine - 1024

// checkBoot refuses what libkrun would not take, or would get wrong.
func checkBoot(b machine.Boot, h host) error {
	if err := vmm.CheckBoot(b, h.lib.MaxCPUs, ", or --hypervisor qemu for more"); err != nil {
		return err
	}
	if h.arch == "amd64" && b.MemoryBytes > maxMemory {
		return machine.Usagef("input.range", "use --memory 3328M or less, or another --hypervisor",
			"memory of %s is more than libkrun can give a machine with an initramfs, which is %s", machine.FormatSize(b.MemoryBytes), machine.FormatSize(maxMemory))
	}
	return nil
}

// firstFile is the runner's descriptor of the first of a machine's files; before it come its
// description and its console.
const (
	consoleFD = wire.DescriptionFD + 1
	kernelFD  = consoleFD + 1
	initrdFD  = kernelFD + 1
	diskFD    = initrdFD + 1
)

// describe returns what the runner is told. It is pure. serials are what libkrun will show the guest
// as the serials of Boot.Disks, kernelArgs are further words for the kernel's command line.
func describe(b machine.Boot, h host, socket string, serials []string, kernelArgs ...string) (wire.Description, error) {
	if err := checkBoot(b, h); err != nil {
		return wire.Description{}, err
	}
	if err := vmm.CheckSocketPath(socket); err != nil {
		return wire.Description{}, err
	}
	line, err := vmm.KernelCommandLine(maxCmdline, kernelWords(h.arch), append(vmm.DriveWords(b, serials), kernelArgs...)...)
	if err != nil {
		return wire.Description{}, err
	}
	format := wire.FormatELF
	if h.arch == "arm64" {
		format = wire.FormatRaw
	}
	d := wire.Description{
		Library: h.lib.Path, CPUs: b.CPUs, MemoryMiB: b.MemoryBytes >> 20,
		Kernel:  wire.Kernel{File: kernelFD, Format: format, Initrd: initrdFD, CommandLine: line},
		Console: consoleFD,
		Channel: &wire.Channel{Port: driver.AgentPort, Socket: socket},
	}
	for i, disk := range b.Disks {
		d.Disks = append(d.Disks, wire.Disk{ID: string(disk.Role), File: diskFD + i, ReadOnly: disk.ReadOnly})
	}
	return d, nil
}

// kernelWords are what a guest kernel needs here.
func kernelWords(arch string) []string {
	words := []string{
		"console=ttyS0", // the same device on arm64
		"quiet",         // each console byte is an exit; errors and panics are printed all the same
		"panic=-1",      // reset at once, which ends libkrun
		"mvm.poweroff=reboot",
	}
	if arch == "amd64" {
		// As with Firecracker, from which libkrun descends: the keyboard controller's reset is how it is
		// told that the machine has ended, and nothing else of that controller exists.
		words = append(words, "reboot=k", "i8042.noaux", "i8042.nomux", "i8042.dumbkbd")
	}
	return words
}

// vcpuName is what the kernel calls the descriptor of a machine's first processor
// (virt/kvm/kvm_main.c, create_vcpu_fd).
const vcpuName = "anon_inode:kvm-vcpu:0"
