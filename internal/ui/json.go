package ui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"unicode/utf8"
)

// JSON writes v indented, with a newline, and nothing in it that a terminal would obey: what
// encoding/json leaves as it is (DEL, C1 controls, bidi and zero-width characters) is written
// as \u escapes, which mean the same to every reader.
func JSON(w io.Writer, v any) error { return writeJSON(w, v, "  ") }

// JSONLine writes v on one line: a record of a stream.
func JSONLine(w io.Writer, v any) error { return writeJSON(w, v, "") }

func writeJSON(w io.Writer, v any, indent string) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	_, err := w.Write(asciiControls(b.Bytes()))
	return err
}

// asciiControls replaces invisible characters, which can only stand inside strings here.
func asciiControls(p []byte) []byte {
	var out []byte
	last := 0
	for i := 0; i < len(p); {
		if c := p[i]; c < utf8.RuneSelf && c != 0x7f {
			i++
			continue
		}
		r, n := utf8.DecodeRune(p[i:])
		if !visible(r) {
			out = append(out, p[last:i]...)
			if r > 0xffff {
				r -= 0x10000
				out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
			} else {
				out = fmt.Appendf(out, `\u%04x`, r)
			}
			last = i + n
		}
		i += n
	}
	if out == nil {
		return p
	}
	return append(out, p[last:]...)
}
