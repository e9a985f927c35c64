package userland

import (
	"bufio"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"io"
	"strings"
)

func newDigest(name string) hash.Hash {
	switch name {
	case "md5sum":
		return md5.New()
	case "sha1sum":
		return sha1.New()
	case "sha224sum":
		return sha256.New224()
	case "sha384sum":
		return sha512.New384()
	case "sha512sum":
		return sha512.New()
	}
	return sha256.New()
}

// runSum is sha256sum and its relatives.
func runSum(c *call) int {
	o, names, ok := c.parse("bctwz\x01\x02\x03\x04", longOptions{
		"binary": 'b', "check": 'c', "text": 't', "warn": 'w', "zero": 'z',
		"quiet": '\x01', "status": '\x02', "tag": '\x03', "ignore-missing": '\x04', "strict": 't',
	})
	if !ok {
		return exitFailure
	}
	if len(names) == 0 {
		names = []string{"-"}
	}
	if o.has('c') {
		status := exitOK
		for _, name := range names {
			if c.checkSums(name, o) != exitOK {
				status = exitFailure
			}
		}
		return status
	}
	mark, end := "  ", "\n"
	if o.last('b', 't') == 'b' {
		mark = " *"
	}
	if o.has('z') {
		end = "\x00"
	}
	return c.eachInput(names, func(name string, r io.Reader) error {
		sum, err := c.digest(r)
		if err != nil {
			return err
		}
		if o.has('\x03') {
			c.printf("%s (%s) = %s%s", strings.ToUpper(strings.TrimSuffix(c.cmd.name, "sum")), name, sum, end)
			return nil
		}
		escape := ""
		if strings.ContainsAny(name, "\\\n\r") && !o.has('z') {
			escape = `\`
			name = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`).Replace(name)
		}
		c.printf("%s%s%s%s%s", escape, sum, mark, name, end)
		return nil
	})
}

func (c *call) digest(r io.Reader) (string, error) {
	h := newDigest(c.cmd.name)
	if _, err := c.copyData(h, r); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// checkSums verifies the files that a list of sums names.
func (c *call) checkSums(list string, o options) int {
	f, err := c.open(list)
	if err != nil {
		return c.fail(list, err)
	}
	defer f.Close()
	quiet, silent := o.has('\x01'), o.has('\x02')
	var valid, verified, malformed, unreadable, mismatched int
	scanner := bufio.NewScanner(f)
	for scanner.Scan() && !c.stopped() {
		want, name, ok := parseSumLine(scanner.Text(), newDigest(c.cmd.name).Size()*2)
		if !ok {
			malformed++
			continue
		}
		valid++
		got, err := c.digestFile(name)
		switch {
		case err != nil && o.has('\x04') && strings.HasPrefix(reason(err), "No such file"):
		case err != nil:
			unreadable++
			c.fail(name, err)
			if !silent {
				c.printf("%s: FAILED open or read\n", name)
			}
		case got != want:
			mismatched++
			if !silent {
				c.printf("%s: FAILED\n", name)
			}
		default:
			verified++
			if !quiet && !silent {
				c.printf("%s: OK\n", name)
			}
		}
	}
	if err := scanner.Err(); err != nil {
		return c.fail(list, err)
	}
	if valid == 0 {
		return c.errorf("%s: no properly formatted checksum lines found", list)
	}
	if o.has('\x04') && verified == 0 && mismatched == 0 {
		return c.errorf("%s: no file was verified", list)
	}
	if !silent {
		c.warnCount(malformed, "line is improperly formatted", "lines are improperly formatted")
		c.warnCount(unreadable, "listed file could not be read", "listed files could not be read")
		c.warnCount(mismatched, "computed checksum did NOT match", "computed checksums did NOT match")
	}
	if unreadable+mismatched > 0 {
		return exitFailure
	}
	return exitOK
}

func (c *call) warnCount(n int, one, many string) {
	switch {
	case n == 1:
		c.errorf("WARNING: 1 %s", one)
	case n > 1:
		c.errorf("WARNING: %d %s", n, many)
	}
}

func (c *call) digestFile(name string) (string, error) {
	r, err := c.open(name)
	if err != nil {
		return "", err
	}
	defer r.Close()
	return c.digest(r)
}

// parseSumLine reads "HEX  NAME", "HEX *NAME" or "ALGO (NAME) = HEX".
func parseSumLine(line string, size int) (sum, name string, ok bool) {
	line = strings.TrimSuffix(line, "\r")
	if open := strings.Index(line, " ("); open > 0 {
		if i := strings.LastIndex(line, ") = "); i > open {
			sum, name = line[i+4:], line[open+2:i]
			return strings.ToLower(sum), name, isHex(sum, size)
		}
	}
	escaped := strings.HasPrefix(line, `\`)
	line = strings.TrimPrefix(line, `\`)
	if len(line) < size+3 || line[size] != ' ' || (line[size+1] != ' ' && line[size+1] != '*') {
		return "", "", false
	}
	sum, name = line[:size], line[size+2:]
	if escaped {
		name = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\r`, "\r").Replace(name)
	}
	return strings.ToLower(sum), name, isHex(sum, size)
}

func isHex(s string, size int) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == size
}
