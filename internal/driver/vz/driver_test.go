package vz

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

func TestVersions(t *testing.T) {
	for text, want := range map[string]string{
		"vfkit version: v0.6.3\n":              "0.6.3",
		"vfkit version: 0.6.4":                 "0.6.4",
		"vfkit version: v0.6.3-12-gb2bc27e\n":  "0.6.3",
		"vfkit version: unknown":               "",
		"vfkit version: v99999.1.1":            "",
		"\x1b[31mvfkit version: v0.6.3":        "",
		"Error: unknown flag: --version\nUsag": "",
		"":                                     "",
	} {
		got, ok := parseVersion(text)
		if got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v", text, got, ok)
		}
	}
	for version, code := range map[string]string{"0.6.2": "backend.version", "0.5.1": "backend.version", "0.6.3": "", "0.6.10": "", "1.0.0": ""} {
		if err := checkVersion(version, "/x"); machine.CodeOf(err) != code {
			t.Errorf("%s: %v, want %q", version, err, code)
		}
	}
}

func TestProbeSaysWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	program := func(name, script string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
		return path
	}
	mac := system{macOS: "26.1", virtualise: true}
	good := program("vfkit", `case $1 in --version) echo vfkit version: v0.6.3;; *) echo 'Error: kernel must be uncompressed' >&2; exit 1;; esac`)
	unsigned := program("unsigned", `case $1 in --version) echo vfkit version: v0.6.3;; *) echo 'Error: Invalid virtual machine configuration. The process doesn’t have the “com.apple.security.virtualization” entitlement.' >&2; exit 1;; esac`)
	kernel := func(context.Context) (vmm.ProbeAssets, error) {
		image := make([]byte, 4096)
		copy(image[imageMagicAt:], imageMagic)
		copy(image[bzImageMagicAt:], bzImageMagic)
		path := filepath.Join(dir, "Image")
		err := os.WriteFile(path, image, 0o600)
		return vmm.ProbeAssets{Kernel: machine.Kernel{BzImage: path}, Initrd: path}, err
	}
	for _, tt := range []struct {
		name               string
		system             system
		o                  Options
		code, says, remedy string
	}{
		{"no Mac", system{}, Options{Binary: good}, "backend.missing", "macOS only", "doctor"},
		{"an old macOS", system{macOS: "12.7.6", virtualise: true}, Options{Binary: good}, "backend.version", "12.7.6", "update macOS"},
		{"a virtual Mac", system{macOS: "26.0"}, Options{Binary: good}, "backend.accel", "kern.hv_support", "nested"},
		{"no program", mac, Options{Binary: filepath.Join(dir, "none")}, "backend.missing", "not installed", "MVM_VFKIT"},
		{"program fails", mac, Options{Binary: program("fails", "echo no >&2; exit 3")}, "backend.broken", "no", "MVM_VFKIT"},
		{"another program", mac, Options{Binary: program("other", "echo QEMU 7")}, "backend.version", "QEMU 7", "brew upgrade vfkit"},
		{"old", mac, Options{Binary: program("old", "echo vfkit version: v0.6.1")}, "backend.version", "0.6.3 is needed", "brew upgrade vfkit"},
		{"nothing to try with", mac, Options{Binary: good, BootProbe: func(context.Context) (vmm.ProbeAssets, error) { return vmm.ProbeAssets{}, errors.New("no kernel") }}, "backend.accel", "no kernel", "kernel fetch"},
		{"unsigned", mac, Options{Binary: unsigned, BootProbe: kernel}, "backend.accel", "not signed", "brew reinstall vfkit"},
		{"probe does not boot", mac, Options{Binary: good, BootProbe: kernel}, "backend.accel", "uncompressed", "brew reinstall vfkit"},
	} {
		tt.o.system = func() system { return tt.system }
		_, err := New(tt.o).Probe(t.Context())
		e, ok := errors.AsType[*machine.Error](err)
		if !ok || e.Code != tt.code || !errors.Is(err, driver.ErrUnavailable) || !strings.Contains(e.Remedy, tt.remedy) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v; code %q, remedy %v; want %q, %q and %q", tt.name, err, machine.CodeOf(err), e, tt.code, tt.says, tt.remedy)
		}
	}
	c, err := New(Options{Binary: good, system: func() system { return system{macOS: "13.6", virtualise: true} }}).Probe(t.Context())
	if err != nil || len(c.Notes) != 1 || !strings.Contains(c.Notes[0], "macOS 14") {
		t.Errorf("on macOS 13: %+v, %v", c, err)
	}
}

