package agentbin

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"

	"github.com/klauspost/compress/gzip"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

const (
	agentName = "mvm-agent"

	// maxAgent bounds what we unpack or copy, in bytes. The agent has about 7 MB.
	maxAgent = 256 << 20
)

// Options say where else than in this binary the agent may be.
type Options struct {
	// Override is the path of an agent to use instead of the embedded one, as given by the
	// environment variable MVM_AGENT; "" for none.
	Override string
}

// source is where programs come from; tests make their own.
type source struct {
	files      fs.FS  // holds bin/<arch>/…
	arch       string // Go's spelling
	executable string // path of this program, "" if unknown
	helper     string // the program of this host that is wanted; "": the agent
}

func (s source) name() string { return cmp.Or(s.helper, agentName) }

// Extract returns the path of the agent as a file below cacheDir/agents/<digest>, and its
// SHA-256 in hex. The first call for an agent writes that file, atomically; later calls for the
// embedded agent read no content.
//
// The agent is the override if there is one, else the embedded one, else a file mvm-agent beside
// this program. With none of them the error is "agent.missing"; a file that no Linux guest of
// this processor can run as its init is "agent.invalid".
func Extract(ctx context.Context, cacheDir string, opts ...Options) (file, digest string, err error) {
	var o Options
	for _, given := range opts {
		o = given
	}
	return ours().extract(ctx, cacheDir, o)
}

// Helper is Extract for another program of ours that this host runs, and that lies beside the agent.
// It is used as it is. When it is not there the error is "helper.missing".
func Helper(ctx context.Context, cacheDir, name string) (string, error) {
	s := ours()
	s.helper = name
	file, _, err := s.extract(ctx, cacheDir, Options{})
	return file, err
}

func ours() source {
	exe, err := os.Executable()
	if err != nil {
		exe = "" // then there is no "beside"
	}
	return source{files: embedded, arch: runtime.GOARCH, executable: exe}
}

func (s source) extract(ctx context.Context, cacheDir string, o Options) (file, digest string, err error) {
	if o.Override != "" {
		file, digest, err = s.fromFile(ctx, cacheDir, o.Override)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			err = machine.Errorf("agent.missing", "correct MVM_AGENT, or unset it to use the agent inside mvmctl", "the guest agent that MVM_AGENT names cannot be read: %w", err)
		}
		return file, digest, err
	}
	file, digest, err = s.fromEmbedded(ctx, cacheDir)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return file, digest, err
	}
	if s.executable != "" {
		file, digest, err = s.fromFile(ctx, cacheDir, filepath.Join(filepath.Dir(s.executable), s.name()))
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return file, digest, err
		}
	}
	return "", "", s.missingError(err)
}

func (s source) missingError(cause error) error {
	e := machine.Errorf("agent.missing", "build it with `just build` (scripts/build.sh), or name an agent with MVM_AGENT=PATH", "this mvmctl was built without the guest agent for %s", s.arch)
	if s.helper != "" {
		e = machine.Errorf("helper.missing", "build mvmctl with `just build` (scripts/build.sh)", "this mvmctl was built without %s for %s", s.helper, s.arch)
	}
	e.Err = cause
	return e
}

// fromEmbedded unpacks the embedded agent unless it is unpacked already.
func (s source) fromEmbedded(ctx context.Context, cacheDir string) (file, digest string, err error) {
	dir := path.Join("bin", s.arch)
	raw, err := fs.ReadFile(s.files, path.Join(dir, s.name()+".sha256"))
	if err != nil {
		return "", "", err
	}
	digest = string(bytes.TrimSpace(raw))
	if !isDigest(digest) {
		return "", "", fmt.Errorf("reading the embedded %s: its digest is malformed", s.name())
	}
	packed, err := s.files.Open(path.Join(dir, s.name()+".gz"))
	if err != nil {
		return "", "", err
	}
	defer packed.Close()
	size, err := unpackedSize(packed)
	if err != nil {
		return "", "", fmt.Errorf("reading the embedded %s: %w", s.name(), err)
	}
	file = s.cachePath(cacheDir, digest)
	if isReady(file, size) {
		return file, digest, nil
	}
	zr, err := gzip.NewReader(packed)
	if err != nil {
		return "", "", fmt.Errorf("reading the embedded %s: %w", s.name(), err)
	}
	if err := install(ctx, file, digest, zr); err != nil {
		return "", "", fmt.Errorf("unpacking %s: %w", s.name(), err)
	}
	return file, digest, nil
}

// unpackedSize reads the size that a gzip file ends with (RFC 1952, ISIZE) and leaves f at its
// beginning.
func unpackedSize(f fs.File) (int64, error) {
	sk, ok := f.(io.ReadSeeker)
	if !ok {
		return 0, errors.New("cannot seek in it")
	}
	if _, err := sk.Seek(-4, io.SeekEnd); err != nil {
		return 0, err
	}
	var tail [4]byte
	if _, err := io.ReadFull(sk, tail[:]); err != nil {
		return 0, err
	}
	_, err := sk.Seek(0, io.SeekStart)
	return int64(binary.LittleEndian.Uint32(tail[:])), err
}

// fromFile copies an agent from a file, which may be replaced by a new build at any time, into
// the cache, where it never changes. It reads the file on every call.
func (s source) fromFile(ctx context.Context, cacheDir, name string) (file, digest string, err error) {
	st, err := os.Stat(name)
	if err != nil {
		return "", "", fmt.Errorf("reading %s: %w", s.name(), err)
	}
	if !st.Mode().IsRegular() || st.Size() > maxAgent {
		return "", "", invalid(name, "it is not a file of at most %d bytes", maxAgent)
	}
	content, err := os.ReadFile(name)
	if err != nil {
		return "", "", fmt.Errorf("reading %s: %w", s.name(), err)
	}
	if err := checkExecutable(name, content, s.arch); s.helper == "" && err != nil { // of a helper this host says so itself
		return "", "", err
	}
	sum := sha256.Sum256(content)
	digest = hex.EncodeToString(sum[:])
	file = s.cachePath(cacheDir, digest)
	if isReady(file, int64(len(content))) {
		return file, digest, nil
	}
	if err := install(ctx, file, digest, bytes.NewReader(content)); err != nil {
		return "", "", fmt.Errorf("copying %s: %w", s.name(), err)
	}
	return file, digest, nil
}

// checkExecutable makes sure that a kernel without any libraries at hand can run the file.
func checkExecutable(name string, content []byte, arch string) error {
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return invalid(name, "it is no ELF program")
	}
	defer f.Close()
	want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch]
	if f.Machine != want {
		return invalid(name, "it is for another processor (%s, not %s)", f.Machine, arch)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return invalid(name, "it is linked dynamically")
		}
	}
	return nil
}

func invalid(name, format string, args ...any) error {
	return machine.Errorf("agent.invalid", "build the agent with `just build` (CGO_ENABLED=0 GOOS=linux)",
		"%q cannot be the guest agent: %s", name, fmt.Sprintf(format, args...))
}

func isDigest(s string) bool {
	ok, err := regexp.MatchString(`^[0-9a-f]{64}$`, s)
	return ok && err == nil
}

func (s source) cachePath(cacheDir, digest string) string {
	return filepath.Join(cacheDir, "agents", digest, s.name())
}

// isReady tells whether the agent was installed. The name is given only to complete files; the
// size guards against a file system that lost content in a crash.
func isReady(file string, size int64) bool {
	st, err := os.Lstat(file)
	return err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o555 == 0o555 && st.Size() == size
}

const unpacking = "unpacking a program of mvmctl's"

// cacheFile is the file that is written: what it refuses is told apart from what cannot be read.
type cacheFile struct{ f *os.File }

func (c cacheFile) Write(p []byte) (int, error) {
	n, err := c.f.Write(p)
	return n, paths.CacheError(unpacking, err)
}

// install writes the agent to its place in the cache and checks its digest on the way.
func install(ctx context.Context, file, digest string, content io.Reader) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return paths.CacheError(unpacking, err)
	}
	tmp, err := os.CreateTemp(dir, ".tmp-")
	if err != nil {
		return paths.CacheError(unpacking, err)
	}
	defer func() {
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(cacheFile{tmp}, sum), io.LimitReader(content, maxAgent+1))
	switch {
	case err != nil:
	case n > maxAgent:
		err = fmt.Errorf("larger than %d bytes", maxAgent)
	case hex.EncodeToString(sum.Sum(nil)) != digest:
		err = errors.New("its digest is not the expected one; build again")
	}
	if err == nil {
		err = tmp.Chmod(0o755)
	}
	if err == nil {
		err = paths.CacheError(unpacking, tmp.Sync())
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), file); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
