package userland

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

func runBasename(c *call) int {
	o, args, ok := c.parse("+as:z", longOptions{"multiple": 'a', "suffix": 's', "zero": 'z'})
	if !ok {
		return exitFailure
	}
	suffix, hasSuffix := o.get('s')
	switch {
	case len(args) == 0:
		return c.usageError("missing operand")
	case o.has('a') || hasSuffix:
	case len(args) > 2:
		return c.usageError("extra operand '%s'", args[2])
	case len(args) == 2:
		suffix, args = args[1], args[:1]
	}
	end := "\n"
	if o.has('z') {
		end = "\x00"
	}
	for _, arg := range args {
		name := ""
		if arg != "" {
			name = path.Base(arg)
		}
		if name != suffix {
			name = strings.TrimSuffix(name, suffix)
		}
		c.out.WriteString(name + end)
	}
	return exitOK
}

func runDirname(c *call) int {
	o, args, ok := c.parse("+z", longOptions{"zero": 'z'})
	if !ok {
		return exitFailure
	}
	if len(args) == 0 {
		return c.usageError("missing operand")
	}
	end := "\n"
	if o.has('z') {
		end = "\x00"
	}
	for _, arg := range args {
		c.out.WriteString(dirname(arg) + end)
	}
	return exitOK
}

// dirname is POSIX's: textual, without cleaning the path.
func dirname(p string) string {
	trimmed := strings.TrimRight(p, "/")
	if trimmed == "" {
		if p == "" {
			return "."
		}
		return "/"
	}
	i := strings.LastIndexByte(trimmed, '/')
	if i < 0 {
		return "."
	}
	if d := strings.TrimRight(trimmed[:i], "/"); d != "" {
		return d
	}
	return "/"
}

func runPwd(c *call) int {
	o, _, ok := c.parse("LP", nil)
	if !ok {
		return exitFailure
	}
	dir := c.absolute(".")
	dir = strings.TrimSuffix(dir, "/.")
	if logical := c.getenv("PWD"); o.last('L', 'P') == 'L' && path.IsAbs(logical) && filepath.Clean(logical) == logical {
		a, err1 := os.Stat(logical)
		b, err2 := os.Stat(dir)
		if err1 == nil && err2 == nil && os.SameFile(a, b) {
			c.printf("%s\n", logical)
			return exitOK
		}
	}
	real, err := canonical(dir, canonExisting)
	if err != nil {
		return c.errorf("%s", reason(err))
	}
	c.printf("%s\n", real)
	return exitOK
}

func runYes(c *call) int {
	line := "y\n"
	if len(c.args) > 0 {
		line = strings.Join(c.args, " ") + "\n"
	}
	block := []byte(strings.Repeat(line, max(1, (64<<10)/len(line))))
	for {
		if _, err := c.out.Write(block); err != nil {
			return exitFailure
		}
	}
}

func runTee(c *call) int {
	o, names, ok := c.parse("aip", longOptions{"append": 'a', "ignore-interrupts": 'i'})
	if !ok {
		return exitFailure
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if o.has('a') {
		flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	}
	status := exitOK
	sinks := map[string]io.Writer{}
	order := []string{""}
	sinks[""] = c.out
	for _, name := range names {
		if _, twice := sinks[name]; twice {
			continue
		}
		f, err := os.OpenFile(c.path(name), flags, 0o666)
		if err != nil {
			status = c.fail(name, err)
			continue
		}
		defer f.Close()
		sinks[name] = f
		order = append(order, name)
	}
	buf := make([]byte, bufSize)
	for len(sinks) > 0 {
		n, err := c.in.Read(buf)
		for _, name := range order {
			w, open := sinks[name]
			if !open || n == 0 {
				continue
			}
			if _, werr := w.Write(buf[:n]); werr != nil {
				if name == "" {
					return exitFailure // as SIGPIPE would end it
				}
				status = c.fail(name, werr)
				delete(sinks, name)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return c.fail("read error", err)
		}
	}
	return status
}

func runSeq(c *call) int {
	// "-5" is a number here, not an option.
	args, format, sep, equal := c.args, "", "\n", false
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		if _, err := strconv.ParseFloat(args[0], 64); err == nil {
			break
		}
		var value string
		switch flag := args[0]; {
		case flag == "--":
			args = args[1:]
		case flag == "-w" || flag == "--equal-width":
			equal = true
		case strings.HasPrefix(flag, "-s") || strings.HasPrefix(flag, "-f"):
			if value = flag[2:]; value == "" {
				if len(args) < 2 {
					return c.usageError("option requires an argument -- '%s'", flag[1:])
				}
				value, args = args[1], args[1:]
			}
			if flag[1] == 's' {
				sep = value
			} else {
				format = value
			}
		default:
			return c.usageError("invalid option -- '%s'", strings.TrimLeft(flag, "-"))
		}
		args = args[1:]
	}
	if len(args) == 0 || len(args) > 3 {
		return c.usageError("missing or extra operand")
	}
	precision := 0
	v := [3]float64{1, 1, 1} // first, step, last
	place := map[int][]int{1: {2}, 2: {0, 2}, 3: {0, 1, 2}}[len(args)]
	for i, arg := range args {
		n, err := strconv.ParseFloat(arg, 64)
		if err != nil || math.IsNaN(n) {
			return c.errorf("invalid floating point argument: '%s'", arg)
		}
		v[place[i]] = n
		if _, frac, ok := strings.Cut(arg, "."); ok && place[i] != 2 {
			precision = max(precision, len(frac))
		}
	}
	if v[1] == 0 {
		return c.errorf("invalid Zero increment value: '0'")
	}
	c.out.buffered()
	c.sequence(v, precision, format, sep, equal)
	return exitOK
}

func (c *call) sequence(v [3]float64, precision int, format, sep string, equal bool) {
	width := 0
	if equal {
		for _, n := range []float64{v[0], v[2]} {
			width = max(width, len(strconv.FormatFloat(n, 'f', precision, 64)))
		}
	}
	steps := math.Floor((v[2]-v[0])/v[1] + 1e-9)
	for i := 0.0; i <= steps && !c.stopped(); i++ {
		n := v[0] + i*v[1]
		text := strconv.FormatFloat(n, 'f', precision, 64)
		switch {
		case format != "":
			p := &printfState{c: c, args: []string{strconv.FormatFloat(n, 'g', -1, 64)}}
			if err := p.pass(format); err != nil {
				c.errorf("%s", err)
				return
			}
			text = p.out.String()
		case len(text) < width:
			sign := strings.HasPrefix(text, "-")
			text = strings.Repeat("0", width-len(text)) + strings.TrimPrefix(text, "-")
			if sign {
				text = "-" + text
			}
		}
		if i > 0 {
			c.out.WriteString(sep)
		}
		c.out.WriteString(text)
	}
	if steps >= 0 {
		c.out.WriteString("\n")
	}
}

func runBase64(c *call) int {
	o, names, ok := c.parse("diw:", longOptions{"decode": 'd', "ignore-garbage": 'i', "wrap": 'w'})
	if !ok {
		return exitFailure
	}
	wrap := 76
	if text, ok := o.get('w'); ok {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return c.errorf("invalid wrap size: '%s'", text)
		}
		wrap = n
	}
	if len(names) > 1 {
		return c.usageError("extra operand '%s'", names[1])
	}
	c.out.buffered()
	return c.eachInput(names, func(_ string, r io.Reader) error {
		if o.has('d') {
			_, err := copyBuffer(c.ctx, c.out, base64.NewDecoder(base64.StdEncoding, &base64Filter{r: r, garbage: o.has('i')}))
			if err != nil && c.out.err == nil {
				return errors.New("invalid input")
			}
			return err
		}
		w := &wrapWriter{w: c.out, width: wrap}
		enc := base64.NewEncoder(base64.StdEncoding, w)
		if _, err := copyBuffer(c.ctx, enc, r); err != nil {
			return err
		}
		if err := enc.Close(); err != nil {
			return err
		}
		if wrap > 0 && w.column > 0 {
			return c.out.WriteByte('\n')
		}
		return nil
	})
}

