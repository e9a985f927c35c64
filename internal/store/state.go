//go:build unix

package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/mvmctl/mvmctl/internal/fault"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// maxState bounds a state file that is read, in bytes. A record is a few kilobytes.
const maxState = 4 << 20

// previousSuffix names the last good copy that is kept beside a durable state file.
const previousSuffix = ".previous"

// errBadState is in the chain of every error that means "the bytes are not a state file".
var errBadState = errors.New("damaged state file")

// newerError says that a state file was written by a later version of this program.
type newerError struct{ have, know int }

func (e *newerError) Error() string {
	return fmt.Sprintf("format %d, this one knows up to %d", e.have, e.know)
}

// envelope is what a state file holds: which kind and version of body, and its digest, so that
// a cut or a flipped bit is found before the body is believed.
type envelope struct {
	Kind   string          `json:"kind"`
	Schema int             `json:"schema"`
	SHA256 string          `json:"sha256"` // of Body's bytes
	Body   json.RawMessage `json:"body"`
}

// writeState writes v into path: temporary file in the same folder, write, sync, rename, sync
// the folder. After any error the old content is still there and the temporary file is not.
func writeState(path, kind string, schema int, v any, durable bool) error {
	data, err := encodeState(kind, schema, v)
	if err != nil {
		return err
	}
	if err := replaceFile(path, data, durable); err != nil {
		return paths.WriteError("writing "+path, err)
	}
	return nil
}

// encodeState returns the bytes of a state file.
func encodeState(kind string, schema int, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", kind, err)
	}
	sum := sha256.Sum256(body)
	data, err := json.Marshal(envelope{Kind: kind, Schema: schema, SHA256: hex.EncodeToString(sum[:]), Body: body})
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", kind, err)
	}
	return append(data, '\n'), nil
}

// overwrite puts data into the blocks that the file at path has already.
func overwrite(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Truncate(int64(len(data)))
	}
	return errors.Join(err, f.Close())
}

func replaceFile(path string, data []byte, durable bool) (err error) {
	sweepTemporaries(path)
	f, err := temporary(path)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if durable {
		// A failed fsync may have dropped the pages: the file is given up, never synced again.
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	fault.Point(fault.StoreTemp)
	if durable {
		if err := keepPrevious(path); err != nil {
			return err
		}
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	fault.Point(fault.StoreRenamed)
	if durable {
		return syncDir(filepath.Dir(path))
	}
	return nil
}

// keepPrevious gives the current file a second name, which outlives the rename over the first.
func keepPrevious(path string) error {
	if err := os.Remove(path + previousSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(path, path+previousSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) && !noHardLinks(err) {
		return err
	}
	return nil
}

// noHardLinks reports whether a link failed because the file system has none, or no more for
// this file: link(2) names EPERM and EMLINK, network and FUSE file systems give the others. The
// record is then kept without a last good copy.
func noHardLinks(err error) bool {
	for _, e := range []error{syscall.EPERM, syscall.EMLINK, syscall.EOPNOTSUPP, syscall.ENOTSUP, syscall.ENOSYS} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}

// buffers lends readers the memory that a state file is read into. For `ls`, which reads two per
// machine, touching fresh memory for each would cost more than the reading itself.
type buffers struct{ pool sync.Pool }

const (
	usualBuffer = 8 << 10  // bytes: a record or status with room to spare
	keptBuffer  = 64 << 10 // a larger one is not kept
)

func (b *buffers) get() *[]byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return p
	}
	p := make([]byte, usualBuffer)
	return &p
}

func (b *buffers) put(p *[]byte) {
	if len(*p) <= keptBuffer {
		b.pool.Put(p)
	}
}

// readState reads path into v. A damaged file is answered from the last good copy when there is
// one. A newer format is refused without looking at the copy.
func (b *buffers) readState(path, kind string, schema int, v any) error {
	err := b.readOne(path, kind, schema, v)
	if err == nil || errors.As(err, new(*newerError)) {
		return err
	}
	if errors.Is(err, errBadState) || errors.Is(err, fs.ErrNotExist) {
		if b.readOne(path+previousSuffix, kind, schema, v) == nil {
			return nil
		}
	}
	return err
}

func (b *buffers) readOne(path, kind string, schema int, v any) error {
	buf := b.get()
	defer b.put(buf)
	n, err := readFile(path, buf)
	if err != nil {
		return err
	}
	return decodeState((*buf)[:n], kind, schema, v) // which copies what it keeps
}

// readFile reads a whole small file into buf, which grows as needed, with as few system calls
// as can be. os.Open would also try to register each file with the poller, which regular files
// refuse.
func readFile(path string, buf *[]byte) (int, error) {
	fd, err := retry(func() (int, error) { return syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0) })
	if err != nil {
		return 0, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = syscall.Close(fd) }()
	total := 0
	for {
		n, err := retry(func() (int, error) { return syscall.Read(fd, (*buf)[total:]) })
		if err != nil {
			return 0, fmt.Errorf("%w: %w", errBadState, &fs.PathError{Op: "read", Path: path, Err: err})
		}
		total += n
		if n == 0 || total < len(*buf) { // a short read of a regular file is its end
			return total, nil
		}
		if total > maxState {
			return 0, fmt.Errorf("%w: more than 4 MiB", errBadState)
		}
		*buf = append(*buf, make([]byte, len(*buf))...)
	}
}

