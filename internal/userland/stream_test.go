package userland

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// byteStream is a deterministic stream of n bytes.
type byteStream struct{ left int64 }

func (p *byteStream) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(b)), p.left)
	for i := range n {
		b[i] = byte(p.left - i)
	}
	p.left -= n
	return int(n), nil
}

const bigStream = 256 << 20

// Streams pass through in constant memory, whatever their size.
func TestBigStreamsStayFlatInMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("missing: time for 256 MiB per command, with -short")
	}
	for _, test := range []struct {
		argv []string
		size int64 // of the output, or -1
	}{
		{[]string{"cat"}, bigStream},
		{[]string{"sha256sum"}, -1},
		{[]string{"head", "-c", "200M"}, 200 << 20},
		{[]string{"dd", "bs=1M", "status=none"}, bigStream},
		{[]string{"dd", "bs=64k", "iflag=fullblock", "count=1000", "status=none"}, 1000 << 16},
		{[]string{"tee"}, bigStream},
		{[]string{"tail", "-c", "1000"}, 1000},
		{[]string{"tail", "-n", "3"}, -1},
		{[]string{"wc", "-c"}, -1},
		{[]string{"tr", "a", "b"}, bigStream},
		{[]string{"base64", "-w0"}, (bigStream + 2) / 3 * 4},
		{[]string{"sh", "-c", "cat | cat"}, bigStream},
	} {
		t.Run(strings.Join(test.argv, " "), func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			var out counter
			code := Run(t.Context(), test.argv, "/", []string{"PATH=/nonexistent"}, Stdio{In: &byteStream{left: bigStream}, Out: &out, Err: &out})
			runtime.ReadMemStats(&after)
			if code != 0 || (test.size >= 0 && int64(out) != test.size) {
				t.Errorf("status %d after %d bytes, want %d", code, out, test.size)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
				t.Errorf("allocated %d MiB in all", grown>>20)
			}
		})
	}
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

func TestBigStreamKeepsItsBytes(t *testing.T) {
	const size = 40<<20 + 17
	want := sha256.New()
	io.Copy(want, &byteStream{left: size})
	got := sha256.New()
	code := Run(t.Context(), []string{"sh", "-c", "cat | dd bs=4093 status=none | tee /dev/null | cat"}, "/", []string{"PATH=/nonexistent"}, Stdio{In: &byteStream{left: size}, Out: got})
	if code != 0 || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Errorf("status %d, %s", code, hex.EncodeToString(got.Sum(nil)))
	}
}

// closedAfter is an output whose reader goes away.
type closedAfter struct{ left int }

func (c *closedAfter) Write(p []byte) (int, error) {
	if c.left -= len(p); c.left < 0 {
		return 0, &os.PathError{Op: "write", Path: "|1", Err: syscall.EPIPE}
	}
	return len(p), nil
}

func TestClosedOutputEndsQuietly(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f"), strings.Repeat("line\n", 100000))
	for _, argv := range [][]string{
		{"cat", "f"},
		{"yes"},
		{"head", "-n", "90000", "f"},
		{"tail", "-n", "90000", "f"},
		{"grep", "line", "f"},
		{"sed", "p", "f"},
		{"sort", "f"},
		{"tr", "a", "b"},
		{"tee"},
		{"base64", "f"},
		{"od", "f"},
		{"seq", "1000000"},
		{"cut", "-c1-4", "f"},
		{"dd", "if=f", "status=none"},
		{"find", "/proc/self"},
		{"sh", "-c", "yes"},
		{"tar", "cf", "-", "f"},
		{"gzip", "-c1", "/dev/urandom"},
	} {
		t.Run(argv[0], func(t *testing.T) {
			var errOut bytes.Buffer
			code := Run(t.Context(), argv, dir, testEnv(dir), Stdio{In: strings.NewReader(strings.Repeat("x\n", 1<<20)), Out: &closedAfter{10}, Err: &errOut})
			if code != exitBrokenPipe || errOut.Len() > 0 {
				t.Errorf("status %d, said %q", code, errOut.String())
			}
		})
	}
}

// As a process, a command dies of SIGPIPE like any other program.
func TestProcessWithClosedOutputDiesOfSIGPIPE(t *testing.T) {
	for _, name := range []string{"yes", "cat"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		cmd := exec.Command(filepath.Join(multicall(t), name))
		cmd.Stdin = strings.NewReader("x\n")
		cmd.Stdout = w
		var errOut bytes.Buffer
		cmd.Stderr = &errOut
		err = cmd.Run()
		w.Close()
		ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
		if err == nil || !ok || !ws.Signaled() || ws.Signal() != syscall.SIGPIPE || errOut.Len() > 0 {
			t.Errorf("%s: %v, said %q", name, err, errOut.String())
		}
	}
}

func TestFullDeviceIsReported(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("missing: /dev/full")
	}
	defer full.Close()
	for _, argv := range [][]string{{"echo", "x"}, {"ls", "/"}, {"cat", "/proc/self/status"}, {"sha256sum", "/dev/null"}, {"grep", "", "/proc/self/status"}} {
		var errOut bytes.Buffer
		code := Run(t.Context(), argv, "/", nil, Stdio{Out: full, Err: &errOut})
		if want := argv[0] + ": write error: No space left on device\n"; code != 1 || errOut.String() != want {
			t.Errorf("%v: status %d, said %q", argv, code, errOut.String())
		}
	}
}

func TestOutputFilesReportAFullDevice(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("missing: /dev/full")
	}
	for _, argv := range [][]string{{"sort", "-o", "/dev/full"}, {"uniq", "-", "/dev/full"}, {"tee", "/dev/full"}, {"cp", "/proc/self/status", "/dev/full"}, {"dd", "of=/dev/full", "status=none"}} {
		got := run(t, "/", "x\n", argv...)
		if got.code == 0 || !strings.Contains(got.err, "No space left on device") {
			t.Errorf("%v: %+v", argv, got)
		}
	}
}

func TestCommandsInOneProcessDoNotDisturbEachOther(t *testing.T) {
	errs := make(chan error)
	for i := range 8 {
		go func() {
			dir := t.TempDir()
			word := fmt.Sprintf("w%d", i)
			var out bytes.Buffer
			script := "mkdir " + word + "; cd " + word + "; for i in 1 2 3 4 5; do echo " + word + " >>f; done; sort f | uniq -c | tr -s ' '; pwd"
			code := Run(context.Background(), []string{"sh", "-c", script}, dir, testEnv(dir), Stdio{Out: &out, Err: &out})
			if want := " 5 " + word + "\n" + dir + "/" + word + "\n"; code != 0 || out.String() != want {
				errs <- fmt.Errorf("status %d, %q", code, out.String())
				return
			}
			errs <- nil
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

var errDisk = errors.New("disk on fire")

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errDisk }

func TestReadErrorsAreReported(t *testing.T) {
	for _, argv := range [][]string{{"cat"}, {"sha256sum"}, {"wc"}, {"grep", "x"}, {"head"}, {"tail"}, {"tr", "a", "b"}, {"sort"}, {"sed", "p"}, {"uniq"}, {"cut", "-c1"}, {"tee"}, {"od"}, {"base64"}, {"dd", "status=none"}} {
		var errOut bytes.Buffer
		code := Run(t.Context(), argv, "/", nil, Stdio{In: failingReader{}, Err: &errOut})
		if code == 0 || !strings.Contains(errOut.String(), "disk on fire") {
			t.Errorf("%v: status %d, said %q", argv, code, errOut.String())
		}
	}
}