// base64Filter drops what does not belong to the data.
type base64Filter struct {
	r       io.Reader
	garbage bool
}

func (f *base64Filter) Read(p []byte) (int, error) {
	for {
		n, err := f.r.Read(p)
		out := p[:0]
		for _, b := range p[:n] {
			alphabet := b >= '0' && b <= '9' || b|0x20 >= 'a' && b|0x20 <= 'z' || b == '+' || b == '/' || b == '='
			if b != '\n' && (alphabet || !f.garbage) {
				out = append(out, b)
			}
		}
		if len(out) > 0 || err != nil {
			return len(out), err
		}
	}
}

// wrapWriter breaks lines after width bytes; 0 never.
type wrapWriter struct {
	w             *output
	width, column int
}

func (w *wrapWriter) Write(p []byte) (int, error) {
	if w.width == 0 {
		return w.w.Write(p)
	}
	total := len(p)
	for len(p) > 0 {
		n := min(len(p), w.width-w.column)
		if _, err := w.w.Write(p[:n]); err != nil {
			return 0, err
		}
		p = p[n:]
		if w.column += n; w.column == w.width {
			w.column = 0
			if err := w.w.WriteByte('\n'); err != nil {
				return 0, err
			}
		}
	}
	return total, nil
}

// runTac and runRev turn lines and characters around.
func runTac(c *call) int {
	_, names, ok := c.parse("", nil)
	if !ok {
		return exitFailure
	}
	c.out.buffered()
	return c.eachInput(names, func(_ string, r io.Reader) error {
		data, err := io.ReadAll(io.LimitReader(r, maxHeld+1))
		if err != nil {
			return err
		}
		if len(data) > maxHeld {
			return errTooLarge
		}
		for end := len(data); end > 0; {
			start := bytes.LastIndexByte(data[:end-1], '\n') + 1
			c.out.Write(data[start:end])
			end = start
		}
		return nil
	})
}

func runRev(c *call) int {
	_, names, ok := c.parse("", nil)
	if !ok {
		return exitFailure
	}
	c.out.buffered()
	return c.eachLine(names, '\n', func(line []byte) {
		r := []rune(string(line))
		for i, j := 0, len(r)-1; i < j; i, j = i+1, j-1 {
			r[i], r[j] = r[j], r[i]
		}
		c.out.WriteString(string(r) + "\n")
	})
}

// runCmp compares two files byte by byte.
func runCmp(c *call) int {
	c.trouble = exitUsage
	o, names, ok := c.parse("slbn:i:", longOptions{"silent": 's', "quiet": 's', "verbose": 'l', "bytes": 'n'})
	if !ok {
		return exitUsage
	}
	if len(names) == 1 {
		names = append(names, "-")
	}
	if len(names) != 2 {
		return c.usageError("two files are needed")
	}
	var in [2]*bufio.Reader
	for i, name := range names {
		r, err := c.open(name)
		if err != nil {
			c.fail(name, err)
			return exitUsage
		}
		defer r.Close()
		in[i] = bufio.NewReaderSize(r, bufSize)
	}
	limit := int64(math.MaxInt64)
	if text, ok := o.get('n'); ok {
		n, ok := parseCount(text)
		if !ok {
			return c.usageError("invalid number '%s'", text)
		}
		limit = n
	}
	status, line := exitOK, int64(1)
	for at := int64(1); at <= limit && !c.stopped(); at++ {
		a, err1 := in[0].ReadByte()
		b, err2 := in[1].ReadByte()
		switch {
		case err1 != nil && err2 != nil:
			return status
		case err1 != nil || err2 != nil:
			if !o.has('s') {
				short := names[boolInt(err1 == nil)]
				fmt.Fprintf(c.err, "cmp: EOF on %s after byte %d\n", short, at-1)
			}
			return exitFailure
		case a != b && o.has('l'):
			c.printf("%d %3o %3o\n", at, a, b)
			status = exitFailure
		case a != b:
			if !o.has('s') {
				c.printf("%s %s differ: char %d, line %d\n", names[0], names[1], at, line)
			}
			return exitFailure
		}
		if a == '\n' {
			line++
		}
	}
	return status
}
