package linuxenv

import (
	"encoding/binary"
	"fmt"
	"io"
)

// MaxFrame bounds what a frame carries.
const MaxFrame = 1 << 20

// WriteFrame writes one piece of a stream of several kinds.
func WriteFrame(w io.Writer, kind byte, p []byte) error {
	if len(p) > MaxFrame {
		return fmt.Errorf("a frame of %d bytes", len(p))
	}
	buf := make([]byte, 5, 5+len(p))
	buf[0] = kind
	binary.BigEndian.PutUint32(buf[1:], uint32(len(p)))
	_, err := w.Write(append(buf, p...))
	return err
}

// ReadFrame reads what WriteFrame wrote. io.EOF is the stream's end between two frames.
func ReadFrame(r io.Reader) (kind byte, p []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > MaxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes", n)
	}
	p = make([]byte, n)
	if _, err := io.ReadFull(r, p); err != nil {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return head[0], p, nil
}
