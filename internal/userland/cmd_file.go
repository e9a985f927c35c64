package userland

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func fileCommands() []command {
	return []command{
		{name: "ls", usage: "[-aAlhd1RFpStrinsgoLcu] [FILE]...", run: runLS, quick: true},
		{name: "dd", usage: "[if=FILE] [of=FILE] [bs=N] [count=N] [skip=N] [seek=N] [conv=LIST] [status=LEVEL]", run: runDD},
		{name: "cp", usage: "[-rRaApdPLHfinuvlsT] [-t DIR] SOURCE... DEST", run: runCP},
		{name: "mv", usage: "[-finuvT] [-t DIR] SOURCE... DEST", run: runMV},
		{name: "rm", usage: "[-rRfivd] FILE...", run: runRM},
		{name: "rmdir", usage: "[-pv] DIR...", run: runRmdir, quick: true},
		{name: "mkdir", usage: "[-pv] [-m MODE] DIR...", run: runMkdir, quick: true},
		{name: "mktemp", usage: "[-dqut] [-p DIR] [--suffix=S] [TEMPLATE]", run: runMktemp, quick: true},
		{name: "mkfifo", usage: "[-m MODE] NAME...", run: runMkfifo, quick: true},
		{name: "touch", usage: "[-acmh] [-d DATE] [-r FILE] [-t STAMP] FILE...", run: runTouch, quick: true},
		{name: "truncate", usage: "[-c] -s [+-]SIZE FILE...", run: runTruncate, quick: true},
		{name: "ln", usage: "[-sfnvrT] TARGET... [LINK]", run: runLN, quick: true},
		{name: "readlink", usage: "[-femnqz] FILE...", run: runReadlink, quick: true},
		{name: "realpath", usage: "[-emsqz] FILE...", run: runRealpath, quick: true},
		{name: "chmod", usage: "[-Rvcf] MODE FILE...", run: runChmod, quick: true},
		{name: "chown", usage: "[-RhvcfL] [USER][:[GROUP]] FILE...", run: runChown, quick: true},
		{name: "chgrp", usage: "[-Rhvcf] GROUP FILE...", run: runChown, quick: true},
		{name: "stat", usage: "[-Lft] [-c FORMAT] FILE...", run: runStat, quick: true},
		{name: "du", usage: "[-sahkmbcxL] [-d N] [FILE]...", run: runDU, quick: true},
		{name: "find", usage: "[-HL] [PATH]... [EXPRESSION]", run: runFind, raw: true},
		{name: "tar", usage: "{-c|-x|-t} [-zvpkOhP] [-f FILE] [-C DIR] [FILE]...", run: runTar},
		{name: "gzip", usage: "[-cdfkqtv1-9] [FILE]...", run: runGzip},
		{name: "gunzip", usage: "[-cfkqtv] [FILE]...", run: runGzip},
		{name: "zcat", usage: "[FILE]...", run: runGzip},
		{name: "sync", usage: "[-df] [FILE]...", run: runSync, quick: true},
	}
}

func runMkdir(c *call) int {
	o, names, ok := c.parse("pvm:", longOptions{"parents": 'p', "verbose": 'v', "mode": 'm'})
	if !ok {
		return exitFailure
	}
	if len(names) == 0 {
		return c.usageError("missing operand")
	}
	umask := uint32(currentUmask())
	mode := 0o777 &^ umask
	text, explicit := o.get('m')
	if explicit {
		m, err := parseMode(text)
		if err != nil {
			return c.errorf("%s: %s", text, err)
		}
		mode = m.apply(0o777, true, umask)
	}
	status := exitOK
	for _, name := range names {
		if o.has('p') {
			if err := c.mkdirParents(name, o.has('v')); err != nil {
				status = c.fail(name, err)
				continue
			}
		}
		err := os.Mkdir(c.path(name), 0o777)
		if err != nil {
			if st, serr := os.Stat(c.path(name)); o.has('p') && serr == nil && st.IsDir() {
				continue
			}
			status = c.fail(name, err)
			continue
		}
		if explicit {
			if err := os.Chmod(c.path(name), goMode(mode)); err != nil {
				status = c.fail(name, err)
			}
		}
		if o.has('v') {
			c.printf("mkdir: created directory '%s'\n", name)
		}
	}
	return status
}

