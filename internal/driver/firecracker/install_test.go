package firecracker

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// archiveOf makes a release archive of scripts.
func archiveOf(t *testing.T, members map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	for name, text := range members {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// What is fetched is what was pinned, whole, and found afterwards; anything else leaves nothing.
func TestInstall(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("Firecracker runs on Linux only")
	}
	t.Setenv("PATH", t.TempDir()) // none is installed
	r := release{version: "1.15.1", arch: "x86_64"}
	good := map[string]string{
		r.member("firecracker"):                "#!/bin/sh\necho Firecracker v1.15.1\n",
		r.member("jailer"):                     "#!/bin/sh\necho Jailer v1.15.1\n",
		"release-v1.15.1-x86_64/../../outside": "x",
		"release-v1.15.1-x86_64/LICENSE":       "text",
	}
	whole := archiveOf(t, good)
	half := archiveOf(t, map[string]string{r.member("firecracker"): good[r.member("firecracker")]})
	other := bytes.Clone(whole)
	other[len(other)/2] ^= 1
	pinned := func(b []byte) release {
		sum := sha256.Sum256(b)
		return release{r.version, r.arch, int64(len(b)), hex.EncodeToString(sum[:])}
	}
	for name, tt := range map[string]struct {
		served []byte // nil: not found
		pinned release
		says   string // "": it succeeds
	}{
		"as published":    {whole, pinned(whole), ""},
		"another file":    {other, pinned(whole), "is not what was published"},
		"shorter":         {whole[:len(whole)-9], pinned(whole), "is not what was published"},
		"longer":          {append(bytes.Clone(whole), 0), pinned(whole), "is not what was published"},
		"no jailer in it": {half, pinned(half), "1 of the 2 programs"},
		"not there":       {nil, pinned(whole), "404"},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []string
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				asked = append(asked, q.URL.Path)
				if tt.served == nil {
					http.NotFound(w, q)
					return
				}
				_, _ = w.Write(tt.served)
			}))
			defer srv.Close()
			dir := filepath.Join(t.TempDir(), "vmm")
			d := New(Options{InstallDir: dir, URL: srv.URL + "/", kvm: os.DevNull, releases: map[string]release{runtime.GOARCH: tt.pinned}})
			if _, err := d.Probe(t.Context()); machine.CodeOf(err) != "backend.missing" {
				t.Fatalf("before: %v", err)
			}
			err := d.Install(t.Context())
			left, _ := os.ReadDir(dir)
			if tt.says != "" {
				if machine.CodeOf(err) != "backend.install" || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("error %v, want %q", err, tt.says)
				}
				if len(left) != 0 {
					t.Errorf("left behind: %v", left)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			caps, err := d.Probe(t.Context())
			if err != nil || caps.Version != "1.15.1" || filepath.Dir(caps.BinaryPath) != filepath.Join(dir, "firecracker-1.15.1") {
				t.Errorf("found %+v, %v", caps, err)
			}
			if files, _ := os.ReadDir(filepath.Join(dir, "firecracker-1.15.1")); len(files) != 2 || len(left) != 1 {
				t.Errorf("it holds %v, its folder %v", files, left)
			}
			if err := d.Install(t.Context()); err != nil || len(asked) != 1 || asked[0] != "/v1.15.1/firecracker-v1.15.1-x86_64.tgz" {
				t.Errorf("again: %v, asked for %v", err, asked)
			}
		})
	}
}

func TestWhatIsPinned(t *testing.T) {
	for goarch, r := range releases() {
		if raw, err := hex.DecodeString(r.sha256); err != nil || len(raw) != sha256.Size || r.size < 1<<20 {
			t.Errorf("%s: %+v", goarch, r)
		}
		if err := checkVersion(r.version, "it"); err != nil {
			t.Errorf("%s: what is fetched would be refused: %v", goarch, err)
		}
	}
}
