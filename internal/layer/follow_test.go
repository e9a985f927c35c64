package layer

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// TestFollows: entries below a symlink land where it leads inside the image, as a process that
// is locked into the root would see it.
func TestFollows(t *testing.T) {
	long := strings.Repeat("long/", 30)
	for name, tt := range map[string]struct {
		layers [][]byte
		want   []string
	}{
		"of a lower layer": {
			[][]byte{pack(t, dir("usr/lib"), symlink("lib", "usr/lib")), pack(t, file("lib/x/y", "1"))},
			[]string{"lib symlink → usr/lib", "usr directory", "usr/lib directory", "usr/lib/x directory", `usr/lib/x/y file "1"`},
		},
		"of the same layer": {
			[][]byte{pack(t, dir("e"), symlink("d", "e"), file("d/x", "1"))},
			[]string{"d symlink → e", "e directory", `e/x file "1"`},
		},
		"absolute": {
			[][]byte{pack(t, dir("a/b"), symlink("a/d", "/a/b")), pack(t, file("a/d/x", "1"))},
			[]string{"a directory", "a/b directory", `a/b/x file "1"`, "a/d symlink → /a/b"},
		},
		"to the root": {
			[][]byte{pack(t, symlink("d", "/"), file("d/x", "1"))},
			[]string{"d symlink → /", `x file "1"`},
		},
		"above the root": {
			[][]byte{pack(t, dir("etc"), symlink("d", "../../../../etc")), pack(t, file("d/passwd", "1"))},
			[]string{"d symlink → ../../../../etc", "etc directory", `etc/passwd file "1"`},
		},
		"chain that leaves the root": {
			[][]byte{pack(t, dir("a/b"), symlink("a/b/up", ".."), symlink("a/upup", "b/up/../.."), symlink("out", "a/upup/..")), pack(t, file("out/x", "1"))},
			[]string{"a directory", "a/b directory", "a/b/up symlink → ..", "a/upup symlink → b/up/../..", "out symlink → a/upup/..", `x file "1"`},
		},
		"long target": {
			[][]byte{pack(t, dir(long), symlink("d", "./"+long)), pack(t, file("d/x", "1"), whiteout("d/.wh.no")), pack(t, whiteout("d/.wh.x"), dir("only")), pack(t, whiteout(".wh.long"), whiteout(".wh.d"))},
			[]string{"only directory"},
		},
		"replaced by a folder": {
			[][]byte{pack(t, file("e/x", "e"), symlink("d", "e")), pack(t, dir("d"), file("d/x", "d"))},
			[]string{"d directory", `d/x file "d"`, "e directory", `e/x file "e"`},
		},
		"hard link through one": {
			[][]byte{pack(t, file("e/x", "1"), symlink("d", "e")), pack(t, hardlink("y", "d/x"), hardlink("d/z", "y"))},
			[]string{"d symlink → e", "e directory", `e/x file "1"`, "e/z hard link → e/x", "y hard link → e/x"},
		},
		"whiteout below one": {
			[][]byte{pack(t, file("e/x", "1"), symlink("d", "e")), pack(t, whiteout("d/.wh.x"))},
			[]string{"d symlink → e", "e directory"},
		},
		"whiteout of one": {
			[][]byte{pack(t, file("e/x", "1"), symlink("d", "e")), pack(t, whiteout(".wh.d"))},
			[]string{"e directory", `e/x file "1"`},
		},
		"the last part is not followed": {
			[][]byte{pack(t, file("e", "1"), symlink("d", "e")), pack(t, file("d", "2"))},
			[]string{`d file "2"`, `e file "1"`},
		},
		"40 of them": {
			[][]byte{pack(t, append(links(40), file("l39/x", "1"))...)},
			append(linkLines(40), `x file "1"`),
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := apply(t, tt.layers...)
			if got, want := a.tree(t), lines(tt.want...); got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
			b := apply(t, tt.layers...)
			if !bytes.Equal(a.bytes(t), b.bytes(t)) {
				t.Error("the same layers gave another image")
			}
		})
	}
}

