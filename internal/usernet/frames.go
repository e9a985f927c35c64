package usernet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// MaxMTU is the most that a segment's packets may have: with its Ethernet header a frame stays below
// 64 KiB, which is what QEMU's stream takes (net/stream.c).
const MaxMTU = 65520

const headerSize = 14 // of an Ethernet frame

// Port is where frames come from and go to.
type Port interface {
	// ReadFrame reads one frame into buf and returns its size. A frame that is longer is an error.
	ReadFrame(buf []byte) (int, error)
	// WriteFrames writes frames that are each in pieces. It may be called by many at a time.
	WriteFrames(frames [][][]byte) error
	Close() error
}

// Stream is a port over a stream, with each frame's size before it: QEMU's -netdev stream.
func Stream(c net.Conn) Port { return &stream{c: c, buf: make([]byte, 0, 256<<10)} }

type stream struct {
	c          net.Conn
	buf        []byte // read and not yet taken
	start, end int

	write sync.Mutex
	sizes []byte
}

// fill reads until n bytes are there to take.
func (s *stream) fill(n int) error {
	if s.start+n > cap(s.buf) {
		copy(s.buf[:cap(s.buf)], s.buf[s.start:s.end])
		s.start, s.end = 0, s.end-s.start
	}
	for s.end-s.start < n {
		got, err := s.c.Read(s.buf[s.end:cap(s.buf)])
		s.end += got
		s.buf = s.buf[:max(len(s.buf), s.end)]
		if err != nil && s.end-s.start < n {
			if errors.Is(err, io.EOF) && s.end > s.start {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

func (s *stream) ReadFrame(buf []byte) (int, error) {
	if err := s.fill(4); err != nil {
		return 0, err
	}
	n := binary.BigEndian.Uint32(s.buf[s.start:s.end])
	if int64(n) > int64(len(buf)) {
		return 0, fmt.Errorf("a frame of %d bytes", n)
	}
	s.start += 4
	if err := s.fill(int(n)); err != nil {
		return 0, err
	}
	copy(buf, s.buf[s.start:s.start+int(n)])
	if s.start += int(n); s.start == s.end {
		s.start, s.end = 0, 0
	}
	return int(n), nil
}

func (s *stream) WriteFrames(frames [][][]byte) error {
	s.write.Lock()
	defer s.write.Unlock()
	s.sizes = s.sizes[:0]
	var out net.Buffers
	for _, pieces := range frames {
		n := 0
		for _, p := range pieces {
			n += len(p)
		}
		if len(s.sizes)+4 > cap(s.sizes) { // what is in out stays where it is
			s.sizes = make([]byte, 0, 4*max(64, len(frames)))
		}
		s.sizes = binary.BigEndian.AppendUint32(s.sizes, uint32(n)) //nolint:gosec // at most MaxMTU and its header
		out = append(out, s.sizes[len(s.sizes)-4:])
		out = append(out, pieces...)
	}
	_, err := out.WriteTo(s.c)
	return err
}

func (s *stream) Close() error { return s.c.Close() }

// Packets is a port over something that keeps the bounds of frames: a tap device without further
// headers, or a socket of datagrams (vfkit's).
func Packets(c io.ReadWriteCloser) Port { return &packets{c: c} }

type packets struct {
	c     io.ReadWriteCloser
	write sync.Mutex
	buf   []byte
}

func (p *packets) ReadFrame(buf []byte) (int, error) { return p.c.Read(buf) }

func (p *packets) WriteFrames(frames [][][]byte) error {
	p.write.Lock()
	defer p.write.Unlock()
	for _, pieces := range frames {
		p.buf = p.buf[:0]
		for _, piece := range pieces {
			p.buf = append(p.buf, piece...)
		}
		if _, err := p.c.Write(p.buf); err != nil {
			return err
		}
	}
	return nil
}

func (p *packets) Close() error { return p.c.Close() }
