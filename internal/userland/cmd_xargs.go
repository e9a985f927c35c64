package userland

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// argRun is one run of xargs.
type argRun struct {
	c                *call
	argv             []string
	replace          string
	maxArgs, maxLine int
	maxBytes         int
	trace, noEmpty   bool
	status           int
	ran              bool
}

func runXargs(c *call) int {
	o, args, ok := c.parse("+0n:L:I:i::rtpP:s:d:E:xa:", longOptions{
		"null": '0', "max-args": 'n', "max-lines": 'L', "replace": 'i', "no-run-if-empty": 'r', "verbose": 't', "interactive": 'p',
		"max-procs": 'P', "max-chars": 's', "delimiter": 'd', "arg-file": 'a', "exit": 'x',
	})
	if !ok {
		return exitFailure
	}
	if len(args) == 0 {
		args = []string{"echo"}
	}
	x := &argRun{c: c, argv: args, maxBytes: maxBatch, trace: o.has('t', 'p'), noEmpty: o.has('r')}
	for _, opt := range o {
		switch opt.flag {
		case 'n', 'L', 's', 'P':
			n, err := strconv.Atoi(opt.value)
			if err != nil || n < 0 || (n == 0 && opt.flag != 'P') {
				return c.errorf("invalid number \"%s\" for -%c option", opt.value, opt.flag)
			}
			switch opt.flag {
			case 'n':
				x.maxArgs = n
			case 'L':
				x.maxLine = n
			case 's':
				x.maxBytes = min(n, maxBatch)
			}
		case 'I':
			x.replace = opt.value
		case 'i':
			if x.replace = opt.value; x.replace == "" {
				x.replace = "{}"
			}
		}
	}
	var in io.Reader = c.in
	if name, ok := o.get('a'); ok {
		f, err := c.open(name)
		if err != nil {
			return c.fail(name, err)
		}
		defer f.Close()
		in = f
	}
	delim := -1
	if d, ok := o.get('d'); ok {
		text, _ := unescape(d, escapePrintf)
		if len(text) != 1 {
			return c.errorf("invalid input delimiter specification %s", d)
		}
		delim = int(text[0])
	}
	if o.has('0') {
		delim = 0
	}
	if err := x.read(bufio.NewReaderSize(in, bufSize), delim); err != nil {
		return c.errorf("%s", reason(err))
	}
	return x.status
}

// read splits the input and runs the command as the groups fill.
func (x *argRun) read(in *bufio.Reader, delim int) error {
	var group []string
	size, lines := 0, 0
	run := func() {
		if len(group) > 0 {
			x.run(group)
		}
		group, size, lines = nil, 0, 0
	}
	for x.status < 124 && !x.c.stopped() {
		word, endOfLine, err := x.word(in, delim)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if x.replace != "" {
			x.run([]string{word})
			continue
		}
		if size+len(word)+9 > x.maxBytes && len(group) > 0 {
			run()
		}
		group = append(group, word)
		size += len(word) + 9
		lines += boolInt(endOfLine)
		if (x.maxArgs > 0 && len(group) >= x.maxArgs) || (x.maxLine > 0 && lines >= x.maxLine) || len(group) >= 4096 {
			run()
		}
	}
	if x.status >= 124 {
		return nil
	}
	run()
	if !x.ran && !x.noEmpty && x.replace == "" {
		x.run(nil)
	}
	return nil
}

var errQuote = errors.New("unmatched quote; by default quotes are special to xargs unless you use the -0 option")

// word reads one argument. Without a delimiter blanks separate, and quotes and
// backslashes protect; with -I a whole line is one argument.
func (x *argRun) word(in *bufio.Reader, delim int) (word string, endOfLine bool, err error) {
	if delim >= 0 {
		text, err := in.ReadString(byte(delim))
		if err != nil && text == "" {
			return "", false, err
		}
		return strings.TrimSuffix(text, string([]byte{byte(delim)})), true, nil
	}
	var b strings.Builder
	started, quote := false, byte(0)
	for {
		ch, err := in.ReadByte()
		if err != nil {
			switch {
			case quote != 0:
				return "", false, errQuote
			case started && errors.Is(err, io.EOF):
				return b.String(), true, nil
			}
			return "", false, err
		}
		switch {
		case quote != 0:
			if ch == '\n' {
				return "", false, errQuote
			}
			if ch == quote {
				quote = 0
			} else {
				b.WriteByte(ch)
			}
		case ch == '\'' || ch == '"':
			quote, started = ch, true
		case ch == '\\':
			if ch, err = in.ReadByte(); err == nil {
				b.WriteByte(ch)
				started = true
			}
		case ch == '\n':
			if started {
				return b.String(), true, nil
			}
		case ch == ' ' || ch == '\t':
			if x.replace != "" && started {
				b.WriteByte(ch)
			} else if started {
				return b.String(), false, nil
			}
		default:
			b.WriteByte(ch)
			started = true
		}
	}
}

func (x *argRun) run(words []string) {
	argv := slices.Clone(x.argv)
	if x.replace != "" {
		for i := range argv {
			argv[i] = strings.ReplaceAll(argv[i], x.replace, words[0])
		}
	} else {
		argv = append(argv, words...)
	}
	if x.trace {
		fmt.Fprintln(x.c.err, strings.Join(argv, " "))
	}
	x.ran = true
	p := x.c.process()
	p.stdio.In = nil
	status := x.c.runChild(x.c.ctx, argv, p, start{})
	switch { // the statuses of POSIX xargs
	case status == exitOK:
	case status == exitNotFound || status == exitCannotExec:
		x.status = status
	case status == 255:
		x.c.errorf("%s: exited with status 255; aborting", argv[0])
		x.status = 124
	case status > 128:
		x.c.errorf("%s: terminated by signal %d", argv[0], status-128)
		x.status = 125
	default:
		x.status = 123
	}
}
