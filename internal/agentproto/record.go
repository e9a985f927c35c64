package agentproto

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// RecordType says what a record of a stream carries.
type RecordType uint8

// The records of exec, console and main streams. A stream that ends without RecExit was cut.
const (
	RecStart   RecordType = 1 // host → guest: JSON ExecStart or AttachStart, first
	RecStarted RecordType = 2 // guest → host: JSON Started
	RecStdin   RecordType = 3 // host → guest: bytes; an empty body is end of input
	RecStdout  RecordType = 4 // guest → host: bytes (also everything of a TTY)
	RecStderr  RecordType = 5 // guest → host: bytes
	RecResize  RecordType = 6 // host → guest: JSON Resize
	RecSignal  RecordType = 7 // host → guest: JSON Signal
	RecExit    RecordType = 8 // guest → host: JSON Exit, last
	// RecCredit is guest → host: JSON Credit. A host may have StdinWindow bytes of RecStdin
	// under way that the guest has not given credit for. So a program that does not read its
	// input stops the host's input and nothing else: signals and resizes still get through.
	RecCredit   RecordType = 9
	recordTypes RecordType = 10
	recordHead  RecordType = 5 // type u8, length u32 big-endian
)

// RecordWriter writes records. It is not safe for concurrent use.
type RecordWriter struct {
	w   io.Writer
	buf []byte
}

// NewRecordWriter returns a writer of records to w. Each record is one Write.
func NewRecordWriter(w io.Writer) *RecordWriter { return &RecordWriter{w: w} }

// Write writes one record. A body over MaxRecord is split for the byte types and an error for
// the JSON types.
func (r *RecordWriter) Write(t RecordType, body []byte) error {
	for len(body) > MaxRecord {
		if t != RecStdin && t != RecStdout && t != RecStderr {
			return &Error{Code: CodeProtocol, Message: fmt.Sprintf("record of %d bytes is over the limit of %d", len(body), MaxRecord)}
		}
		if err := r.one(t, body[:MaxRecord]); err != nil {
			return err
		}
		body = body[MaxRecord:]
	}
	return r.one(t, body)
}

func (r *RecordWriter) one(t RecordType, body []byte) error {
	r.buf = append(r.buf[:0], byte(t))
	r.buf = binary.BigEndian.AppendUint32(r.buf, uint32(len(body)))
	r.buf = append(r.buf, body...)
	_, err := r.w.Write(r.buf)
	return err
}

// WriteJSON writes one record with v as its JSON body.
func (r *RecordWriter) WriteJSON(t RecordType, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return r.Write(t, body)
}

// RecordReader reads records. It is not safe for concurrent use.
type RecordReader struct {
	r    io.Reader
	head [recordHead]byte
	body []byte
}

// NewRecordReader returns a reader of records from r.
func NewRecordReader(r io.Reader) *RecordReader { return &RecordReader{r: r} }

// Next returns the next record; its body is valid until the next call. A clean end between
// two records is io.EOF, an end within one is io.ErrUnexpectedEOF, anything malformed is an
// *Error with CodeProtocol.
func (r *RecordReader) Next() (RecordType, []byte, error) {
	if _, err := io.ReadFull(r.r, r.head[:]); err != nil {
		return 0, nil, err
	}
	t := RecordType(r.head[0])
	n := binary.BigEndian.Uint32(r.head[1:])
	if t == 0 || t >= recordTypes {
		return 0, nil, &Error{Code: CodeProtocol, Message: fmt.Sprintf("record of unknown type %d", t)}
	}
	if n > MaxRecord {
		return 0, nil, &Error{Code: CodeProtocol, Message: fmt.Sprintf("record of %d bytes is over the limit of %d", n, MaxRecord)}
	}
	if cap(r.body) < int(n) {
		r.body = make([]byte, n)
	}
	r.body = r.body[:n]
	if _, err := io.ReadFull(r.r, r.body); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return t, r.body, nil
}

// Decode decodes a record's JSON body into v, strictly.
func Decode(body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return &Error{Code: CodeProtocol, Message: "malformed record: " + err.Error()}
	}
	return nil
}
