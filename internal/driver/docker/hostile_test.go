package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// shortSocket is a place for a socket, whose path is short.
func shortSocket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mvmd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// serve answers on a socket, as an engine would or as none should.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	socket := shortSocket(t)
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(func() { _ = s.Close() })
	return socket
}

func goodInfo() string {
	return fmt.Sprintf(`{"OSType":"linux","Architecture":%q,"ServerVersion":"20.10\u001b[31m","NCPU":4}`, runtime.GOARCH)
}

// TestProbeOfHostileEngines: what answers may be too old, something else, or up to no good.
func TestProbeOfHostileEngines(t *testing.T) {
	tests := []struct {
		name, version, info, code string
	}{
		{"good", "1.41", goodInfo(), ""},
		{"from the future", "1.99", goodInfo(), ""},
		{"too old", "1.40", goodInfo(), "backend.version"},
		{"no engine", "", goodInfo(), "backend.broken"},
		{"another major version", "2.1", goodInfo(), "backend.broken"},
		{"windows", "1.41", `{"OSType":"windows"}`, "backend.platform"},
		{"another processor", "1.41", `{"OSType":"linux","Architecture":"riscv64"}`, "backend.platform"},
		{"no JSON", "1.41", `<html>`, "backend.broken"},
		{"endless", "1.41", `{"x":"` + strings.Repeat("x", maxAnswer) + `"}`, "backend.broken"},
		{"escapes", "1.41", `{"OSType":"\u001b[2J` + strings.Repeat("A", 5000) + `"}`, "backend.platform"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			socket := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if tt.version != "" {
					w.Header().Set("Api-Version", tt.version)
				}
				if strings.HasSuffix(r.URL.Path, "/info") {
					_, _ = w.Write([]byte(tt.info))
				}
			})
			d := New(Options{Getenv: func(k string) string { return map[string]string{"DOCKER_HOST": "unix://" + socket}[k] }})
			caps, err := d.Probe(t.Context())
			if machine.CodeOf(err) != tt.code {
				t.Fatalf("%v, want %q", err, tt.code)
			}
			if err != nil && (!errors.Is(err, driver.ErrUnavailable) || len(err.Error()) > 1000 || strings.Contains(err.Error(), "\x1b")) {
				t.Errorf("an error that is long, unsafe to print or no reason to look further: %q", err.Error())
			}
			if strings.Contains(caps.Version, "\x1b") {
				t.Errorf("version %q", caps.Version)
			}
		})
	}
}

// TestSilentEngine: an engine that never answers costs the caller's time, and no more.
func TestSilentEngine(t *testing.T) {
	socket := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := connect(ctx, socket); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// TestStandstill: an engine that stops in the middle of an answer, or takes nothing any more, costs no
// more than the time in which something should have moved.
func TestStandstill(t *testing.T) {
	socket := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/changes") {
			_, _ = w.Write([]byte("["))
			_ = http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
	})
	c := &client{socket: socket, stall: 100 * time.Millisecond}
	if _, err := c.changes(t.Context(), "x"); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an answer that stops: %v", err)
	}
	//nolint:bodyclose // there is no answer
	if _, err := c.do(t.Context(), http.MethodPost, "/images/create", nil, neverending{}, "application/x-tar"); err == nil || !strings.Contains(err.Error(), "i/o timeout") {
		t.Errorf("a request that is not taken: %v", err)
	}
}

type neverending struct{}

func (neverending) Read(p []byte) (int, error) { return len(p), nil }

// TestDenied: a socket that is there and is somebody else's.
func TestDenied(t *testing.T) {
	err := (&client{socket: "/s"}).unreachable(t.Context(), &net.OpError{Op: "dial", Err: fs.ErrPermission})
	if machine.CodeOf(err) != "backend.denied" || !errors.Is(err, driver.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	known, ok := errors.AsType[*machine.Error](err)
	if !ok || !strings.Contains(known.Remedy, "usermod -aG docker") || !strings.Contains(known.Remedy, "rootless") {
		t.Errorf("%+v", known)
	}
}

// TestImportResult: a failed import says so in the middle of its answer.
func TestImportResult(t *testing.T) {
	for text, ok := range map[string]bool{
		"":                                      true,
		`{"status":"sha256:12"}` + "\r\n":       true,
		`{"status":"a"}{"error":"disk full"}`:   false,
		`{"status":`:                            false,
		strings.Repeat(`{"status":"a"}`, 1<<20): false,
	} {
		if err := importResult(strings.NewReader(text)); (err == nil) != ok {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

// TestHostileStream: an engine that refuses a stream, at length.
func TestHostileStream(t *testing.T) {
	socket := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusConflict)
		_, _ = w.Write([]byte(strings.Repeat("no ", 1<<20)))
	})
	_, err := (&client{socket: socket}).hijack(t.Context(), "/exec/1/start", nil, "{}")
	if !isStatus(err, http.StatusConflict) || len(err.Error()) > 2000 {
		t.Errorf("%.100v", err)
	}
}