// Nothing on arm64 unpacks a kernel, so a compressed one is refused and the error says what is
// wanted.
func TestKernelForms(t *testing.T) {
	file := func(at int, magic string) string {
		data := make([]byte, 4096)
		copy(data[at:], magic)
		path := filepath.Join(t.TempDir(), "kernel")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	image, bz, gz := file(imageMagicAt, imageMagic), file(bzImageMagicAt, bzImageMagic), file(0, "\x1f\x8b\x08")
	for _, tt := range []struct {
		path, arch string
		ok         bool
	}{{image, "arm64", true}, {bz, "amd64", true}, {gz, "arm64", false}, {gz, "amd64", false}, {bz, "arm64", false}, {image, "amd64", false}} {
		err := checkKernel(tt.path, tt.arch)
		if (err == nil) != tt.ok || err != nil && machine.CodeOf(err) != "boot.kernel_invalid" {
			t.Errorf("%s on %s: %v", tt.path, tt.arch, err)
		}
		if err != nil && tt.arch == "arm64" && !strings.Contains(err.Error(), "uncompressed") {
			t.Errorf("it does not say what is wanted: %v", err)
		}
	}
	k := machine.Kernel{BzImage: "b", VMLinux: "v"}
	if a, b := kernelOf(k, "arm64"), kernelOf(k, "amd64"); a != "v" || b != "b" {
		t.Errorf("forms %s and %s", a, b)
	}
}

func TestExplain(t *testing.T) {
	for words, code := range map[string]string{
		"The process doesn’t have the “com.apple.security.virtualization” entitlement.":         "backend.broken",
		"Error: kernel must be uncompressed, /k is a compressed file":                           "boot.kernel_invalid",
		"Error: failed to open file /d: open /d: permission denied":                             "disk.unusable",
		"Error: vfkit does not support qcow2 image format":                                      "disk.unusable",
		"Error Domain=VZErrorDomain Code=1 Description=\"Internal Virtualization error.\" done": "boot.vmm_died",
		"": "boot.vmm_died",
	} {
		if err := explain("ended with exit code 1", words); machine.CodeOf(err) != code {
			t.Errorf("%q: %v, want %s", words, err, code)
		}
	}
}

// serve answers requests to an API.
func serve(t *testing.T, h http.HandlerFunc) *api {
	t.Helper()
	dir, err := os.MkdirTemp("", "vz")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close() })
	return newAPI(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	})
}

func TestAPIAnswers(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		status     int
		says       string // of the error
	}{
		{"good", `{"devices":[{"kind":"virtiorng"},{"kind":"virtioserial","ptyName":"/dev/ttys003"}]}`, 200, ""},
		{"no terminal", `{"devices":[{"kind":"virtioserial"}]}`, 200, "no terminal"},
		{"no devices", `{}`, 200, "no terminal"},
		{"not JSON", `<html>`, 200, "broke its API"},
		{"another type", `{"devices":7}`, 200, "broke its API"},
		{"without end", `{"devices":[` + strings.Repeat(`{"kind":"virtiorng"},`, maxAnswer/16), 200, "broke its API"},
		{"refused", "{\"error\":\"no\\u001b[31m\"}", 500, `no\x1b[31m`},
		{"refused without words", ``, 404, "status 404"},
		{"sent elsewhere", ``, 302, "status 302"},
	} {
		a := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(tt.status)
			_, _ = w.Write([]byte(tt.body))
		})
		path, err := a.terminal(t.Context())
		if tt.says == "" && (err != nil || path != "/dev/ttys003") || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%s: %q, %v", tt.name, path, err)
		}
	}
}

func TestTerminalsAreTerminals(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, "/dev/null", "/dev/../" + file, "", "dev/pts/0", "/dev/none\x1b"} {
		if f, err := openTerminal(path); err == nil {
			_ = f.Close()
			t.Errorf("%q is taken for a terminal", path)
		}
	}
}

// vfkit only warns when it cannot make the socket of the guest's channel, and the machine runs on.
func TestDialWithoutSocket(t *testing.T) {
	child, err := vmm.Command{Name: "vfkit", Argv: []string{"/bin/sleep", "60"}}.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = child.Kill()
		<-child.Exited
	}()
	v := newVM(socketsIn(t.TempDir()), driver.Output{}, nil)
	v.child = child
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := v.Dial(ctx, driver.AgentPort); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("before vfkit has said anything: %v", err)
	}
	_, _ = v.words.Write([]byte(`level=warning msg="error exposing vsock port 52: address already in use"` + "\n"))
	if _, err := v.Dial(t.Context(), driver.AgentPort); machine.CodeOf(err) != "vmm.api" {
		t.Errorf("got %v, want vmm.api", err)
	}
	if _, err := v.Dial(t.Context(), driver.AgentPort+1); !errors.Is(err, driver.ErrNoSuchPort) {
		t.Errorf("another port: %v", err)
	}
}

// TestConsoleIsNoCommand: whoever may write to a guest's console can print what a panic looks like. It
// explains an end, and brings none about.
func TestConsoleIsNoCommand(t *testing.T) {
	t.Parallel()
	v := newVM(socketsIn(t.TempDir()), driver.Output{}, slog.New(slog.DiscardHandler))
	if err := v.start("/bin/sleep", []string{"60"}); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := v.readConsole(r); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("[ 1.0] Kernel panic - not syncing: said a user\n"); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	select {
	case <-v.child.Exited:
		t.Error("a text on the console ended the machine")
	case <-time.After(time.Second): // a kernel has less time to say more
	}
	_ = v.Kill()
	if err := v.Wait(); err != nil {
		t.Errorf("Wait after Kill: %v", err)
	}
}
