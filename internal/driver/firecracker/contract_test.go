package firecracker

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// everyBoot are machines with everything that a Boot can have.
func everyBoot() []machine.Boot {
	b := machine.Boot{
		Name: "web-1", ID: "0123456789abcdef", Generation: 1, CPUs: 1, MemoryBytes: machine.MinMemory,
		Kernel: machine.Kernel{ID: "k1", Release: "6.1.0", VMLinux: "/c/vmlinux"}, Initrd: "/c/initrd.cpio",
	}
	big := b
	big.CPUs, big.MemoryBytes = maxCPUs, machine.MaxMemory
	big.Disks = []machine.Disk{
		{Role: machine.RoleRoot, Path: "/i/root.ext4", ReadOnly: true},
		{Role: machine.RoleUpper, Path: "/m/upper.img"},
		{Role: machine.RoleConfig, Path: "/m/config.img", ReadOnly: true},
		{Role: machine.RoleSecrets, Path: "/r/secrets.img", ReadOnly: true},
		{Role: "vol-0", Path: "/v/data \"1\".img"},
	}
	return []machine.Boot{b, big}
}

// everyRequest are all requests that the driver can send: plan, the two actions and the two states are the only
// places that make any.
func everyRequest(t *testing.T) []request {
	t.Helper()
	out := []request{startRequest(), ctrlADRequest(), stateRequest(statePaused), stateRequest(stateResumed)}
	for _, b := range everyBoot() {
		for _, arch := range []string{"amd64", "arm64"} {
			for _, words := range [][]string{nil, {"mvm.probe", "x=\x21"}} {
				l := layout{kernel: "/kernel", initrd: "/initrd", log: "/fc.log", vsock: "/fc.vsock"}
				var serials []string
				for i, d := range b.Disks {
					l.disks = append(l.disks, d.Path)
					serials = append(serials, fmt.Sprint(i))
				}
				r, err := plan(b, l, arch, serials, words...)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, r...)
			}
		}
	}
	return out
}

func TestEveryRequestKeepsToEveryAPIDocument(t *testing.T) {
	for _, d := range documents(t) {
		for _, r := range everyRequest(t) {
			body, err := json.Marshal(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.check(r.Method, r.Path, body); err != nil {
				t.Errorf("%s: %s %s: %v\n%s", d.Info.Version, r.Method, r.Path, err, body)
			}
		}
	}
}

// The judge must be one: what a request of ours could get wrong is refused.
func TestDocumentsRefuseWhatIsWrong(t *testing.T) {
	tests := []struct{ name, method, path, body string }{
		{"no such path", "PUT", "/vsocks", `{}`},
		{"no such method", "POST", "/vsock", `{"guest_cid":3,"uds_path":"x"}`},
		{"no JSON", "PUT", "/vsock", `{`},
		{"no object", "PUT", "/vsock", `[]`},
		{"missing property", "PUT", "/vsock", `{"guest_cid":3}`},
		{"unknown property", "PUT", "/vsock", `{"guest_cid":3,"uds_path":"x","uds":"y"}`},
		{"below minimum", "PUT", "/vsock", `{"guest_cid":2,"uds_path":"x"}`},
		{"no integer", "PUT", "/vsock", `{"guest_cid":3.5,"uds_path":"x"}`},
		{"number as text", "PUT", "/vsock", `{"guest_cid":"3","uds_path":"x"}`},
		{"text as number", "PUT", "/vsock", `{"guest_cid":3,"uds_path":7}`},
		{"no CPU", "PUT", "/machine-config", `{"vcpu_count":0,"mem_size_mib":128}`},
		{"too many CPUs", "PUT", "/machine-config", `{"vcpu_count":33,"mem_size_mib":128}`},
		{"no boolean", "PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":128,"smt":"no"}`},
		{"no such action", "PUT", "/actions", `{"action_type":"Start"}`},
		{"no such cache", "PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"cache_type":"None"}`},
		{"two ids", "PUT", "/drives/a", `{"drive_id":"b","is_root_device":false}`},
		{"nested unknown", "PUT", "/entropy", `{"rate_limiter":{"speed":{}}}`},
	}
	for _, d := range documents(t) {
		for _, tt := range tests {
			if err := d.check(tt.method, tt.path, []byte(tt.body)); err == nil {
				t.Errorf("%s: %s is accepted", d.Info.Version, tt.name)
			}
		}
	}
}
