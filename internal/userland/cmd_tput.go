package userland

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/term"
)

// Size of a terminal that does not say one.
const (
	defaultLines   = 24
	defaultColumns = 80
)

// tputText are the capabilities that take no argument, as every terminal of today (one that
// understands ECMA-48) has them.
func tputText() map[string]string {
	return map[string]string{
		"clear": "\x1b[H\x1b[2J\x1b[3J", "reset": "\x1bc", "bold": "\x1b[1m", "dim": "\x1b[2m", "sitm": "\x1b[3m", "ritm": "\x1b[23m",
		"smul": "\x1b[4m", "rmul": "\x1b[24m", "blink": "\x1b[5m", "rev": "\x1b[7m", "smso": "\x1b[7m", "rmso": "\x1b[27m",
		"invis": "\x1b[8m", "sgr0": "\x1b[m", "op": "\x1b[39;49m", "home": "\x1b[H", "el": "\x1b[K", "el1": "\x1b[1K", "ed": "\x1b[J",
		"civis": "\x1b[?25l", "cnorm": "\x1b[?25h", "smcup": "\x1b[?1049h", "rmcup": "\x1b[?1049l", "sc": "\x1b7", "rc": "\x1b8",
		"cuu1": "\x1b[A", "cud1": "\n", "cuf1": "\x1b[C", "cub1": "\b", "bel": "\a", "cr": "\r",
	}
}

// runTput prints a terminal's capability. There is no data base: a terminal is one of today's,
// or TERM says that it is dumb.
func runTput(c *call) int {
	args, kind := c.args, c.getenv("TERM")
	if len(args) > 0 && strings.HasPrefix(args[0], "-T") {
		if kind = args[0][2:]; kind == "" && len(args) > 1 {
			kind, args = args[1], args[1:]
		}
		args = args[1:]
	}
	c.trouble = exitUsage
	switch {
	case len(args) == 0:
		return c.usageError("missing operand")
	case kind == "":
		c.errorf("No value for $TERM and no -T specified")
		return exitUsage
	}
	rows, cols := c.terminalSize()
	switch name := args[0]; name {
	case "cols":
		c.printf("%d\n", cols)
	case "lines":
		c.printf("%d\n", rows)
	case "colors":
		switch {
		case kind == "dumb":
			c.printf("-1\n")
		case strings.Contains(kind, "256") || strings.Contains(kind, "direct"):
			c.printf("256\n")
		default:
			c.printf("8\n")
		}
	case "longname":
		c.printf("%s\n", kind)
	case "init":
	default:
		text, err := tputCapability(name, args[1:])
		if err != nil {
			c.errorf("%s", err)
			return 4 // what ncurses says of an unknown name
		}
		if kind == "dumb" && !strings.Contains(" bel cr cud1 ", " "+name+" ") {
			return exitFailure
		}
		c.out.WriteString(text)
	}
	return exitOK
}

func tputCapability(name string, args []string) (string, error) {
	if text, ok := tputText()[name]; ok {
		return text, nil
	}
	var n [2]int
	for i, a := range args {
		v, err := strconv.Atoi(a)
		if err != nil || v < 0 || i == len(n) {
			return "", fmt.Errorf("invalid argument '%s'", a)
		}
		n[i] = v
	}
	switch name {
	case "setaf", "setab":
		base := map[string]int{"setaf": 30, "setab": 40}[name]
		switch v := n[0]; {
		case v < 8:
			return fmt.Sprintf("\x1b[%dm", base+v), nil
		case v < 16:
			return fmt.Sprintf("\x1b[%dm", base+60+v-8), nil
		default:
			return fmt.Sprintf("\x1b[%d;5;%dm", base+8, v), nil
		}
	case "cup":
		return fmt.Sprintf("\x1b[%d;%dH", n[0]+1, n[1]+1), nil
	case "cuu", "cud", "cuf", "cub":
		return fmt.Sprintf("\x1b[%d%c", max(n[0], 1), "ABCD"[strings.IndexByte("udfb", name[2])]), nil
	}
	return "", fmt.Errorf("unknown terminfo capability '%s'", name)
}

// terminalSize asks the terminal on whatever stream has one: standard output is a pipe in
// $(tput cols).
func (c *call) terminalSize() (rows, cols int) {
	for _, v := range []any{c.stdio.Err, c.stdio.Out, c.stdio.In} {
		f, ok := v.(*os.File)
		if !ok || f == nil {
			continue
		}
		if cols, rows, err := term.GetSize(int(f.Fd())); err == nil && cols > 0 && rows > 0 {
			return rows, cols
		}
	}
	return defaultLines, defaultColumns
}
