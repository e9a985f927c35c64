package layer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// stream reads one layer without its compression. Decompression, digest and whoever calls Read
// work at the same time, each in its goroutine, on a few buffers that go round.
type stream struct {
	meter    *meter
	place    string // for messages
	diffID   string
	progress func(stored int64)

	ctx    context.Context // ends with the stream
	cancel context.CancelFunc
	rc     io.ReadCloser
	wait   sync.WaitGroup

	empty  chan []byte
	hashed chan []byte // from the digest to Read; closed at the end
	end    error       // why hashed was closed; nil at the end of the stream
	sum    hash.Hash   // nil if nobody asks
	stored atomic.Int64
	made   int64 // bytes after decompression

	buf, rest []byte // what Read has of the present buffer
	passed    int64  // bytes that Read gave out
	zeros     int64  // of those, the zeros at the end
}

const (
	streamBuffers = 8
	streamBuffer  = 256 << 10
)

// openStream starts reading; place names the layer in messages.
func openStream(m *meter, l *Layer, place string) (*stream, error) {
	if err := m.ctx.Err(); err != nil {
		return nil, err
	}
	rc, err := l.Open(m.ctx)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", place, err)
	}
	s := &stream{meter: m, place: place, diffID: l.DiffID, rc: rc, empty: make(chan []byte, streamBuffers), hashed: make(chan []byte, streamBuffers)}
	s.ctx, s.cancel = context.WithCancel(m.ctx)
	if l.DiffID != "" {
		s.sum = sha256.New()
	}
	for range streamBuffers {
		s.empty <- nil // made when it is needed: most layers are small
	}
	full := make(chan []byte, streamBuffers)
	s.wait.Go(func() {
		defer close(full)
		s.end = s.decode(full)
	})
	s.wait.Go(func() {
		defer close(s.hashed)
		for p := range full {
			if s.sum != nil {
				_, _ = s.sum.Write(p)
			}
			select {
			case s.hashed <- p:
			case <-s.ctx.Done(): // and decode ends too
			}
		}
	})
	return s, nil
}

// close ends the goroutines; what they counted may be read then.
func (s *stream) close() {
	s.cancel()
	_ = s.rc.Close()
	s.wait.Wait()
}

// decode fills buffers until the end of the stream.
func (s *stream) decode(full chan<- []byte) (err error) {
	defer func() {
		if p := recover(); p != nil { // other people's decoders on hostile bytes
			err = invalidError("its compression is damaged: %v", p)
		}
	}()
	dec, closeDec, err := newDecoder(storedReader{s})
	if err != nil {
		return err
	}
	defer closeDec()
	for {
		var p []byte
		select {
		case p = <-s.empty:
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
		if p == nil {
			p = make([]byte, streamBuffer)
		}
		n, err := readFull(dec, p[:streamBuffer])
		if limit := s.count(int64(n)); limit != nil {
			return limit
		}
		if n > 0 {
			full <- p[:n] // has room for all buffers
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readFull fills p as far as there is something; unlike io.ReadFull it keeps the error.
func readFull(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = r.Read(p[n:])
		n += k
	}
	return n, err
}

// count checks the limits on what decompression may make.
func (s *stream) count(n int64) error {
	l := &s.meter.limits
	s.made += n
	if s.meter.bytes += n; s.meter.bytes > l.Bytes {
		return limitError("more than %d bytes", l.Bytes)
	}
	if s.made > l.RatioFloor && s.made/l.Ratio > s.stored.Load() {
		return limitError("more than %d bytes from %d stored ones", s.made, s.stored.Load())
	}
	return nil
}

// storedReader reads the stored bytes for the decoder.
type storedReader struct{ s *stream }

func (r storedReader) Read(p []byte) (int, error) {
	s := r.s
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.rc.Read(p)
	s.stored.Add(int64(n))
	if s.meter.stored += int64(n); s.meter.stored > s.meter.limits.Bytes {
		return n, limitError("more than %d stored bytes", s.meter.limits.Bytes)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = storedError{err}
	}
	return n, err
}

// storedError marks an error of the source, which says nothing about the layer.
type storedError struct{ error }

func (e storedError) Unwrap() error { return e.error }

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		if err := s.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	s.passed += int64(n)
	s.countZeros(p[:n])
	return n, nil
}

func (s *stream) countZeros(p []byte) {
	k := len(p)
	for k > 0 && p[k-1] == 0 && len(p)-k < 2*tarBlock {
		k--
	}
	if k > 0 {
		s.zeros = 0
	}
	s.zeros += int64(len(p) - k)
}

// next gets the next buffer.
func (s *stream) next() error {
	if s.buf != nil {
		s.empty <- s.buf
		s.buf = nil
	}
	if s.progress != nil {
		s.progress(s.stored.Load())
	}
	select {
	case p, ok := <-s.hashed:
		if ok {
			s.buf, s.rest = p, p
			return nil
		}
		if s.end != nil {
			return s.endError()
		}
		return io.EOF
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// endError explains why there is no more to read.
func (s *stream) endError() error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if e, ok := errors.AsType[storedError](s.end); ok {
		return explained{fmt.Errorf("reading %s: %w", s.place, e.error)}
	}
	if _, ok := errors.AsType[*machine.Error](s.end); ok || errors.Is(s.end, io.ErrUnexpectedEOF) {
		return s.end
	}
	if errors.Is(s.end, zstd.ErrWindowSizeExceeded) || errors.Is(s.end, xz.ErrMemlimit) {
		return limitError("unpacking it needs a window of more than %d MiB", maxWindow>>20)
	}
	return invalidError("its compression is damaged: %w", s.end)
}

// finish reads what follows the end mark and compares the digest.
func (s *stream) finish() error {
	for {
		for _, b := range s.rest {
			if b != 0 {
				return s.explain(trailingError(), "")
			}
		}
		err := s.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return s.explain(err, "")
		}
	}
	if s.sum == nil {
		return nil
	}
	if got := "sha256:" + hex.EncodeToString(s.sum.Sum(nil)); got != s.diffID {
		return machine.Errorf("integrity.diffid", "fetch it again; if that does not help, whoever published it has to",
			"%s is not what its image says: it is %s, not %s", s.place, got, s.diffID)
	}
	return nil
}

func trailingError() error {
	return machine.Errorf("archive.trailing", remedyRebuild, "something follows the end of the archive")
}
