package agentproto_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/agentproto"
)

type record struct {
	Type agentproto.RecordType
	Body string
}

// readAll reads records until the first error, which is nil for a clean end.
func readAll(r io.Reader) (out []record, err error) {
	rr := agentproto.NewRecordReader(r)
	for {
		t, body, err := rr.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out = append(out, record{t, string(body)})
	}
}

func TestRecordsComeBack(t *testing.T) {
	big := strings.Repeat("x", agentproto.MaxRecord)
	in := []record{
		{agentproto.RecStart, `{}`},
		{agentproto.RecStdin, "in"},
		{agentproto.RecStdin, ""},
		{agentproto.RecStdout, big},
		{agentproto.RecStderr, "\x00\xff"},
		{agentproto.RecCredit, `{"bytes":1}`},
		{agentproto.RecExit, `{"code":3}`},
	}
	var buf bytes.Buffer
	w := agentproto.NewRecordWriter(&buf)
	for _, r := range in {
		if err := w.Write(r.Type, []byte(r.Body)); err != nil {
			t.Fatal(err)
		}
	}
	for name, r := range map[string]io.Reader{
		"at once": bytes.NewReader(buf.Bytes()), "byte by byte": iotest.OneByteReader(bytes.NewReader(buf.Bytes())),
	} {
		got, err := readAll(r)
		if d := cmp.Diff(in, got); d != "" || err != nil {
			t.Errorf("%s: %v %s", name, err, d)
		}
	}
}

func TestLargeBodies(t *testing.T) {
	var buf bytes.Buffer
	w := agentproto.NewRecordWriter(&buf)
	body := bytes.Repeat([]byte("0123456789"), agentproto.MaxRecord/4)
	if err := w.Write(agentproto.RecStdout, body); err != nil {
		t.Fatal(err)
	}
	got, err := readAll(&buf)
	if err != nil || len(got) != 3 {
		t.Fatalf("%d records, %v", len(got), err)
	}
	if all := got[0].Body + got[1].Body + got[2].Body; all != string(body) {
		t.Error("the pieces are not the whole")
	}
	// What has a meaning of its own cannot be cut up.
	if err := w.WriteJSON(agentproto.RecExit, agentproto.Exit{Signal: string(body)}); agentproto.CodeOf(err) != agentproto.CodeProtocol {
		t.Errorf("a JSON record over the limit: %v", err)
	}
}

func TestMalformedRecords(t *testing.T) {
	head := func(kind byte, n uint32) string {
		return string(binary.BigEndian.AppendUint32([]byte{kind}, n))
	}
	for _, tt := range []struct {
		name, data string
		code       string
		is         error
	}{
		{name: "type zero", data: head(0, 0), code: agentproto.CodeProtocol},
		{name: "unknown type", data: head(10, 0), code: agentproto.CodeProtocol},
		{name: "length 2^32-1", data: head(4, 1<<32-1), code: agentproto.CodeProtocol},
		{name: "one over the limit", data: head(4, agentproto.MaxRecord+1), code: agentproto.CodeProtocol},
		{name: "cut in the head", data: head(4, 3)[:3], is: io.ErrUnexpectedEOF},
		{name: "cut after the head", data: head(4, 3), is: io.ErrUnexpectedEOF},
		{name: "cut in the body", data: head(4, 3) + "ab", is: io.ErrUnexpectedEOF},
		{name: "a good one before", data: head(4, 1) + "a" + head(99, 0), code: agentproto.CodeProtocol},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := readAll(strings.NewReader(tt.data))
			if agentproto.CodeOf(err) != tt.code || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v", err)
			}
		})
	}
}

// Whatever comes, the reader neither panics nor allocates more than a record, and what it
// accepts is exactly what was sent.
func FuzzRecordReader(f *testing.F) {
	f.Add([]byte{4, 0, 0, 0, 1, 'x'})
	f.Add([]byte{8, 0, 0, 0, 2, '{', '}', 9, 0, 0, 0, 0})
	f.Add([]byte{4, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := readAll(bytes.NewReader(data))
		var buf bytes.Buffer
		w := agentproto.NewRecordWriter(&buf)
		for _, r := range got {
			if r.Type == 0 || r.Type > agentproto.RecCredit || len(r.Body) > agentproto.MaxRecord {
				t.Fatalf("record of type %d, %d bytes", r.Type, len(r.Body))
			}
			var v agentproto.Exit
			_ = agentproto.Decode([]byte(r.Body), &v)
			if err := w.Write(r.Type, []byte(r.Body)); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(data, buf.Bytes()) || err == nil && len(data) != buf.Len() {
			t.Fatalf("%x became %x (%v)", data, buf.Bytes(), err)
		}
	})
}

func BenchmarkRecords(b *testing.B) {
	pr, pw := io.Pipe()
	go func() {
		w := agentproto.NewRecordWriter(pw)
		body := make([]byte, 64<<10)
		for w.Write(agentproto.RecStdout, body) == nil {
		}
	}()
	r := agentproto.NewRecordReader(pr)
	b.SetBytes(64 << 10)
	for b.Loop() {
		if _, _, err := r.Next(); err != nil {
			b.Fatal(err)
		}
	}
	pr.Close()
}
