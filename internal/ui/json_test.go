package ui

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
)

// TestJSON: whatever a guest named things, the output shows nothing invisible and reads back as
// the same value.
func TestJSON(t *testing.T) {
	in := map[string]string{"a<b>": "x\x1b\u009b\x7f\u202e\u200b\U000e0041 世界 👍\n"}
	var b strings.Builder
	if err := JSON(&b, in); err != nil {
		t.Fatal(err)
	}
	want := "{\n  \"a<b>\": \"x\\u001b\\u009b\\u007f\\u202e\\u200b\\udb40\\udc41 世界 👍\\n\"\n}\n"
	if b.String() != want {
		t.Errorf("got  %s\nwant %s", b.String(), want)
	}
	var back map[string]string
	if err := json.Unmarshal([]byte(b.String()), &back); err != nil || back["a<b>"] != in["a<b>"] {
		t.Errorf("reads back as %q, %v", back, err)
	}
	b.Reset()
	if err := JSONLine(&b, []int{1, 2}); err != nil || b.String() != "[1,2]\n" {
		t.Errorf("one line: %q, %v", b.String(), err)
	}
	if err := JSON(&b, func() {}); err == nil {
		t.Error("a function was printed as JSON")
	}
}

func FuzzJSON(f *testing.F) {
	f.Add("x\x1b")
	f.Add("\u009b\\")
	f.Fuzz(func(t *testing.T, s string) {
		var b strings.Builder
		if err := JSONLine(&b, s); err != nil {
			t.Fatal(err)
		}
		var back string
		if err := json.Unmarshal([]byte(b.String()), &back); err != nil || back != strings.ToValidUTF8(s, "\ufffd") && strings.ToValidUTF8(back, "") == "" && s != "" {
			t.Errorf("%q reads back as %q, %v", s, back, err)
		}
		for _, r := range strings.TrimSuffix(b.String(), "\n") {
			if !unicode.IsGraphic(r) {
				t.Errorf("%q has %U", b.String(), r)
			}
		}
	})
}