// links makes a chain of n symlinks, the first of which leads to the root.
func links(n int) []item {
	list := []item{symlink("l0", "/")}
	for i := 1; i < n; i++ {
		list = append(list, symlink(fmt.Sprintf("l%d", i), fmt.Sprintf("l%d", i-1)))
	}
	return list
}

func linkLines(n int) []string {
	want := make([]string, 0, n)
	for _, i := range []int{0, 1, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 2, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 3, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 4, 5, 6, 7, 8, 9} {
		to := "/"
		if i > 0 {
			to = fmt.Sprintf("l%d", i-1)
		}
		if i < n {
			want = append(want, fmt.Sprintf("l%d symlink → %s", i, to))
		}
	}
	return want
}

// TestHostileLinks: links that lead nowhere, in circles or into ever longer names cost little
// and are refused.
func TestHostileLinks(t *testing.T) {
	deep := strings.Repeat("d/", 1000)
	for name, tt := range map[string]struct {
		code   string
		layers [][]byte
	}{
		"nowhere":                   {"archive.conflict", [][]byte{pack(t, symlink("d", "/proc/self/root"), file("d/x", ""))}},
		"nowhere and back":          {"archive.conflict", [][]byte{pack(t, dir("e"), symlink("d", "no/../e"), file("d/x", ""))}},
		"the folder of a whiteout":  {"archive.conflict", [][]byte{pack(t, symlink("d", "no"), whiteout("d/.wh.x"))}},
		"the host":                  {"archive.conflict", [][]byte{pack(t, symlink("d", "/../../../../etc"), file("d/passwd", ""))}},
		"to a file":                 {"archive.conflict", [][]byte{pack(t, file("e", ""), symlink("d", "e"), file("d/x", ""))}},
		"through a file":            {"archive.conflict", [][]byte{pack(t, file("e", ""), symlink("d", "e/.."), file("d/x", ""))}},
		"to a device":               {"archive.conflict", [][]byte{pack(t, item{Header: header("e", '3', 0o600)}, symlink("d", "e"), file("d/x", ""))}},
		"itself":                    {"archive.conflict", [][]byte{pack(t, symlink("d", "d"), file("d/x", ""))}},
		"a circle":                  {"archive.conflict", [][]byte{pack(t, symlink("a", "b/c"), symlink("b", "a/c"), file("a/x", ""))}},
		"41 of them":                {"archive.conflict", [][]byte{pack(t, append(links(41), file("l40/x", "1"))...)}},
		"a hard link's target":      {"archive.conflict", [][]byte{pack(t, symlink("d", "d"), hardlink("a", "d/x"))}},
		"hard link to a folder":     {"archive.invalid", [][]byte{pack(t, symlink("d", "/"), dir("e"), hardlink("a", "d/e"))}},
		"deeper than a name may be": {"archive.limit", [][]byte{pack(t, dir(deep), symlink("s", deep), dir("s/"+strings.Repeat("e/", 100)))}},
		"opaque":                    {"archive.conflict", [][]byte{pack(t, file("e/x", ""), symlink("d", "e")), pack(t, whiteout("d/.wh..wh..opq"))}},
	} {
		t.Run(name, func(t *testing.T) { wantCode(t, tryAll(t, Options{}, tt.layers...), tt.code) })
	}
	t.Run("work", func(t *testing.T) {
		// 40 targets of 4000 bytes for each of many short names.
		list := []item{symlink("l0", strings.Repeat("./", 1990)+".")}
		for i := 1; i < 40; i++ {
			list = append(list, symlink(fmt.Sprintf("l%d", i), strings.Repeat("./", 1990)+fmt.Sprintf("l%d", i-1)))
		}
		for i := range 1000 {
			list = append(list, file(fmt.Sprintf("l39/%d", i), ""))
		}
		wantCode(t, tryAll(t, Options{Limits: Limits{Names: 10 << 20}}, pack(t, list...)), "archive.limit")
	})
}
