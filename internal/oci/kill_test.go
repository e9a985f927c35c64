package oci

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// killedFetch makes this test binary a process that fetches until it is killed.
const killedFetch = "MVM_TEST_FETCH"

// TestFetchingProcess is that process; by itself it does nothing.
func TestFetchingProcess(t *testing.T) {
	source, dir, ok := strings.Cut(os.Getenv(killedFetch), " ")
	if !ok {
		t.Skip("it is started by TestKilled")
	}
	b, err := OpenBlobs(dir)
	must(t, err)
	c := newClient(t)
	img, err := c.Resolve(t.Context(), parse(t, source), amd64)
	must(t, err)
	_, err = c.Fetch(t.Context(), img, b, func(done, _ int64) {
		_, _ = fmt.Fprintln(os.Stderr, "fetched", done)
	})
	must(t, err)
}

// TestKilled: after SIGKILL in the middle of a fetch, the next one goes on where it was, and no
// byte is fetched twice.
func TestKilled(t *testing.T) {
	t.Parallel()
	const part = 700_000
	content := makeImage(t, 2_000_000, 1_500_000)
	s := newSite(t, content)
	s.mu.Lock() // the race detector does not see what orders us and another process
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		for _, l := range content.layers {
			if strings.HasSuffix(r.URL.Path, l.Digest) {
				w.Header().Set("Content-Length", fmt.Sprint(l.Size))
				_, _ = w.Write(content.blobs[l.Digest][:part])
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
				return true
			}
		}
		return false
	}
	s.mu.Unlock()
	dir := t.TempDir()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFetchingProcess$")
	child.Env = append(os.Environ(), killedFetch+"="+s.host()+"/app:1 "+dir)
	out, err := child.StderrPipe()
	must(t, err, child.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != fmt.Sprint("fetched ", 2*part) {
	}
	must(t, child.Process.Kill())
	_ = child.Wait() // it was killed
	s.mu.Lock()
	s.before, s.sent = nil, 0
	s.mu.Unlock()

	b, err := OpenBlobs(dir)
	must(t, err)
	wantNothing(t, b, content)
	img, err := pull(t, newClient(t), s.source(t, ":1"), b)
	must(t, err)
	wantLayers(t, b, img, content)
	if want := img.Size - 2*part + int64(len(content.manifest)+len(content.config)); s.bytes() != want {
		t.Errorf("%d bytes were sent to go on, want %d", s.bytes(), want)
	}
}
