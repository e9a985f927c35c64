package vmm

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// CheckBoot refuses what no VMM could run and what would mean something else to an option
// parser. more is what to do for more than maxCPUs; it may be "".
func CheckBoot(b machine.Boot, maxCPUs int, more string) error {
	if err := machine.CheckName(b.Name); err != nil {
		return err
	}
	switch {
	case b.CPUs < 1 || b.CPUs > maxCPUs:
		return machine.Usagef("input.range", fmt.Sprintf("use --cpus 1 to --cpus %d%s", maxCPUs, more), "%d CPUs are not within 1..%d", b.CPUs, maxCPUs)
	case b.MemoryBytes < machine.MinMemory || b.MemoryBytes > machine.MaxMemory:
		return machine.Usagef("input.range", "use --memory 96M or more", "memory of %s is not within %s..%s",
			machine.FormatSize(b.MemoryBytes), machine.FormatSize(machine.MinMemory), machine.FormatSize(machine.MaxMemory))
	case b.Kernel.VMLinux == "" && b.Kernel.BzImage == "":
		return machine.Errorf("boot.kernel_missing", "run `mvmctl kernel fetch`", "the machine has no kernel")
	case b.Initrd == "":
		return machine.Errorf("boot.initrd_missing", "this is a bug in mvmctl; please report it", "the machine has no initramfs")
	}
	seen := map[machine.Role]bool{}
	for _, d := range b.Disks {
		if d.Role == "" || len(d.Serial()) > MaxSerial || strings.Trim(string(d.Role), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return machine.Errorf("boot.disk_role", "this is a bug in mvmctl; please report it", "%q is not a disk role", d.Role)
		}
		if seen[d.Role] {
			return machine.Errorf("boot.disk_twice", "this is a bug in mvmctl; please report it", "two disks are called %q", d.Role)
		}
		seen[d.Role] = true
	}
	return nil
}

// MaxSerial is VIRTIO_BLK_ID_BYTES of linux/virtio_blk.h.
const MaxSerial = 20

// MaxKernelCommandLine is COMMAND_LINE_SIZE of the x86 and arm64 kernels, which cut longer ones
// silently.
const MaxKernelCommandLine = 2048

// KernelCommandLine joins a driver's own words and further ones, which it checks, to less than
// limit bytes: the kernel counts its closing NUL.
func KernelCommandLine(limit int, words []string, more ...string) (string, error) {
	for _, w := range more {
		if !validWord(w) {
			return "", machine.Usagef("input.cmdline", "remove spaces, quotes and control characters", "%q is not a kernel parameter", Clip(w, 80))
		}
	}
	line := strings.Join(slices.Concat(words, more), " ")
	if len(line) >= limit {
		return "", machine.Usagef("input.cmdline", "use fewer or shorter parameters", "a kernel command line of %d bytes is longer than %d", len(line), limit-1)
	}
	return line, nil
}

// validWord accepts name or name=value in printable ASCII without quotes or spaces. Words that
// choose another init would take the guest away from its agent.
func validWord(w string) bool {
	if w == "" || w[0] == '-' {
		return false
	}
	for i := range len(w) {
		if c := w[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '\'' || c == '\\' {
			return false
		}
	}
	name, _, _ := strings.Cut(w, "=")
	return name != "init" && name != "rdinit"
}

// PanicError is the error of a guest whose kernel panicked; text is its word on that, "" if none
// was heard.
func PanicError(text string) error {
	if text == "" {
		text = "the kernel said nothing more"
	}
	remedy := "look at the console log"
	if strings.Contains(strings.ToLower(text), "memory") {
		remedy = "give it more --memory, or look at the console log"
	}
	return machine.Errorf("guest.panic", remedy, "the guest's kernel panicked: %s", text)
}

// DiedError is the error of a VMM that ended under a running machine.
func (c *Child) DiedError(words string) *machine.Error {
	e := machine.Errorf("boot.vmm_died", "look at the VMM's words below, or at its log", "%s %s", c.cmd.Name, c.End())
	if e.Detail = words; words != "" {
		e.Message += ": " + LastLine(words)
	}
	return e
}
