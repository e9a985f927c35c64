package agentbin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/gzip"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// program is an ELF header that names a processor, with one program header of the given type.
func program(t *testing.T, mach uint16, segment uint32) []byte {
	t.Helper()
	b := make([]byte, 64+56)
	copy(b, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(b[16:], 2)
	le.PutUint16(b[18:], mach)
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[32:], 64)
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 1)
	le.PutUint16(b[58:], 64)
	le.PutUint32(b[64:], segment)
	return b
}

// embedding returns what scripts/build.sh leaves in bin/amd64.
func embedding(t *testing.T, agent []byte) fstest.MapFS {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(agent); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return fstest.MapFS{
		"bin/amd64/README":           {Data: []byte("text")},
		"bin/amd64/mvm-agent.gz":     {Data: b.Bytes()},
		"bin/amd64/mvm-agent.sha256": {Data: fmt.Appendf(nil, "%x\n", sha256.Sum256(agent))},
	}
}

var notEmbedded = fstest.MapFS{"bin/amd64/README": {Data: []byte("text")}}

func wantFile(t *testing.T, path, digest string, content []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, content) {
		t.Error("the file is not the agent")
	}
	if want := fmt.Sprintf("%x", sha256.Sum256(content)); digest != want {
		t.Errorf("digest %s, want %s", digest, want)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o755 {
		t.Errorf("mode %v", st.Mode())
	}
}

func TestEmbeddedAgentIsUnpackedOnce(t *testing.T) {
	cache, agent := t.TempDir(), []byte("the agent, embedded")
	s := source{files: embedding(t, agent), arch: "amd64"}
	path, digest, err := s.extract(context.Background(), cache, Options{})
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, path, digest, agent)
	if want := filepath.Join(cache, "agents", digest, "mvm-agent"); path != want {
		t.Errorf("path %s, want %s", path, want)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := s.extract(context.Background(), cache, Options{})
	if err != nil || again != path {
		t.Fatalf("second call: %s, %v", again, err)
	}
	after, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) {
		t.Error("it was written twice")
	}
}

