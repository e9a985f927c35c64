package initrd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// formatVersion is part of every cache key; raise it when the layout changes.
const formatVersion = 2

// maxModules is what three digits of load order can count.
const maxModules = 1000

// Input is what an initramfs is made of.
type Input struct {
	Agent       string   // path of the guest agent's binary
	AgentDigest string   // its SHA-256 in hex; computed when "", which costs a read of the file
	KernelID    string   // names the kernel and its modules' contents
	Modules     []string // module files in load order; compressed ones are stored uncompressed
}

// Build returns the path of the initramfs for in below cacheDir/initrd, and builds it unless it
// is there already. A hit costs a few system calls and reads no content. The file is complete
// whenever it has its final name; processes that build the same one at the same time make equal
// files and do not disturb each other.
//
// An AgentDigest that is not the agent's is an error when the archive is built, so the cache
// cannot be poisoned by it.
func Build(ctx context.Context, cacheDir string, in Input) (string, error) {
	if len(in.Modules) > maxModules {
		return "", fmt.Errorf("building initramfs: %d modules are more than %d", len(in.Modules), maxModules)
	}
	if in.AgentDigest == "" {
		digest, err := hashFile(in.Agent)
		if err != nil {
			return "", fmt.Errorf("reading agent: %w", err)
		}
		in.AgentDigest = digest
	}
	key, err := cacheKey(in)
	if err != nil {
		return "", fmt.Errorf("building initramfs: %w", err)
	}
	dir := filepath.Join(cacheDir, "initrd")
	path := filepath.Join(dir, key+".cpio")
	if whole(path) {
		return path, nil
	}
	if err := build(ctx, dir, path, in); err != nil {
		if _, told := errors.AsType[*machine.Error](err); told {
			return "", err
		}
		return "", fmt.Errorf("building initramfs: %w", err)
	}
	return path, nil
}

// cacheKey names an archive by what goes into it. Sizes stand for the modules' contents, which
// the kernel's id names already.
func cacheKey(in Input) (string, error) {
	sum := sha256.New()
	fmt.Fprintf(sum, "mvm-initrd %d\nkernel %q\nagent %q\n", formatVersion, in.KernelID, strings.ToLower(in.AgentDigest))
	for _, m := range in.Modules {
		st, err := os.Stat(m)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "module %q %d\n", filepath.Base(m), st.Size())
	}
	return hex.EncodeToString(sum.Sum(nil)[:16]), nil
}

// whole tells whether a cached archive is complete. A crash of the host can leave a short file
// under the final name on file systems that reorder data and names.
func whole(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	st, err := f.Stat()
	return err == nil && st.Mode().IsRegular() && Walk(f, st.Size(), nil) == nil
}

// build writes the archive to a temporary file and gives it its name when it is on the disk.
func build(ctx context.Context, dir, path string, in Input) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return paths.CacheError(building, err)
	}
	tmp, err := os.CreateTemp(dir, ".build-")
	if err != nil {
		return paths.CacheError(building, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreGone(os.Remove(tmp.Name())))
		}
	}()
	buffered := bufio.NewWriterSize(cacheFile{tmp}, 1<<20)
	err = writeArchive(ctx, buffered, in)
	if err == nil {
		err = buffered.Flush()
	}
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if err == nil {
		err = paths.CacheError(building, tmp.Sync())
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return paths.CacheError(building, err)
	}
	return syncDir(dir)
}

const building = "building initramfs"

// cacheFile is the file that is written: what it refuses is told apart from what cannot be read.
type cacheFile struct{ f *os.File }

func (c cacheFile) Write(p []byte) (int, error) {
	n, err := c.f.Write(p)
	return n, paths.CacheError(building, err)
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// writeArchive writes the whole layout.
func writeArchive(ctx context.Context, out io.Writer, in Input) error {
	w := &writer{w: out}
	for _, e := range []Entry{
		{Name: "dev", Mode: modeDir | 0o755},
		{Name: "dev/console", Mode: modeChar | 0o600, Major: 5, Minor: 1},
		{Name: "dev/null", Mode: modeChar | 0o666, Major: 1, Minor: 3},
		{Name: "proc", Mode: modeDir | 0o755},
		{Name: "sys", Mode: modeDir | 0o755},
		{Name: "run", Mode: modeDir | 0o755},
		{Name: "newroot", Mode: modeDir | 0o755},
		{Name: "mvm", Mode: modeDir | 0o755},
		{Name: "mvm/modules", Mode: modeDir | 0o755},
	} {
		if err := w.header(e); err != nil {
			return err
		}
	}
	const target = "mvm/mvm-agent"
	link := Entry{Name: "init", Mode: modeSymlink | 0o777, Size: int64(len(target))}
	if err := w.file(link, strings.NewReader(target)); err != nil {
		return err
	}
	if err := addAgent(w, target, in); err != nil {
		return err
	}
	for i, m := range in.Modules {
		if err := addModule(ctx, w, i, m); err != nil {
			return err
		}
	}
	return w.close()
}

// addAgent copies the agent and makes sure that it is the one that was named.
func addAgent(w *writer, name string, in Input) error {
	f, err := os.Open(in.Agent)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Size() == 0 {
		return fmt.Errorf("agent %s is not a file with content", in.Agent)
	}
	sum := sha256.New()
	if err := w.file(Entry{Name: name, Mode: modeRegular | 0o755, Size: st.Size()}, io.TeeReader(f, sum)); err != nil {
		return err
	}
	if got := hexSum(sum); !strings.EqualFold(got, in.AgentDigest) {
		return fmt.Errorf("agent %s has the digest %s, not %s", in.Agent, got, in.AgentDigest)
	}
	return nil
}

// addModule stores a module uncompressed under its place in the load order.
func addModule(ctx context.Context, w *writer, order int, path string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	raw, err := readModule(path)
	if err != nil {
		return fmt.Errorf("module %s: %w", filepath.Base(path), err)
	}
	base, _, _ := strings.Cut(filepath.Base(path), ".ko")
	e := Entry{
		Name: fmt.Sprintf("mvm/modules/%03d-%s.ko", order, base), Mode: modeRegular | 0o644, Size: int64(len(raw)),
	}
	return w.file(e, bytes.NewReader(raw))
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.CopyBuffer(sum, struct{ io.Reader }{f}, make([]byte, 1<<20)); err != nil {
		return "", err
	}
	return hexSum(sum), nil
}

func hexSum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }
