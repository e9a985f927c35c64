package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// memory is an image in memory, without the parts that nobody wrote.
type memory struct {
	blocks map[int64][]byte
	size   int64
}

const pageSize = 4096

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	for i := 0; i < len(p); {
		at := off + int64(i)
		if at >= m.size {
			return i, io.EOF
		}
		n := min(len(p)-i, int(pageSize-at%pageSize), int(m.size-at))
		if b := m.blocks[at/pageSize]; b != nil {
			copy(p[i:i+n], b[at%pageSize:])
		} else {
			clear(p[i : i+n])
		}
		i += n
	}
	return len(p), nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.size = max(m.size, off+int64(len(p)))
	for i := 0; i < len(p); {
		at := off + int64(i)
		b := m.blocks[at/pageSize]
		if b == nil {
			b = make([]byte, pageSize)
			m.blocks[at/pageSize] = b
		}
		i += copy(b[at%pageSize:], p[i:])
	}
	return len(p), nil
}

func (m *memory) Truncate(size int64) error {
	if size == 0 {
		m.blocks = map[int64][]byte{}
	}
	m.size = size
	return nil
}

// try applies layers to an image in memory.
func try(ctx context.Context, o Options, layers ...Layer) (*memory, Stats, error) {
	m := &memory{}
	w, err := disk.NewWriter(m, disk.Options{})
	if err != nil {
		return nil, Stats{}, err
	}
	stats, err := Apply(ctx, w, layers, o)
	if err == nil {
		err = w.Close()
	}
	return m, stats, err
}

func tryAll(t *testing.T, o Options, layers ...[]byte) error {
	t.Helper()
	var list []Layer
	for _, l := range layers {
		list = append(list, stored(l))
	}
	_, _, err := try(t.Context(), o, list...)
	return err
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want %s", code)
		return
	}
	e, ok := errors.AsType[*machine.Error](err)
	if !ok || e.Code != code {
		t.Errorf("error %q with code %q, want %s", err, machine.CodeOf(err), code)
		return
	}
	if e.Remedy == "" || strings.ContainsAny(e.Message, "\n\x1b\x00") || len(e.Message) > 600 {
		t.Errorf("not fit for people: %q, remedy %q", e.Message, e.Remedy)
	}
}

// raw makes a tar file whose first header has bytes changed and its checksum mended.
func raw(t *testing.T, i item, at int, p string) []byte {
	t.Helper()
	b := pack(t, i)
	copy(b[at:], p)
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}
