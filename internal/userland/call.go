package userland

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// bufSize is the size in bytes of the buffers that data streams through.
const bufSize = 256 << 10

// call is one run of one command.
type call struct {
	ctx   context.Context
	cmd   command
	name  string
	args  []string // without the name
	dir   string
	env   []string
	in    io.Reader
	out   *output
	err   io.Writer
	self  string
	tty   bool
	stdio Stdio // as given, for child processes
	// trouble is the status for wrong options: 1, or 2 for commands where 1 is an answer.
	trouble int
}

func newCall(ctx context.Context, cmd command, argv []string, p process) *call {
	c := &call{
		ctx: ctx, cmd: cmd, name: filepath.Base(argv[0]), args: argv[1:],
		dir: p.dir, env: p.env, self: p.self, tty: p.tty, stdio: p.stdio,
		in: p.stdio.In, err: p.stdio.Err, trouble: exitFailure,
	}
	if isNilFile(c.in) || c.in == nil {
		c.in = strings.NewReader("")
	}
	if c.err == nil {
		c.err = io.Discard
	}
	out := p.stdio.Out
	if out == nil {
		out = io.Discard
	}
	c.out = &output{ctx: ctx, w: out}
	if ctx.Done() != nil {
		c.in = &input{ctx: ctx, r: c.in}
	}
	return c
}

// isNilFile reports a nil *os.File inside a non-nil interface, which is how the
// shell hands on a closed standard input.
func isNilFile(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && f == nil
}

// process gives what a command started by this one inherits.
func (c *call) process() process {
	return process{dir: c.dir, env: c.env, stdio: c.stdio, self: c.self, tty: c.tty}
}

// input is a reader that fails once the context has ended.
type input struct {
	ctx context.Context
	r   io.Reader
}

func (i *input) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(p)
}

// output is standard output: it remembers the first error, after which nothing
// more is written, and is buffered when a command asks for that.
type output struct {
	ctx context.Context
	w   io.Writer
	buf *bufio.Writer
	err error
}

func (o *output) Write(p []byte) (int, error) {
	if o.err == nil {
		o.err = o.ctx.Err()
	}
	if o.err != nil {
		return 0, o.err
	}
	var n int
	if o.buf != nil {
		n, o.err = o.buf.Write(p)
	} else {
		n, o.err = o.w.Write(p)
	}
	return n, o.err
}

// WriteString makes io.WriteString free of a copy when buffered.
func (o *output) WriteString(s string) (int, error) {
	if o.buf == nil || o.err != nil || o.ctx.Err() != nil {
		return o.Write([]byte(s))
	}
	var n int
	n, o.err = o.buf.WriteString(s)
	return n, o.err
}

// WriteByte writes one byte.
func (o *output) WriteByte(b byte) error {
	_, err := o.Write([]byte{b})
	return err
}

// buffered makes writes collect until finish, Flush or a full buffer.
func (o *output) buffered() {
	if o.buf == nil {
		o.buf = bufio.NewWriterSize(o.w, 64<<10)
	}
}

// Flush writes out what is buffered and returns the first error so far.
func (o *output) Flush() error {
	if o.buf != nil && o.err == nil {
		o.err = o.buf.Flush()
	}
	return o.err
}

// stopped reports whether going on is pointless: the caller gave up or nobody
// reads the output any more.
func (c *call) stopped() bool { return c.out.err != nil || c.ctx.Err() != nil }

// printf formats to standard output; the error is kept for finish.
func (c *call) printf(format string, a ...any) { fmt.Fprintf(c.out, format, a...) }

// errorf prints "name: message".
func (c *call) errorf(format string, a ...any) int {
	c.out.Flush()
	fmt.Fprintf(c.err, "%s: %s\n", c.name, fmt.Sprintf(format, a...))
	return exitFailure
}

// fail prints "name: path: reason" and returns 1. What comes from a closed
// output or an ended context is not the path's fault and stays silent: finish
// reports it.
func (c *call) fail(path string, err error) int {
	if c.out.err == nil && c.ctx.Err() == nil {
		c.errorf("%s: %s", path, reason(err))
	}
	return exitFailure
}

// usageError prints why the arguments are wrong and returns the status for that.
func (c *call) usageError(format string, a ...any) int {
	c.errorf(format, a...)
	fmt.Fprintf(c.err, "usage: %s %s\n", c.name, c.cmd.usage)
	return c.trouble
}

// reason gives the bare cause of an error the way C programs print it.
func reason(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errnoText(errno)
	}
	var path *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "No such file or directory"
	case errors.As(err, &path):
		return path.Err.Error()
	}
	return err.Error()
}

