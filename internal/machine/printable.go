package machine

import (
	"strings"
	"unicode"
)

// Printable replaces control characters, tabs excepted, by a dot: a guest wrote the text, and
// a terminal would obey them.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '·'
	}, s)
}