func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}

// decodeState decodes the bytes of a state file, strictly.
func decodeState(data []byte, kind string, schema int, v any) error {
	if len(data) > maxState {
		return fmt.Errorf("%w: more than 4 MiB", errBadState)
	}
	env, err := openEnvelope(data)
	if err != nil {
		return fmt.Errorf("%w: %w", errBadState, err)
	}
	if env.Kind != kind {
		return fmt.Errorf("%w: it holds a %q, not a %q", errBadState, env.Kind, kind)
	}
	if env.Schema > schema {
		return &newerError{have: env.Schema, know: schema}
	}
	sum := sha256.Sum256(env.Body)
	if env.Schema < 1 || env.SHA256 != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("%w: its checksum does not fit", errBadState)
	}
	if err := strictDecode(env.Body, v); err != nil {
		return fmt.Errorf("%w: %w", errBadState, err)
	}
	return nil
}

// openEnvelope takes a state file apart. The body, by far the larger part, is not decoded here:
// its digest says whether it is what was written.
func openEnvelope(data []byte) (envelope, error) {
	head, rest, ok := bytes.Cut(data, []byte(`,"body":`))
	body, closed := bytes.CutSuffix(bytes.TrimSuffix(rest, []byte("\n")), []byte("}"))
	if !ok || !closed {
		return envelope{}, errors.New("it is cut")
	}
	env, plain := plainHead(head)
	if !plain {
		if err := strictDecode(append(bytes.Clone(head), '}'), &env); err != nil {
			return envelope{}, err
		}
	}
	env.Body = body
	return env, nil
}

// plainHead decodes the head as writeState writes it, without escapes and spaces, which is many
// times faster than the general way. false: it is not of that form, and may still be correct.
func plainHead(head []byte) (envelope, bool) {
	rest, a := bytes.CutPrefix(head, []byte(`{"kind":"`))
	kind, rest, b := bytes.Cut(rest, []byte(`","schema":`))
	schema, rest, c := bytes.Cut(rest, []byte(`,"sha256":"`))
	sum, d := bytes.CutSuffix(rest, []byte(`"`))
	if !a || !b || !c || !d || !all(kind, "abcdefghijklmnopqrstuvwxyz") || !all(sum, "0123456789abcdef") ||
		!all(schema, "0123456789") || len(schema) == 0 || len(schema) > 9 || schema[0] == '0' {
		return envelope{}, false
	}
	n, err := strconv.Atoi(string(schema))
	return envelope{Kind: string(kind), Schema: n, SHA256: string(sum)}, err == nil
}

// all reports whether s has only characters of set.
func all(s []byte, set string) bool {
	return len(bytes.Trim(s, set)) == 0
}

func strictDecode(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("data after its end")
	}
	return nil
}