// mkdirParents makes the directories above name, with write and search for
// their owner whatever the umask says (POSIX mkdir -p).
func (c *call) mkdirParents(name string, verbose bool) error {
	parts := strings.Split(strings.TrimRight(name, "/"), "/")
	for i := 1; i < len(parts); i++ {
		dir := strings.Join(parts[:i], "/")
		if dir == "" || dir == "." {
			continue
		}
		err := os.Mkdir(c.path(dir), 0o777)
		if err != nil {
			if st, serr := os.Stat(c.path(dir)); serr == nil && st.IsDir() {
				continue
			}
			return err
		}
		if verbose {
			c.printf("mkdir: created directory '%s'\n", dir)
		}
	}
	return nil
}

func runRmdir(c *call) int {
	o, names, ok := c.parse("pv\x01", longOptions{"parents": 'p', "verbose": 'v', "ignore-fail-on-non-empty": '\x01'})
	if !ok {
		return exitFailure
	}
	if len(names) == 0 {
		return c.usageError("missing operand")
	}
	status := exitOK
	for _, name := range names {
		for dir := strings.TrimRight(name, "/"); ; dir = filepath.Dir(dir) {
			if dir == "" || dir == "." || dir == "/" {
				break
			}
			if err := rmdir(c.path(dir)); err != nil {
				if !(o.has('\x01') && strings.Contains(reason(err), "not empty")) {
					status = c.fail(dir, err)
				}
				break
			}
			if o.has('v') {
				c.printf("rmdir: removing directory, '%s'\n", dir)
			}
			if !o.has('p') {
				break
			}
		}
	}
	return status
}

func runMktemp(c *call) int {
	o, args, ok := c.parse("dqutp:\x01:", longOptions{"directory": 'd', "quiet": 'q', "dry-run": 'u', "tmpdir": 'p', "suffix": '\x01'})
	if !ok {
		return exitFailure
	}
	template := "tmp.XXXXXXXXXX"
	dir, inDir := o.get('p')
	if len(args) > 0 {
		template = args[0]
	} else {
		inDir = true
	}
	if o.has('t') {
		inDir = true
	}
	if inDir && dir == "" {
		if dir = c.getenv("TMPDIR"); dir == "" {
			dir = "/tmp"
		}
	}
	suffix, _ := o.get('\x01')
	stem := strings.TrimRight(template, "X")
	if suffix == "" {
		if i := strings.LastIndex(template, "XXX"); i >= 0 {
			suffix = template[i+3:]
			stem = strings.TrimRight(template[:i+3], "X")
			template = template[:i+3]
		}
	}
	random := len(template) - len(stem)
	if random < 3 || strings.Contains(suffix, "/") {
		return c.errorf("too few X's in template '%s'", template)
	}
	if inDir {
		stem = strings.TrimSuffix(dir, "/") + "/" + stem
	}
	name, err := c.makeTemp(stem, suffix, random, o.has('d'), o.has('u'))
	if err != nil {
		if !o.has('q') {
			c.fail(stem+strings.Repeat("X", random)+suffix, err)
		}
		return exitFailure
	}
	c.printf("%s\n", name)
	return exitOK
}

