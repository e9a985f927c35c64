package userland

import (
	"bufio"
	"errors"
	"io"
	"os"

	"golang.org/x/term"
)

// runMore shows text page by page on a terminal; elsewhere it is cat.
func runMore(c *call) int {
	_, names, ok := c.parse("RSFXeifnr", nil)
	if !ok {
		return exitFailure
	}
	screen, isFile := c.stdio.Out.(*os.File)
	if !isFile || !isTerminal(screen) {
		return c.eachInput(names, func(_ string, r io.Reader) error {
			_, err := c.copyData(c.out, r)
			return err
		})
	}
	keys, err := os.Open("/dev/tty")
	if err != nil {
		return c.fail("/dev/tty", err)
	}
	defer keys.Close()
	p := &pager{c: c, keys: keys, width: 80, height: 24}
	if w, h, err := term.GetSize(int(screen.Fd())); err == nil && w > 0 && h > 1 {
		p.width, p.height = w, h
	}
	p.left = p.height - 1
	return c.eachInput(names, func(_ string, r io.Reader) error { return p.show(r) })
}

// pager shows one page after the other.
type pager struct {
	c             *call
	keys          *os.File
	width, height int
	left          int // lines until the next stop
	quit          bool
}

func (p *pager) show(r io.Reader) error {
	in := bufio.NewReaderSize(r, bufSize)
	for !p.quit && !p.c.stopped() {
		line, err := readLine(in, '\n')
		if len(line) > 0 || err == nil {
			if p.left <= 0 && !p.wait() {
				return nil
			}
			p.c.out.Write(append(line, '\n'))
			p.left -= max(1, (len(line)+p.width-1)/p.width)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// wait asks how to go on: space a page, return a line, q the end.
func (p *pager) wait() bool {
	state, err := term.MakeRaw(int(p.keys.Fd()))
	if err != nil {
		return false
	}
	defer func() { _ = term.Restore(int(p.keys.Fd()), state) }() // the terminal may be gone
	p.c.out.WriteString("--More--")
	defer p.c.out.WriteString("\r\x1b[K")
	key := make([]byte, 1)
	for {
		if n, err := p.keys.Read(key); n == 0 || err != nil {
			return false
		}
		switch key[0] {
		case 'q', 'Q', 3, 4:
			p.quit = true
			return false
		case ' ', 'f':
			p.left = p.height - 1
			return true
		case '\r', '\n', 'j':
			p.left = 1
			return true
		}
	}
}