func TestDamagedCopyIsReplaced(t *testing.T) {
	for name, harm := range map[string]func(string) error{
		"short":          func(p string) error { return os.Truncate(p, 3) },
		"not executable": func(p string) error { return os.Chmod(p, 0o600) },
		"gone":           os.Remove,
		"a symlink":      func(p string) error { return os.Rename(p, p+".x") },
	} {
		t.Run(name, func(t *testing.T) {
			cache, agent := t.TempDir(), []byte("the agent, embedded")
			s := source{files: embedding(t, agent), arch: "amd64"}
			path, _, err := s.extract(context.Background(), cache, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := harm(path); err != nil {
				t.Fatal(err)
			}
			if name == "a symlink" {
				if err := os.Symlink(path+".x", path); err != nil {
					t.Fatal(err)
				}
			}
			path, digest, err := s.extract(context.Background(), cache, Options{})
			if err != nil {
				t.Fatal(err)
			}
			wantFile(t, path, digest, agent)
		})
	}
}

func TestConcurrentExtraction(t *testing.T) {
	cache, agent := t.TempDir(), bytes.Repeat([]byte("agent"), 1<<16)
	s := source{files: embedding(t, agent), arch: "amd64"}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			path, digest, err := s.extract(context.Background(), cache, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			wantFile(t, path, digest, agent)
		})
	}
	wg.Wait()
	if left, err := filepath.Glob(filepath.Join(cache, "agents", "*", ".*")); err != nil || left != nil {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// A build that was interrupted can leave a digest and an archive that do not belong together.
func TestEmbeddedDigestMustMatch(t *testing.T) {
	for name, change := range map[string]func(fstest.MapFS){
		"another digest":   func(f fstest.MapFS) { f["bin/amd64/mvm-agent.sha256"].Data = []byte(strings.Repeat("0", 64)) },
		"malformed digest": func(f fstest.MapFS) { f["bin/amd64/mvm-agent.sha256"].Data = []byte("../../etc") },
		"cut archive": func(f fstest.MapFS) {
			f["bin/amd64/mvm-agent.gz"].Data = f["bin/amd64/mvm-agent.gz"].Data[:20]
		},
		"empty archive": func(f fstest.MapFS) { f["bin/amd64/mvm-agent.gz"].Data = nil },
	} {
		t.Run(name, func(t *testing.T) {
			cache, files := t.TempDir(), embedding(t, []byte("the agent, embedded"))
			change(files)
			if path, _, err := (source{files: files, arch: "amd64"}).extract(context.Background(), cache, Options{}); err == nil {
				t.Errorf("extracted %s", path)
			}
			err := filepath.WalkDir(cache, func(p string, d fs.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					t.Errorf("left behind: %s", p)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestWhereAnAgentIsLookedFor(t *testing.T) {
	dir := t.TempDir()
	mine, beside, inside := program(t, 62, 1), append(program(t, 62, 1), 1), append(program(t, 62, 1), 2)
	override, exe := filepath.Join(dir, "my-agent"), filepath.Join(dir, "mvmctl")
	for path, content := range map[string][]byte{override: mine, filepath.Join(dir, "mvm-agent"): beside} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		src  source
		opts Options
		want []byte
		code string
	}{
		{"the override wins", source{files: embedding(t, inside), executable: exe}, Options{Override: override}, mine, ""},
		{"then the embedded one", source{files: embedding(t, inside), executable: exe}, Options{}, inside, ""},
		{"then the one beside us", source{files: notEmbedded, executable: exe}, Options{}, beside, ""},
		{"else it is missing", source{files: notEmbedded, executable: "/nonexistent/mvmctl"}, Options{}, nil, "agent.missing"},
		{"also without our own path", source{files: notEmbedded}, Options{}, nil, "agent.missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.src.arch = "amd64"
			path, digest, err := c.src.extract(context.Background(), t.TempDir(), c.opts)
			if got := machine.CodeOf(err); got != c.code {
				t.Fatalf("error %v, want code %q", err, c.code)
			}
			if err == nil {
				wantFile(t, path, digest, c.want)
			}
		})
	}
}

// What a guest cannot run as its first program would be a kernel panic; say it here instead.
func TestAgentsThatCannotRun(t *testing.T) {
	for name, c := range map[string]struct {
		content []byte
		reason  string
	}{
		"a script":            {[]byte("#!/bin/sh\n"), "ELF"},
		"for arm64":           {program(t, 183, 1), "processor"},
		"linked dynamically":  {program(t, 62, 3), "dynamically"},
		"a macOS executable":  {[]byte("\xcf\xfa\xed\xfe and so on"), "ELF"},
		"empty":               {nil, "ELF"},
		"cut after the magic": {[]byte("\x7fELF\x02\x01\x01"), "ELF"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "agent")
			if err := os.WriteFile(path, c.content, 0o755); err != nil {
				t.Fatal(err)
			}
			_, _, err := source{files: notEmbedded, arch: "amd64"}.extract(context.Background(), t.TempDir(), Options{Override: path})
			if machine.CodeOf(err) != "agent.invalid" || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// What this very test binary embeds: after scripts/build.sh an agent, before it nothing.
func TestThisBinary(t *testing.T) {
	path, digest, err := Extract(context.Background(), t.TempDir())
	if machine.CodeOf(err) == "agent.missing" {
		t.Skip("no agent for linux/" + runtime.GOARCH + " is embedded; run scripts/build.sh first")
	}
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, path, digest, content)
	if err := checkExecutable(path, content, runtime.GOARCH); err != nil {
		t.Error(err)
	}
}

func BenchmarkExtractAgain(b *testing.B) {
	cache := b.TempDir()
	if _, _, err := Extract(context.Background(), cache); err != nil {
		b.Skip(err)
	}
	for b.Loop() {
		if _, _, err := Extract(context.Background(), cache); err != nil {
			b.Fatal(err)
		}
	}
}

// A program of the host's beside the agent: dynamically linked or not, it is used as it is.
func TestHelper(t *testing.T) {
	helper := []byte("a program of the host")
	files := embedding(t, helper)
	files["bin/amd64/mvm-x.gz"], files["bin/amd64/mvm-x.sha256"] = files["bin/amd64/mvm-agent.gz"], files["bin/amd64/mvm-agent.sha256"]
	cache := t.TempDir()
	path, digest, err := source{files: files, arch: "amd64", helper: "mvm-x"}.extract(context.Background(), cache, Options{})
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, path, digest, helper)
	if want := filepath.Join(cache, "agents", digest, "mvm-x"); path != want {
		t.Errorf("path %s, want %s", path, want)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mvm-x"), program(t, 62, 3), 0o700); err != nil {
		t.Fatal(err)
	}
	path, digest, err = source{files: notEmbedded, arch: "amd64", executable: filepath.Join(dir, "mvmctl"), helper: "mvm-x"}.extract(context.Background(), cache, Options{})
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, path, digest, program(t, 62, 3))
	if _, err := Helper(context.Background(), cache, "mvm-none"); machine.CodeOf(err) != "helper.missing" {
		t.Errorf("%v, want helper.missing", err)
	}
}