// makeTemp creates a file or directory with a random name that did not exist.
func (c *call) makeTemp(stem, suffix string, random int, isDir, dryRun bool) (string, error) {
	for tries := 0; ; tries++ {
		name := stem + randomName(random) + suffix
		var err error
		switch {
		case dryRun:
			if _, serr := os.Lstat(c.path(name)); serr == nil {
				err = fs.ErrExist
			}
		case isDir:
			err = os.Mkdir(c.path(name), 0o700)
		default:
			var f *os.File
			if f, err = os.OpenFile(c.path(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
				f.Close()
			}
		}
		if err == nil || !errors.Is(err, fs.ErrExist) || tries > 100 {
			return name, err
		}
	}
}

func runTouch(c *call) int {
	o, names, ok := c.parse("acmhfd:r:t:", longOptions{"no-create": 'c', "date": 'd', "reference": 'r', "no-dereference": 'h', "time": 't'})
	if !ok {
		return exitFailure
	}
	if len(names) == 0 {
		return c.usageError("missing file operand")
	}
	atime, mtime := time.Now(), time.Now()
	now := true
	if ref, ok := o.get('r'); ok {
		st, err := os.Stat(c.path(ref))
		if err != nil {
			return c.fail(ref, err)
		}
		atime, mtime, now = statOf(st).atime, st.ModTime(), false
	}
	for _, f := range []rune{'d', 't'} {
		text, ok := o.get(f)
		if !ok {
			continue
		}
		t, err := parseDate(text, time.Now(), f == 't')
		if err != nil {
			return c.errorf("invalid date format '%s'", text)
		}
		atime, mtime, now = t, t, false
	}
	if o.has('a') && !o.has('m') {
		mtime = time.Time{}
	}
	if o.has('m') && !o.has('a') {
		atime = time.Time{}
	}
	status := exitOK
	for _, name := range names {
		if err := c.touch(name, atime, mtime, now, o.has('c'), o.has('h')); err != nil {
			status = c.fail(name, err)
		}
	}
	return status
}

func (c *call) touch(name string, atime, mtime time.Time, now, noCreate, noFollow bool) error {
	path := c.path(name)
	err := setTimes(path, atime, mtime, now, noFollow)
	if !errors.Is(err, fs.ErrNotExist) || noFollow {
		return err
	}
	if noCreate {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil || now {
		return err
	}
	return setTimes(path, atime, mtime, now, false)
}

func runTruncate(c *call) int {
	o, names, ok := c.parse("cs:or:", longOptions{"no-create": 'c', "size": 's', "reference": 'r'})
	if !ok {
		return exitFailure
	}
	text, hasSize := o.get('s')
	if ref, ok := o.get('r'); ok {
		st, err := os.Stat(c.path(ref))
		if err != nil {
			return c.fail(ref, err)
		}
		text, hasSize = strconv.FormatInt(st.Size(), 10), true
	}
	if !hasSize || len(names) == 0 {
		return c.usageError("you must specify a size and a file")
	}
	sign := byte(0)
	number := text
	if number != "" && strings.IndexByte("+-<>", number[0]) >= 0 {
		sign, number = number[0], number[1:]
	}
	size, ok := parseCount(number)
	if !ok {
		return c.errorf("invalid number: '%s'", text)
	}
	status := exitOK
	for _, name := range names {
		flags := os.O_WRONLY | os.O_CREATE
		if o.has('c') {
			flags = os.O_WRONLY
		}
		err := func() error {
			f, err := os.OpenFile(c.path(name), flags, 0o666)
			if err != nil {
				if o.has('c') && errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				return err
			}
			defer f.Close()
			st, err := f.Stat()
			if err != nil {
				return err
			}
			return f.Truncate(newSize(sign, st.Size(), size))
		}()
		if err != nil {
			status = c.fail(name, err)
		}
	}
	return status
}

func newSize(sign byte, old, n int64) int64 {
	switch sign {
	case '+':
		return old + n
	case '-':
		return max(0, old-n)
	case '<':
		return min(old, n)
	case '>':
		return max(old, n)
	}
	return n
}

func runMkfifo(c *call) int {
	o, names, ok := c.parse("m:", longOptions{"mode": 'm'})
	if !ok {
		return exitFailure
	}
	if len(names) == 0 {
		return c.usageError("missing operand")
	}
	status := exitOK
	for _, name := range names {
		err := mkfifo(c.path(name))
		if text, ok := o.get('m'); ok && err == nil {
			var m fileMode
			if m, err = parseMode(text); err == nil {
				err = os.Chmod(c.path(name), goMode(m.apply(0o666, false, 0)))
			}
		}
		if err != nil {
			status = c.fail(name, err)
		}
	}
	return status
}

// ask prints a question and reads whether the answer begins with y.
func (c *call) ask(format string, a ...any) bool {
	fmt.Fprintf(c.err, "%s: %s", c.name, fmt.Sprintf(format, a...))
	answer := false
	one := make([]byte, 1)
	for i := 0; ; i++ {
		n, err := c.in.Read(one)
		if n == 1 && i == 0 {
			answer = one[0] == 'y' || one[0] == 'Y'
		}
		if (n == 1 && one[0] == '\n') || err != nil {
			return answer
		}
	}
}
