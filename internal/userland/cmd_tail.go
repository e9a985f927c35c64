package userland

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"time"
)

// tailer is one run of tail.
type tailer struct {
	c         *call
	bytes     bool
	fromStart bool
	count     int64
	delim     byte
	header    func(string)
}

func runTail(c *call) int {
	c.obsoleteCount()
	o, names, ok := c.parse("n:c:fFqvzs:\x01:", longOptions{
		"lines": 'n', "bytes": 'c', "follow": 'f', "quiet": 'q', "silent": 'q', "verbose": 'v', "zero-terminated": 'z', "retry": 'F', "sleep-interval": 's', "pid": '\x01',
	})
	if !ok {
		return exitFailure
	}
	t := &tailer{c: c, count: 10, delim: '\n', header: c.headers(names, o)}
	if o.has('z') {
		t.delim = 0
	}
	if flag := o.last('n', 'c'); flag != 0 {
		text, _ := o.get(flag)
		t.bytes = flag == 'c'
		t.fromStart = strings.HasPrefix(text, "+")
		n, ok := parseCount(strings.TrimPrefix(strings.TrimPrefix(text, "+"), "-"))
		if !ok {
			return c.errorf("invalid number of %s: '%s'", map[rune]string{'n': "lines", 'c': "bytes"}[flag], text)
		}
		t.count = n
	}
	if len(names) == 0 {
		names = []string{"-"}
	}
	if o.has('f', 'F') {
		return t.follow(names, o.has('F'))
	}
	return c.eachInput(names, func(name string, r io.Reader) error {
		t.header(name)
		return t.print(r)
	})
}

func (t *tailer) print(r io.Reader) error {
	if t.fromStart {
		return t.skip(r)
	}
	if f, ok := regular(plainReader(r)); ok {
		return t.fromEnd(f)
	}
	return t.collect(r)
}

