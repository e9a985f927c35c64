package qemu

import (
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

func discardOutput() driver.Output { return driver.Output{} }

// Words as QEMU 7.2 really writes them.
func TestExplain(t *testing.T) {
	tests := []struct{ words, code string }{
		{"qemu-system-x86_64: cannot set up guest memory 'microvm.ram': Cannot allocate memory", "limit.memory"},
		{"qemu-system-x86_64: -blockdev {...}: Failed to get \"write\" lock\nIs another process using the image [/dev/fdset/1]?", "disk.busy"},
		{"qemu-system-x86_64: invalid kernel header", "boot.kernel_invalid"},
		{"qemu-system-x86_64: could not load kernel '/proc/self/fd/5'", "boot.kernel_invalid"},
		{"qemu-system-x86_64: something new", "boot.vmm_died"},
		{"", "boot.vmm_died"},
	}
	for _, tt := range tests {
		err := explain(goldenBoot(), "ended with exit code 1", tt.words)
		if got := machine.CodeOf(err); got != tt.code {
			t.Errorf("%q: code %q, want %q", tt.words, got, tt.code)
		}
	}
}

func TestVersions(t *testing.T) {
	tests := []struct{ text, version, code string }{
		{"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright", "7.2.22", ""},
		{"QEMU emulator version 10.0.0\n", "10.0.0", ""},
		{"QEMU emulator version 6.2.0 (x)", "6.2.0", ""},
		{"QEMU emulator version 6.1.9", "6.1.9", "backend.version"},
		{"QEMU emulator version 2.12", "2.12", "backend.version"},
		{"hello", "", ""},
	}
	for _, tt := range tests {
		v, err := parseVersion(tt.text)
		if v != tt.version || (err == nil) != (tt.version != "") {
			t.Errorf("%q: version %q, %v", tt.text, v, err)
		}
		if err != nil {
			continue
		}
		if got := machine.CodeOf(checkVersion(v, "q")); got != tt.code {
			t.Errorf("%s: code %q, want %q", v, got, tt.code)
		}
	}
}

func TestMeasureTSC(t *testing.T) {
	if cycles() == 0 || !constantTSC() {
		t.Skip("this processor has no counter of constant rate that we read")
	}
	a, b := measureTSC(tscWindow), measureTSC(2*tscWindow)
	if diff := a - b; a == 0 || diff > a/2000 || -diff > a/2000 {
		t.Errorf("two measurements differ by more than 0.05 %%: %d and %d kHz", a, b)
	}
	if measureTSC(time.Nanosecond) < 0 {
		t.Error("a negative frequency")
	}
}
