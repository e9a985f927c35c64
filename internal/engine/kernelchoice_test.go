package engine

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/kernel"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// picky is a driver that boots kernels of some releases.
type picky struct {
	probed
	boots map[string]bool
}

var _ driver.KernelChecker = picky{}

var errPicky = errors.New("it does not read its devices")

func (p picky) SuitsKernel(k machine.Kernel) error {
	if !p.boots[k.Release] {
		return errPicky
	}
	return nil
}

// elfKernel is a file that passes for an amd64 kernel with a PVH entry.
func elfKernel(release string) []byte {
	b, le := make([]byte, 8192), binary.LittleEndian
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 2)
	le.PutUint16(b[18:], 62)
	le.PutUint64(b[24:], 0x1000100)
	le.PutUint64(b[32:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 2)
	for i, segment := range [][6]uint64{{1, 2048, 0xffffffff81000000, 0x1000000, 6144, 8192}, {4, 4096, 0, 0, 20, 0}} {
		p := b[64+56*i:]
		le.PutUint32(p, uint32(segment[0]))
		for j, v := range segment[1:] {
			le.PutUint64(p[8+8*j:], v)
		}
	}
	le.PutUint32(b[4096:], 4)
	le.PutUint32(b[4100:], 4)
	le.PutUint32(b[4104:], 18)
	copy(b[4108:], "Xen\x00\x00\x01\x00\x01")
	copy(b[5000:], "Linux version "+release+" (builder@test) #1 SMP\x00")
	return b
}

// The default kernel of a backend that cannot boot the default one is another that it can.
func TestKernelOfAPickyBackend(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the kernels of this test are for amd64")
	}
	likes := func(releases ...string) picky {
		boots := map[string]bool{}
		for _, r := range releases {
			boots[r] = true
		}
		return picky{probed{name: "picky"}, boots}
	}
	t.Setenv("PATH", t.TempDir()) // nothing is fetched: there is no apt
	e := newTestEngine(t, probed{name: "plain"})
	e.KernelStore = kernel.New(e.Paths.Cache)
	for _, release := range []string{"6.1.0-first", "6.1.0-second"} {
		path := filepath.Join(t.TempDir(), "vmlinux")
		if err := os.WriteFile(path, elfKernel(release), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := e.KernelStore.Find(t.Context(), path); err != nil {
			t.Fatal(err)
		}
	}
	usual, err := e.findKernel(t.Context(), "", "plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		d     picky
		named string
		want  string
	}{
		{"any", likes(usual.Release, "6.1.0-first", "6.1.0-second"), "", usual.Release},
		{"the first", likes("6.1.0-first"), "", "6.1.0-first"},
		{"the second", likes("6.1.0-second"), "", "6.1.0-second"},
		{"none", likes(), "", ""},
		{"the one that was asked for is the driver's affair", likes("6.1.0-first"), "6.1.0-second", "6.1.0-second"},
	} {
		e.Drivers = []driver.Driver{probed{name: "plain"}, tt.d}
		k, err := e.findKernel(t.Context(), tt.named, "picky", nil)
		if tt.want == "" {
			if !errors.Is(err, errPicky) {
				t.Errorf("%s: %v, %v", tt.name, k.Release, err)
			}
			continue
		}
		if err != nil || k.Release != tt.want {
			t.Errorf("%s: %q, %v; want %q", tt.name, k.Release, err, tt.want)
		}
	}
}
