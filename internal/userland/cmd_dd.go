package userland

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// ddArgs are the operands of dd.
type ddArgs struct {
	in, out      string
	ibs, obs     int64
	count        int64 // blocks, or -1
	skip, seek   int64 // blocks
	conv         []string
	iflag, oflag []string
	status       string
}

// maxBlock bounds dd's buffer in bytes.
const maxBlock = 256 << 20

func (c *call) parseDD() (ddArgs, error) {
	a := ddArgs{ibs: 512, obs: 512, count: -1}
	for _, arg := range c.args {
		key, value, ok := strings.Cut(arg, "=")
		if !ok {
			return a, fmt.Errorf("unrecognized operand '%s'", arg)
		}
		var n int64
		switch key {
		case "bs", "ibs", "obs", "count", "skip", "seek":
			if n, ok = parseProduct(value); !ok {
				return a, fmt.Errorf("invalid number: '%s'", value)
			}
		}
		switch key {
		case "if":
			a.in = value
		case "of":
			a.out = value
		case "bs":
			a.ibs, a.obs = n, n
		case "ibs":
			a.ibs = n
		case "obs":
			a.obs = n
		case "count":
			a.count = n
		case "skip":
			a.skip = n
		case "seek":
			a.seek = n
		case "conv":
			a.conv = strings.Split(value, ",")
		case "iflag":
			a.iflag = strings.Split(value, ",")
		case "oflag":
			a.oflag = strings.Split(value, ",")
		case "status":
			a.status = value
		default:
			return a, fmt.Errorf("unrecognized operand '%s'", arg)
		}
	}
	if a.ibs < 1 || a.obs < 1 || a.ibs > maxBlock || a.obs > maxBlock {
		return a, fmt.Errorf("invalid number: block size must be 1 to %d", int64(maxBlock))
	}
	return a, a.check()
}

func (a ddArgs) check() error {
	for _, v := range a.conv {
		if !slices.Contains([]string{"notrunc", "noerror", "sync", "fsync", "fdatasync", "sparse", "excl", "nocreat"}, v) {
			return fmt.Errorf("invalid conversion: '%s'", v)
		}
	}
	for _, v := range slices.Concat(a.iflag, a.oflag) {
		if !slices.Contains([]string{"fullblock", "append", "direct", "sync", "dsync", "count_bytes", "skip_bytes", "seek_bytes", "nonblock"}, v) {
			return fmt.Errorf("invalid flag: '%s'", v)
		}
	}
	switch a.status {
	case "", "none", "noxfer", "progress":
		return nil
	}
	return fmt.Errorf("invalid status level: '%s'", a.status)
}

// parseProduct reads a count like 2x512 or 4k.
func parseProduct(s string) (int64, bool) {
	n := int64(1)
	for part := range strings.SplitSeq(s, "x") {
		v, ok := parseCount(part)
		if !ok {
			return 0, false
		}
		if n, ok = times(n, v); !ok {
			return 0, false
		}
	}
	return n, true
}

// ddCopy is one run of dd.
type ddCopy struct {
	a                ddArgs
	r                io.Reader
	w                io.Writer
	out              *os.File // when the output is a file of its own
	left             int64    // bytes to read, or -1
	full, part       int64
	outFull, outPart int64
	total            int64
}

func runDD(c *call) int {
	a, err := c.parseDD()
	if err != nil {
		return c.usageError("%s", err)
	}
	d := &ddCopy{a: a, r: c.in, w: c.out, left: -1}
	if a.in != "" {
		f, err := os.Open(c.path(a.in))
		if err != nil {
			return c.errorf("failed to open '%s': %s", a.in, reason(err))
		}
		defer f.Close()
		d.r = f
	}
	if a.out != "" {
		f, err := os.OpenFile(c.path(a.out), a.openFlags(), 0o666)
		if err != nil {
			return c.errorf("failed to open '%s': %s", a.out, reason(err))
		}
		defer f.Close()
		d.w, d.out = f, f
	}
	start := time.Now()
	status := exitOK
	if err := d.run(c); err != nil && !isBrokenPipe(err) && c.ctx.Err() == nil {
		name := a.in
		var pe *os.PathError
		if errors.As(err, &pe) && d.out != nil && pe.Path == d.out.Name() {
			name = a.out
		}
		if name == "" {
			name = "standard input"
		}
		c.errorf("error at '%s': %s", name, reason(err))
		status = exitFailure
	}
	d.report(c, time.Since(start))
	return status
}

func (a ddArgs) openFlags() int {
	flags := os.O_WRONLY
	if !slices.Contains(a.conv, "nocreat") {
		flags |= os.O_CREATE
	}
	if slices.Contains(a.conv, "excl") {
		flags |= os.O_EXCL
	}
	if slices.Contains(a.oflag, "append") {
		flags |= os.O_APPEND
	}
	if slices.Contains(a.oflag, "sync") || slices.Contains(a.oflag, "dsync") {
		flags |= os.O_SYNC
	}
	if a.seek == 0 && !slices.Contains(a.conv, "notrunc") {
		flags |= os.O_TRUNC
	}
	return flags
}

func (d *ddCopy) run(c *call) error {
	if err := d.position(c); err != nil {
		return err
	}
	if d.a.count >= 0 {
		d.left = d.a.count
		if !slices.Contains(d.a.iflag, "count_bytes") {
			d.left = -1
		}
	}
	if err := d.blocks(c); err != nil {
		return err
	}
	if d.out != nil && (slices.Contains(d.a.conv, "fsync") || slices.Contains(d.a.conv, "fdatasync")) {
		return d.out.Sync()
	}
	return nil
}

