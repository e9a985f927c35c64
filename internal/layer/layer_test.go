package layer

import (
	"archive/tar"
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRules(t *testing.T) {
	owned := func(i item, uid int) item { return i.with(func(h *tar.Header) { h.Uid, h.Gid = uid, uid }) }
	mode := func(i item, m int64) item { return i.with(func(h *tar.Header) { h.Mode = m }) }
	type layers [][]item
	for name, tt := range map[string]struct {
		layers layers
		want   []string
	}{
		"nothing": {layers{{}}, nil},
		"names with ./ and /": {
			layers{{dir("./"), dir("./a/"), file("/b", "b"), file("//c//./d", "d")}},
			[]string{"a directory", `b file "b"`, "c directory", `c/d file "d"`},
		},
		"backslashes are letters": {
			layers{{file(`..\..\x`, "1"), file(`a\b`, "2")}}, []string{`..\..\x file "1"`, `a\b file "2"`},
		},
		"attributes of the root": {
			layers{{owned(mode(dir("./"), 0o700), 5)}}, []string{". directory 0700 5:5"},
		},
		"the later entry of a layer wins": {
			layers{{file("a", "1"), symlink("a", "x"), dir("a"), file("a/b", "2"), file("a", "3"), mode(file("a", "4"), 0o600)}},
			[]string{`a file 0600 "4"`},
		},
		"the upper layer wins": {
			layers{{file("a", "1"), file("d/x", "1"), symlink("s", "d")}, {file("a", "2"), file("d", "2"), dir("s"), file("s/x", "2")}},
			[]string{`a file "2"`, `d file "2"`, "s directory", `s/x file "2"`},
		},
		"a file becomes a directory again": {
			layers{{file("d/x", "1")}, {file("d", "2")}, {dir("d"), file("d/y", "3")}},
			[]string{"d directory", `d/y file "3"`},
		},
		"attributes of directories": {
			layers{{owned(dir("d"), 1), owned(dir("e"), 1)}, {owned(dir("d"), 2), file("e/x", "")}},
			[]string{"d directory 2:2", "e directory 1:1", `e/x file ""`},
		},
		"implicit parents are root's": {
			layers{{owned(file("a/b/c", ""), 7)}}, []string{"a directory", "a/b directory", `a/b/c file 7:7 ""`},
		},
		"whiteout": {
			layers{{file("a", "1"), file("d/b", "1"), file("d/c", "1")}, {whiteout(".wh.a"), whiteout("d/.wh.b")}},
			[]string{"d directory", `d/c file "1"`},
		},
		"whiteout of a directory": {
			layers{{file("d/e/f", "1"), file("g", "1")}, {whiteout(".wh.d")}}, []string{`g file "1"`},
		},
		"whiteout before its sibling": {
			layers{{file("d/x", "1")}, {whiteout(".wh.d"), dir("d"), file("d/y", "2")}},
			[]string{"d directory", `d/y file "2"`},
		},
		"whiteout after its sibling": {
			layers{{file("d/x", "1"), owned(dir("d"), 3)}, {file("d/y", "2"), whiteout(".wh.d")}},
			[]string{"d directory", `d/y file "2"`},
		},
		"whiteout of a file and its new self": {
			layers{{file("a", "1")}, {file("a", "2"), whiteout(".wh.a")}}, []string{`a file "2"`},
		},
		"whiteout of what is not there": {
			layers{{whiteout(".wh.a"), whiteout("x/y/.wh.b"), whiteout("z/.wh..wh..opq")}}, nil,
		},
		"whiteout in the lowest layer does not hide its sibling": {
			layers{{file("a", "1"), whiteout(".wh.a")}}, []string{`a file "1"`},
		},
		"opaque first": {
			layers{{file("d/x", "1"), file("d/s/x", "1")}, {mode(dir("d"), 0o700), whiteout("d/.wh..wh..opq"), file("d/s/y", "2")}},
			[]string{"d directory 0700", "d/s directory", `d/s/y file "2"`},
		},
		"opaque last": {
			layers{{file("d/x", "1"), owned(dir("d/s"), 9), file("d/s/x", "1"), dir("d/t")}, {file("d/s/y", "2"), dir("d/t"), whiteout("d/.wh..wh..opq")}},
			[]string{"d directory", "d/s directory", `d/s/y file "2"`, "d/t directory"},
		},
		"opaque keeps the directory's attributes": {
			layers{{owned(dir("d"), 4), file("d/x", "1")}, {whiteout("d/.wh..wh..opq")}}, []string{"d directory 4:4"},
		},
		"opaque root": {
			layers{{file("a", "1"), file("d/x", "1")}, {whiteout(".wh..wh..opq"), file("d/y", "2")}},
			[]string{"d directory", `d/y file "2"`},
		},
		"opaque acts on all lower layers": {
			layers{{file("d/a", "1")}, {file("d/b", "2")}, {whiteout("d/.wh..wh..opq")}, {file("d/c", "4")}},
			[]string{"d directory", `d/c file "4"`},
		},
		"hard link": {
			layers{{file("b", "1"), hardlink("a", "./b"), hardlink("c", "/a")}},
			[]string{`a file "1"`, "b hard link → a", "c hard link → a"},
		},
		"hard link to a symlink and a device": {
			layers{{symlink("s", "t"), hardlink("s2", "s"), item{Header: header("f", tar.TypeFifo, 0o600)}, hardlink("f2", "f")}},
			[]string{"f fifo", "f2 hard link → f", "s symlink → t", "s2 hard link → s"},
		},
		"hard link to a lower layer": {
			layers{{file("a", "1")}, {hardlink("b", "a")}}, []string{`a file "1"`, "b hard link → a"},
		},
		"hard link keeps what its layer meant": {
			layers{{file("a", "1")}, {hardlink("b", "a")}, {file("a", "2")}},
			[]string{`a file "2"`, `b file "1"`},
		},
		"hard link whose target is hidden above": {
			layers{{file("a", "1"), hardlink("b", "a")}, {whiteout(".wh.a")}}, []string{`b file "1"`},
		},
		"hard link whose target is replaced in its layer": {
			layers{{file("a", "1"), hardlink("b", "a"), file("a", "2")}}, []string{`a file "2"`, `b file "1"`},
		},
		"hard link over a file, and over itself": {
			layers{{file("a", "1"), file("b", "2"), hardlink("b", "a"), hardlink("a", "a")}},
			[]string{`a file "1"`, "b hard link → a"},
		},
		"AUFS's books": {
			layers{{dir(".wh..wh.plnk"), file(".wh..wh.plnk/12.34", "x"), whiteout(".wh..wh.aufs"), dir("d"), file("d/.wh..wh.orph", "")}},
			[]string{"d directory"},
		},
		"devices": {
			layers{{
				item{Header: header("c", tar.TypeChar, 0o666)}.with(func(h *tar.Header) { h.Devmajor, h.Devminor = 1, 3 }),
				item{Header: header("b", tar.TypeBlock, 0o660)}.with(func(h *tar.Header) { h.Devmajor, h.Devminor = 259, 70000 }),
			}},
			[]string{"b block device 259:70000", "c character device 1:3"},
		},
		"odd names": {
			layers{{file("new\nline", ""), file("\xff\x1b", ""), file(`..\x`, ""), file("...", ""), symlink("up", "../../etc")}},
			[]string{`... file ""`, `..\x file ""`, "new\nline file \"\"", "up symlink → ../../etc", "\xff\x1b file \"\""},
		},
		"owners and bits": {
			layers{{owned(mode(file("a", ""), 0o6755), 1<<31), owned(mode(dir("t"), 0o1777), 4294967294)}},
			[]string{`a file 6755 2147483648:2147483648 ""`, "t directory 1777 4294967294:4294967294"},
		},
		"a comment for all": {
			layers{{item{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"comment": "x", "path": "../evil"}}}, file("a", "1")}},
			[]string{`a file "1"`},
		},
		"an attribute": {
			layers{{file("a", "1").with(func(h *tar.Header) {
				h.PAXRecords = map[string]string{
					"SCHILY.xattr.user.x": "v\x00\n", "SCHILY.xattr.security.capability": "\x01\x00\x00\x02",
					"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.com.apple.quarantine": "q", "comment": "c",
				}
			})}},
			[]string{`a file security.capability="\x01\x00\x00\x02" user.x="v\x00\n" "1"`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var packed [][]byte
			for _, l := range tt.layers {
				packed = append(packed, pack(t, l...))
			}
			a := apply(t, packed...)
			if d := cmp.Diff(lines(tt.want...), a.tree(t)); d != "" {
				t.Error(d)
			}
			if !bytes.Equal(a.bytes(t), apply(t, packed...).bytes(t)) {
				t.Error("the same layers gave another image")
			}
		})
	}
}
