package userland

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// option is one option as it was given.
type option struct {
	flag  rune
	value string
}

// options are the parsed options of one command line, in the order given.
type options []option

// has reports whether any of the flags was given.
func (o options) has(flags ...rune) bool {
	for _, opt := range o {
		if slices.Contains(flags, opt.flag) {
			return true
		}
	}
	return false
}

// get returns the last value given for flag.
func (o options) get(flag rune) (string, bool) {
	for _, v := range slices.Backward(o) {
		if v.flag == flag {
			return v.value, true
		}
	}
	return "", false
}

// last returns the last given one of flags, or 0: for options that override
// each other.
func (o options) last(flags ...rune) rune {
	for _, v := range slices.Backward(o) {
		for _, f := range flags {
			if v.flag == f {
				return f
			}
		}
	}
	return 0
}

// longOptions maps a long option's name to its flag.
type longOptions map[string]rune

// parse splits the arguments into options and operands as getopt_long does.
// spec lists the flags; "n:" takes a value, "n::" an optional one that must be
// attached. A leading '+' ends options at the first operand. On error the
// message has been printed and ok is false.
func (c *call) parse(spec string, long longOptions) (opts options, operands []string, ok bool) {
	stopEarly := strings.HasPrefix(spec, "+")
	spec = strings.TrimPrefix(spec, "+")
	args := c.args
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			return opts, append(operands, args...), true
		case strings.HasPrefix(arg, "--"):
			o, rest, err := parseLong(arg[2:], args, spec, long)
			if err != nil {
				c.usageError("%s", err)
				return nil, nil, false
			}
			opts, args = append(opts, o), rest
		case len(arg) > 1 && arg[0] == '-':
			o, rest, err := parseShort(arg[1:], args, spec)
			if err != nil {
				c.usageError("%s", err)
				return nil, nil, false
			}
			opts, args = append(opts, o...), rest
		case stopEarly:
			return opts, append(append(operands, arg), args...), true
		default:
			operands = append(operands, arg)
		}
	}
	return opts, operands, true
}

// valueKind says what spec says about a flag: -1 unknown, 0 no value, 1 a
// value, 2 an optional one.
func valueKind(spec string, flag rune) int {
	i := strings.IndexRune(spec, flag)
	if i < 0 || flag == ':' {
		return -1
	}
	rest := spec[i+utf8.RuneLen(flag):]
	switch {
	case strings.HasPrefix(rest, "::"):
		return 2
	case strings.HasPrefix(rest, ":"):
		return 1
	}
	return 0
}

func parseShort(group string, args []string, spec string) ([]option, []string, error) {
	var opts []option
	for i, flag := range group {
		rest := group[i+utf8.RuneLen(flag):]
		switch valueKind(spec, flag) {
		case 0:
			opts = append(opts, option{flag: flag})
		case 1:
			if rest == "" {
				if len(args) == 0 {
					return nil, nil, fmt.Errorf("option requires an argument -- '%c'", flag)
				}
				rest, args = args[0], args[1:]
			}
			return append(opts, option{flag, rest}), args, nil
		case 2:
			return append(opts, option{flag, rest}), args, nil
		default:
			return nil, nil, fmt.Errorf("invalid option -- '%c'", flag)
		}
	}
	return opts, args, nil
}

func parseLong(arg string, args []string, spec string, long longOptions) (option, []string, error) {
	name, value, hasValue := strings.Cut(arg, "=")
	flag, ok := long[name]
	if !ok {
		// An abbreviation is fine while it is unambiguous.
		matches := 0
		for full, f := range long {
			if strings.HasPrefix(full, name) {
				matches++
				flag = f
			}
		}
		switch {
		case matches == 0:
			return option{}, nil, fmt.Errorf("unrecognized option '--%s'", name)
		case matches > 1:
			return option{}, nil, fmt.Errorf("option '--%s' is ambiguous", name)
		}
	}
	kind := valueKind(spec, flag)
	switch {
	case kind <= 0 && hasValue:
		return option{}, nil, fmt.Errorf("option '--%s' doesn't allow an argument", name)
	case kind == 1 && !hasValue:
		if len(args) == 0 {
			return option{}, nil, fmt.Errorf("option '--%s' requires an argument", name)
		}
		value, args = args[0], args[1:]
	}
	return option{flag, value}, args, nil
}