// skip prints from line or byte number count on.
func (t *tailer) skip(r io.Reader) error {
	if t.bytes {
		if _, err := copyBuffer(t.c.ctx, io.Discard, io.LimitReader(r, max(0, t.count-1))); err != nil {
			return err
		}
		_, err := t.c.copyData(t.c.out, r)
		return err
	}
	buf := make([]byte, bufSize)
	left := t.count - 1
	for {
		n, err := r.Read(buf)
		data := buf[:n]
		for left > 0 && len(data) > 0 {
			i := bytes.IndexByte(data, t.delim)
			if i < 0 {
				data = nil
				break
			}
			data = data[i+1:]
			left--
		}
		if _, werr := t.c.out.Write(data); werr != nil {
			return werr
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fromEnd finds the place in a file by reading it backwards.
func (t *tailer) fromEnd(f *os.File) error {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	pos := max(0, end-t.count)
	if !t.bytes {
		if pos, err = t.lineStart(f, end); err != nil {
			return err
		}
	}
	if _, err := f.Seek(pos, io.SeekStart); err != nil {
		return err
	}
	_, err = t.c.copyData(t.c.out, io.LimitReader(f, end-pos))
	return err
}

// lineStart gives the offset at which the last count lines begin.
func (t *tailer) lineStart(f *os.File, end int64) (int64, error) {
	buf := make([]byte, 64<<10)
	left := t.count
	if left == 0 {
		return end, nil
	}
	for pos := end; pos > 0; {
		n := min(pos, int64(len(buf)))
		pos -= n
		if _, err := f.ReadAt(buf[:n], pos); err != nil {
			return 0, err
		}
		data := buf[:n]
		if pos+n == end && data[n-1] == t.delim {
			data = data[:n-1] // the last line's own end does not begin another
		}
		for {
			i := bytes.LastIndexByte(data, t.delim)
			if i < 0 {
				break
			}
			if left--; left == 0 {
				return pos + int64(i) + 1, nil
			}
			data = data[:i]
		}
	}
	return 0, nil
}

// collect keeps the end of a stream in memory.
func (t *tailer) collect(r io.Reader) error {
	var store, held []byte // held is the end of store
	buf := make([]byte, bufSize)
	lines := int64(0)
	for {
		n, err := r.Read(buf)
		if len(store)+n > cap(store) && len(held) < len(store)/2 {
			store = store[:copy(store, held)] // reuse what has been dropped
			held = store
		}
		first := len(store) - len(held)
		store = append(store, buf[:n]...)
		held = store[first:]
		if t.bytes {
			if extra := int64(len(held)) - t.count; extra > 0 {
				held = held[extra:]
			}
		} else {
			lines += int64(bytes.Count(buf[:n], []byte{t.delim}))
			// One more than asked for: the last may be unfinished.
			for lines > t.count+1 {
				held = held[bytes.IndexByte(held, t.delim)+1:]
				lines--
			}
		}
		if int64(len(held)) > maxHeld {
			return errTooLarge
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if !t.bytes && len(held) > 0 {
		if held[len(held)-1] != t.delim {
			lines++
		}
		for ; lines > t.count; lines-- {
			held = held[bytes.IndexByte(held, t.delim)+1:]
		}
		if t.count == 0 {
			held = nil
		}
	}
	_, err := t.c.out.Write(held)
	return err
}

// followInterval is how often tail -f looks for growth. inotify would not see
// files of other kernels (9p, virtiofs), which matter in a guest.
const followInterval = 200 * time.Millisecond

// followed is one file of tail -f.
type followed struct {
	name string
	f    io.ReadCloser
	file *os.File // when it is a regular file
}

func (t *tailer) follow(names []string, retry bool) int {
	var list []*followed
	status := exitOK
	for _, name := range names {
		e := &followed{name: name}
		r, err := t.c.open(name)
		if err != nil {
			status = t.c.fail(name, err)
			if !retry {
				continue
			}
		} else {
			e.f = r
			e.file, _ = regular(plainReader(r))
			t.header(name)
			if err := t.print(r); err != nil {
				status = t.c.fail(name, err)
			}
		}
		if e.file != nil || retry {
			list = append(list, e)
		}
	}
	defer func() {
		for _, e := range list {
			if e.f != nil {
				e.f.Close()
			}
		}
	}()
	last := len(list) - 1
	for len(list) > 0 && t.c.out.Flush() == nil && t.c.pause(followInterval) {
		for i, e := range list {
			n, err := t.more(e, retry, i != last)
			if err != nil {
				return t.c.fail(e.name, err)
			}
			if n {
				last = i
			}
		}
	}
	if t.c.stopped() {
		return exitInterrupted
	}
	return status
}

// more prints what a file has got since; it reports whether that was anything.
func (t *tailer) more(e *followed, retry, header bool) (bool, error) {
	if retry {
		t.reopen(e)
	}
	if e.file == nil {
		return false, nil
	}
	st, err := e.file.Stat()
	if err != nil {
		return false, err
	}
	pos, err := e.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return false, err
	}
	if st.Size() < pos {
		t.c.errorf("%s: file truncated", e.name)
		if _, err := e.file.Seek(0, io.SeekStart); err != nil {
			return false, err
		}
	}
	if st.Size() == pos {
		return false, nil
	}
	if header {
		t.header(e.name)
	}
	n, err := t.c.copyData(t.c.out, e.file)
	return n > 0, err
}

// reopen looks whether another file has the name now (-F).
func (t *tailer) reopen(e *followed) {
	st, err := os.Stat(t.c.path(e.name))
	if err != nil || !st.Mode().IsRegular() {
		return
	}
	if e.file != nil {
		if old, err := e.file.Stat(); err == nil && os.SameFile(st, old) {
			return
		}
		e.f.Close()
		e.f, e.file = nil, nil
	}
	if f, err := os.Open(t.c.path(e.name)); err == nil {
		e.f, e.file = f, f
	}
}