// errnoText is the C library's capitalised form of Go's message.
func errnoText(e syscall.Errno) string {
	s := e.Error()
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func isBrokenPipe(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe)
}

// path makes a path of the command line usable from any working directory.
func (c *call) path(p string) string {
	if p == "" || c.dir == "" || strings.HasPrefix(p, "/") {
		return p
	}
	// Not filepath.Join: "dir/link/.." and "name/" mean something to the kernel.
	if strings.HasSuffix(c.dir, "/") {
		return c.dir + p
	}
	return c.dir + "/" + p
}

// getenv returns the last value of a variable, or "".
func (c *call) getenv(name string) string { return envGet(c.env, name) }

func envGet(env []string, name string) string {
	for _, e := range slices.Backward(env) {
		if k, v, ok := strings.Cut(e, "="); ok && k == name {
			return v
		}
	}
	return ""
}

// envSet returns env with the variable set once.
func envSet(env []string, name, value string) []string {
	out := make([]string, 0, len(env)+1)
	for _, e := range env {
		if k, _, _ := strings.Cut(e, "="); k != name {
			out = append(out, e)
		}
	}
	return append(out, name+"="+value)
}

// open opens an operand for reading; "-" is standard input. A directory is an
// error here and not at the first read.
func (c *call) open(name string) (io.ReadCloser, error) {
	if name == "-" {
		return keepOpen{c.in}, nil
	}
	f, err := os.Open(c.path(name))
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err == nil && st.IsDir() {
		f.Close()
		return nil, syscall.EISDIR
	}
	return f, nil
}

// eachInput runs do on every operand, or on standard input when there is none,
// and returns 1 if any failed.
func (c *call) eachInput(names []string, do func(name string, r io.Reader) error) int {
	if len(names) == 0 {
		names = []string{"-"}
	}
	status := exitOK
	for _, name := range names {
		if c.stopped() {
			return exitFailure
		}
		r, err := c.open(name)
		if err == nil {
			err = do(name, r)
			r.Close()
		}
		if err != nil {
			status = c.fail(name, err)
		}
	}
	return status
}

// redirect sends standard output to a file for the rest of the command (sort
// -o). The returned function completes the file and returns the status.
func (c *call) redirect(name string) (done func(status int) int, err error) {
	f, err := os.Create(c.path(name))
	if err != nil {
		return nil, err
	}
	before := c.out
	c.out = &output{ctx: c.ctx, w: f}
	c.out.buffered()
	return func(status int) int {
		err := c.out.Flush()
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		c.out = before
		if err != nil {
			c.fail(name, err)
			return max(status, c.trouble)
		}
		return status
	}, nil
}

// keepOpen is standard input as an operand: closing it does nothing.
type keepOpen struct{ io.Reader }

func (keepOpen) Close() error { return nil }

// plainReader takes off the layers that this package put around a reader.
func plainReader(r io.Reader) io.Reader {
	if k, ok := r.(keepOpen); ok {
		r = k.Reader
	}
	if in, ok := r.(*input); ok {
		r = in.r
	}
	return r
}

// regular returns v as a file if it is a regular one.
func regular(v any) (*os.File, bool) {
	f, ok := v.(*os.File)
	if !ok || f == nil {
		return nil, false
	}
	st, err := f.Stat()
	return f, err == nil && st.Mode().IsRegular()
}

// copyData streams r to w through one large buffer until the end or until ctx
// is done. From one regular file to another the kernel copies.
func (c *call) copyData(w io.Writer, r io.Reader) (int64, error) {
	if src, ok := regular(plainReader(r)); ok {
		target := any(w)
		if o, ok := w.(*output); ok && o.buf == nil {
			target = o.w
		}
		if dst, ok := regular(target); ok {
			return copyFiles(c.ctx, dst, src)
		}
	}
	return copyBuffer(c.ctx, w, r)
}

// copyFiles copies in steps, between which it looks at ctx.
func copyFiles(ctx context.Context, dst, src *os.File) (int64, error) {
	const step = 64 << 20
	var total int64
	for {
		n, err := io.CopyN(dst, src, step)
		total += n
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return total, err
		}
	}
}

func copyBuffer(ctx context.Context, w io.Writer, r io.Reader) (int64, error) {
	buf := make([]byte, bufSize)
	var total int64
	for {
		n, err := r.Read(buf)
		if n > 0 {
			m, werr := w.Write(buf[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return total, err
		}
	}
}
