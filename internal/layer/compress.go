package layer

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// maxWindow bounds the memory that a stream can make a decoder allocate. It is what `xz -9`
// needs and eight times what the zstd specification asks a decoder to support.
const maxWindow = 64 << 20

// newDecoder looks at the first bytes and returns a reader of what is compressed in r, and a
// function that frees it. What is not known is taken for a tar file as it is.
func newDecoder(r io.Reader) (io.Reader, func(), error) {
	br := bufio.NewReaderSize(r, 256<<10)
	nothing := func() {}
	head, err := br.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nothing, err
	}
	switch {
	case isGzip(head):
		return &members{br: br}, nothing, nil
	case isZstd(head):
		zr, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nothing, err
		}
		return trailing{zr, zstd.ErrMagicMismatch}, zr.Close, nil
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		xr, err := xz.NewReader(br, maxWindow)
		if errors.Is(err, xz.ErrBuf) || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, nothing, err
		}
		return trailing{xzReader{xr, br}, xz.ErrFormat}, nothing, nil
	}
	return br, nothing, nil
}

// xzReader tells a cut stream from a damaged one, which xz.Reader does not.
type xzReader struct {
	*xz.Reader
	br *bufio.Reader
}

func (x xzReader) Read(p []byte) (int, error) {
	n, err := x.Reader.Read(p)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	if _, end := x.br.Peek(1); errors.Is(end, io.EOF) && errors.Is(err, xz.ErrBuf) {
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

func isGzip(head []byte) bool { return bytes.HasPrefix(head, []byte{0x1f, 0x8b}) }

// isZstd knows frames with content and skippable ones, which may come first.
func isZstd(head []byte) bool {
	return bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) ||
		len(head) >= 4 && head[0]&0xf0 == 0x50 && head[1] == 0x2a && head[2] == 0x4d && head[3] == 0x18
}

// trailing is a decoder that reports as format what is no frame. The first one began rightly,
// so it is something behind a whole one.
type trailing struct {
	io.Reader
	format error
}

func (t trailing) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	if errors.Is(err, t.format) {
		err = trailingError()
	}
	return n, err
}

// members reads the members of a gzip file one after another. gzip.Reader could, but does not
// tell damage from something else behind the last member; zeros may be there, as gzip has it.
type members struct {
	br *bufio.Reader
	zr *gzip.Reader
}

func (m *members) Read(p []byte) (int, error) {
	for {
		if m.zr == nil {
			zr, err := gzip.NewReader(m.br)
			if err != nil {
				return 0, cut(err)
			}
			m.zr = zr
			m.zr.Multistream(false)
		}
		n, err := m.zr.Read(p)
		if n > 0 && errors.Is(err, io.EOF) {
			err = nil // and again at the next call
		}
		if n > 0 || !errors.Is(err, io.EOF) {
			return n, err
		}
		if err := m.nextMember(); err != nil {
			return 0, err
		}
	}
}

// nextMember goes to the next member; io.EOF if there is none.
func (m *members) nextMember() error {
	head, err := m.br.Peek(2)
	if len(head) == 0 {
		return err // io.EOF at the right place
	}
	if !isGzip(head) {
		return m.onlyZeros()
	}
	if err := m.zr.Reset(m.br); err != nil {
		return cut(err)
	}
	m.zr.Multistream(false)
	return nil
}

// onlyZeros is io.EOF if nothing but zeros is left.
func (m *members) onlyZeros() error {
	for {
		b, err := m.br.ReadByte()
		if err != nil {
			return err
		}
		if b != 0 {
			return trailingError()
		}
	}
}

// cut makes an end inside a header what it is.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
