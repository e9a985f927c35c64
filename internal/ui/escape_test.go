package ui

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestLine(t *testing.T) {
	tests := []struct{ in, want string }{
		{"plain text", "plain text"},
		{"Grüße 世界 👍", "Grüße 世界 👍"},
		{"a\nb\r\tc", `a\nb\r\tc`},
		{"\x1b[2J\x07\x00\x7f", `\x1b[2J\x07\x00\x7f`},
		{"\u009b2J", `\u009b2J`}, // C1: a terminal may take it for ESC [
		{"abc\u202edef", `abc\u202edef`},
		{"zero\u200bwidth\ufeff", `zero\u200bwidth\ufeff`},
		{"tag\U000e0041", `tag\U000e0041`},
		{"bad\xff\xfeutf8", `bad\xff\xfeutf8`},
		{"\u2028", `\u2028`},
		{`already \x1b escaped`, `already \x1b escaped`},
	}
	for _, tt := range tests {
		if got := Line(tt.in); got != tt.want {
			t.Errorf("Line(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
	if got := Text("a\n\tb\x1b\r"); got != "a\n\tb\\x1b\\r" {
		t.Errorf("Text keeps newlines and tabs only, got %q", got)
	}
}

func FuzzLine(f *testing.F) {
	for _, s := range []string{"", "a\x1b[0m", "\xff", "\u202e", "世\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Line(s)
		if Line(got) != got {
			t.Errorf("twice is not once: %q, %q", got, Line(got))
		}
		if !utf8.ValidString(got) {
			t.Errorf("not UTF-8: %q", got)
		}
		for _, r := range got {
			if !unicode.IsGraphic(r) {
				t.Errorf("%q has %U", got, r)
			}
		}
		if Clip(s, 10) != got && Width(Clip(s, 10)) > 10 {
			t.Errorf("Clip(%q, 10) is %d wide", s, Width(Clip(s, 10)))
		}
	})
}

func TestClip(t *testing.T) {
	for _, tt := range []struct {
		in    string
		width int
		want  string
	}{
		{"abcdef", 6, "abcdef"},
		{"abcdef", 5, "abcd…"},
		{"世界世界", 5, "世界…"},
		{"世界世界", 4, "世…"},
		{"abcdef", 0, "abcdef"},
		{"e\u0301e\u0301e\u0301", 3, "e\u0301e\u0301e\u0301"},
	} {
		if got := Clip(tt.in, tt.width); got != tt.want {
			t.Errorf("Clip(%q, %d) = %q, want %q", tt.in, tt.width, got, tt.want)
		}
	}
}

func TestTable(t *testing.T) {
	table := Table{Header: []string{"NAME", "DESCRIPTION", "N"}}
	table.Row("web", "a rather long description", "1")
	table.Row("世界", "", "22")
	table.Row("x", "evil\x1b[2J\nline")
	print := func(width int) string {
		var b strings.Builder
		if err := table.Print(&b, width); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	wide := "NAME  DESCRIPTION                N\nweb   a rather long description  1\n世界                             22\nx     evil\\x1b[2J\\nline\n"
	if got := print(0); got != wide {
		t.Errorf("without a limit:\n%s\nwant\n%s", got, wide)
	}
	narrow := "NAME  DESCRIPT…  N\nweb   a rather…  1\n世界             22\nx     evil\\x1b…\n"
	if got := print(19); got != narrow {
		t.Errorf("in 19 columns:\n%s\nwant\n%s", got, narrow)
	}
	for line := range strings.Lines(print(1)) {
		if w := Width(strings.TrimSuffix(line, "\n")); w > 4+2+minColumn+2+2 {
			t.Errorf("a hopeless width gives %d columns: %q", w, line)
		}
	}
}
