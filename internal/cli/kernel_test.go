package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/mvmctl/mvmctl/internal/engine"
)

func TestKernelBuild(t *testing.T) {
	eng := &scripted{kernelBuilt: engine.KernelBuilt{KernelInfo: engine.KernelInfo{ID: "0123456789abcdef", Release: "6.1.9-mvm", Size: 30 << 20}, Made: true}}
	a := call{eng: eng}.run(t, "kernel", "build", "--arch", "arm64", "--config", "/x/my.config", "--source", "/x/linux.tar", "-j", "3")
	if a.code != 0 || a.out != "0123456789abcdef\n" || a.err != "mvmctl: built kernel 6.1.9-mvm (30 MiB)\n" {
		t.Errorf("exit code %d, %q, %q", a.code, a.out, a.err)
	}
	if len(eng.built) != 1 || eng.built[0].Arch != "arm64" || eng.built[0].Config != "/x/my.config" || eng.built[0].Source != "/x/linux.tar" || eng.built[0].Jobs != 3 {
		t.Errorf("asked for %+v", eng.built)
	}
	eng.kernelBuilt.Made = false
	if a := (call{eng: eng}).run(t, "kernel", "build"); a.code != 0 || !strings.Contains(a.err, "nothing to do") {
		t.Errorf("exit code %d, %q", a.code, a.err)
	}
	if a := (call{eng: eng}).run(t, "kernel", "build", "--json"); a.code != 0 || !json.Valid([]byte(a.out)) || !strings.Contains(a.out, `"built": false`) {
		t.Errorf("exit code %d, %q", a.code, a.out)
	}
	for _, jobs := range []string{"0", "-1", "100000", "many"} {
		if a := (call{eng: eng}).run(t, "kernel", "build", "--jobs", jobs); a.code != 2 {
			t.Errorf("--jobs %s: exit code %d, %q", jobs, a.code, a.err)
		}
	}
}