// position does skip= and seek=.
func (d *ddCopy) position(c *call) error {
	skip, seek := d.a.skip*d.a.ibs, d.a.seek*d.a.obs
	if slices.Contains(d.a.iflag, "skip_bytes") {
		skip = d.a.skip
	}
	if slices.Contains(d.a.oflag, "seek_bytes") {
		seek = d.a.seek
	}
	if skip > 0 {
		s, ok := plainReader(d.r).(io.Seeker)
		if ok {
			_, err := s.Seek(skip, io.SeekCurrent)
			ok = err == nil
		}
		if !ok {
			if _, err := copyBuffer(c.ctx, io.Discard, io.LimitReader(d.r, skip)); err != nil {
				return err
			}
		}
	}
	if seek > 0 {
		f := d.out
		if f == nil {
			f, _ = c.stdio.Out.(*os.File)
		}
		if f == nil {
			return errors.New("cannot seek")
		}
		if d.out != nil && !slices.Contains(d.a.conv, "notrunc") {
			if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
				if err := f.Truncate(seek); err != nil {
					return err
				}
			}
		}
		if _, err := f.Seek(seek, io.SeekCurrent); err != nil {
			return err
		}
	}
	return nil
}

// blocks copies block by block. With bs= each block is written as it was read;
// with a different obs= the data is regrouped.
func (d *ddCopy) blocks(c *call) error {
	buf := make([]byte, d.a.ibs)
	var pending []byte
	for !c.stopped() {
		if d.left < 0 && d.a.count >= 0 && d.full+d.part >= d.a.count || d.left == 0 {
			break
		}
		block := buf
		if d.left > 0 && d.left < int64(len(block)) {
			block = block[:d.left]
		}
		n, err := d.read(block)
		if n > 0 {
			if int64(n) == d.a.ibs {
				d.full++
			} else {
				d.part++
				if slices.Contains(d.a.conv, "sync") {
					clear(buf[n:])
					n = len(buf)
				}
			}
			if d.left > 0 {
				d.left -= int64(n)
			}
			if d.a.ibs == d.a.obs {
				err2 := d.write(buf[:n])
				if err2 != nil {
					return err2
				}
			} else {
				pending = append(pending, buf[:n]...)
				for int64(len(pending)) >= d.a.obs {
					if err := d.write(pending[:d.a.obs]); err != nil {
						return err
					}
					pending = pending[:copy(pending, pending[d.a.obs:])]
				}
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			if !slices.Contains(d.a.conv, "noerror") {
				return err
			}
			c.errorf("error reading '%s': %s", d.a.in, reason(err))
			if s, ok := plainReader(d.r).(io.Seeker); !ok {
				return err
			} else if _, serr := s.Seek(d.a.ibs, io.SeekCurrent); serr != nil {
				return err
			}
		}
	}
	if len(pending) > 0 {
		return d.write(pending)
	}
	return c.ctx.Err()
}

func (d *ddCopy) read(block []byte) (int, error) {
	if slices.Contains(d.a.iflag, "fullblock") {
		return io.ReadFull(d.r, block)
	}
	return d.r.Read(block)
}

func (d *ddCopy) write(p []byte) error {
	var n int
	var err error
	if d.out != nil && slices.Contains(d.a.conv, "sparse") && allZero(p) {
		// The hole at the very end is made by Truncate below.
		var at int64
		if at, err = d.out.Seek(int64(len(p)), io.SeekCurrent); err == nil {
			err = growTo(d.out, at)
		}
		n = len(p)
	} else {
		n, err = d.w.Write(p)
	}
	d.total += int64(n)
	if int64(n) == d.a.obs {
		d.outFull++
	} else if n > 0 {
		d.outPart++
	}
	return err
}

func growTo(f *os.File, size int64) error {
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Size() >= size {
		return err
	}
	return f.Truncate(size)
}

func allZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

func (d *ddCopy) report(c *call, took time.Duration) {
	if d.a.status == "none" {
		return
	}
	fmt.Fprintf(c.err, "%d+%d records in\n%d+%d records out\n", d.full, d.part, d.outFull, d.outPart)
	if d.a.status == "noxfer" {
		return
	}
	seconds := max(took.Seconds(), 1e-9)
	text := fmt.Sprintf("%d bytes", d.total)
	if d.total == 1 {
		text = "1 byte"
	}
	if d.total >= 1000 {
		text += fmt.Sprintf(" (%s, %s)", siSize(float64(d.total), 1000), siSize(float64(d.total), 1024))
	}
	fmt.Fprintf(c.err, "%s copied, %.6g s, %s/s\n", text, seconds, siSize(float64(d.total)/seconds, 1000))
}

// siSize shows bytes in dd's style, in powers of 1000 or 1024.
func siSize(v, base float64) string {
	unit := 0
	for v >= base && unit < 6 {
		v /= base
		unit++
	}
	name := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}[unit]
	if base == 1024 {
		name = []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}[unit]
	}
	if v < 10 && unit > 0 {
		return fmt.Sprintf("%.1f %s", v, name)
	}
	return fmt.Sprintf("%.0f %s", v, name)
}
