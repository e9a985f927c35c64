package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"
)

// victim is a small image and where things are in it.
type victim struct {
	p  []byte
	fs *FS
}

func newVictim(t *testing.T) *victim {
	t.Helper()
	m := &memory{}
	w, err := NewWriter(m, Options{})
	list := []object{
		dirAt("dir", 0o755), dirAt("dir/sub", 0o755), file("dir/aaaa", 0o644, []byte("a")),
		file("dir/bbbb", 0o644, []byte("b")), symlink("link", "target"), file("frag", 0o644, fragments(6)),
	}
	if err == nil {
		err = errors.Join(addAll(list)(w), w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	fs, err := open(m, int64(len(m.p)), false)
	if err != nil {
		t.Fatal(err)
	}
	return &victim{m.p, fs}
}

// inode returns the raw inode at a path.
func (v *victim) inode(t *testing.T, path string) (raw []byte, ino uint32) {
	t.Helper()
	n, _, err := v.fs.find("test", path)
	if err != nil {
		t.Fatal(err)
	}
	table, err := v.fs.table(0)
	if err != nil {
		t.Fatal(err)
	}
	return v.p[table*blockSize+int64(n.ino-1)*inodeSize:][:inodeSize], n.ino
}

// dirent returns the raw directory entry of a name.
func (v *victim) dirent(t *testing.T, name string) []byte {
	t.Helper()
	needle := append([]byte{byte(len(name)), 0}, name...)
	for ft := byte(1); ft < 8; ft++ {
		needle[1] = ft
		if at := bytes.Index(v.p, needle); at >= 0 {
			return v.p[at-6:]
		}
	}
	t.Fatalf("no entry %q", name)
	return nil
}

func TestHostileImages(t *testing.T) {
	le := binary.LittleEndian
	for name, spoil := range map[string]func(t *testing.T, v *victim){
		"directory in itself": func(t *testing.T, v *victim) {
			_, ino := v.inode(t, "dir")
			le.PutUint32(v.dirent(t, "sub"), ino)
		},
		"root in a directory":  func(t *testing.T, v *victim) { le.PutUint32(v.dirent(t, "sub"), rootIno) },
		"journal as a file":    func(t *testing.T, v *victim) { le.PutUint32(v.dirent(t, "aaaa"), journalIno) },
		"inode out of range":   func(t *testing.T, v *victim) { le.PutUint32(v.dirent(t, "aaaa"), 1<<31) },
		"slash in a name":      func(t *testing.T, v *victim) { copy(v.dirent(t, "aaaa")[8:], "../x") },
		"NUL in a name":        func(t *testing.T, v *victim) { copy(v.dirent(t, "aaaa")[8:], "a\x00aa") },
		"name twice":           func(t *testing.T, v *victim) { copy(v.dirent(t, "aaaa")[8:], "bbbb") },
		"rec_len 0":            func(t *testing.T, v *victim) { le.PutUint16(v.dirent(t, "aaaa")[4:], 0) },
		"rec_len odd":          func(t *testing.T, v *victim) { le.PutUint16(v.dirent(t, "aaaa")[4:], 13) },
		"rec_len beyond block": func(t *testing.T, v *victim) { le.PutUint16(v.dirent(t, "aaaa")[4:], 4096) },
		"name longer than entry": func(t *testing.T, v *victim) {
			v.dirent(t, "aaaa")[6] = 200
		},
		"empty name": func(t *testing.T, v *victim) { v.dirent(t, "aaaa")[6] = 0 },
		"huge directory": func(t *testing.T, v *victim) {
			raw, _ := v.inode(t, "dir")
			le.PutUint32(raw[4:], 1<<31)
		},
		"directory of half a block": func(t *testing.T, v *victim) {
			raw, _ := v.inode(t, "dir")
			le.PutUint32(raw[4:], 2048)
		},
		"directory with a hole": func(t *testing.T, v *victim) {
			raw, _ := v.inode(t, "dir")
			le.PutUint32(raw[4:], 8192)
		},
		"extent beyond the image": func(t *testing.T, v *victim) {
			raw, _ := v.inode(t, "dir")
			le.PutUint32(raw[0x28+12+8:], 1<<30)
		},
		"extent at the superblock": func(t *testing.T, v *victim) {
			raw, _ := v.inode(t, "dir")
			le.PutUint32(raw[0x28+12+8:], 0)
		},
		"extent tree of depth 9": func(t *testing.T, v *victim) {
			raw, _ := v.inode(t, "dir")
			le.PutUint16(raw[0x28+6:], 9)
		},
		"five extents in an inode": func(t *testing.T, v *victim) {
			raw, _ := v.inode(t, "dir")
			le.PutUint16(raw[0x28+2:], 5)
			le.PutUint16(raw[0x28+4:], 5)
		},
		"no links": func(t *testing.T, v *victim) {
			raw, _ := v.inode(t, "dir/aaaa")
			le.PutUint16(raw[0x1A:], 0)
		},
		"impossible type": func(t *testing.T, v *victim) {
			raw, _ := v.inode(t, "dir/aaaa")
			le.PutUint16(raw[0:], 0x3000)
		},
		"negative size": func(t *testing.T, v *victim) {
			raw, _ := v.inode(t, "dir/aaaa")
			le.PutUint32(raw[0x6C:], 1<<31)
		},
		"endless symlink": func(t *testing.T, v *victim) {
			raw, _ := v.inode(t, "link")
			le.PutUint32(raw[4:], 1<<30)
		},
		"symlink beyond the inode": func(t *testing.T, v *victim) {
			raw, _ := v.inode(t, "link")
			le.PutUint32(raw[4:], 200)
		},
		"NUL in a symlink": func(t *testing.T, v *victim) {
			raw, _ := v.inode(t, "link")
			raw[0x28+2] = 0
		},
		"extra bytes beyond the inode": func(t *testing.T, v *victim) {
			raw, _ := v.inode(t, "link")
			le.PutUint16(raw[0x80:], 200)
		},
		"xattr block out of range": func(t *testing.T, v *victim) {
			raw, _ := v.inode(t, "link")
			le.PutUint32(raw[0x68:], 1<<30)
		},
		"xattr block elsewhere": func(t *testing.T, v *victim) {
			raw, _ := v.inode(t, "link")
			le.PutUint32(raw[0x68:], 2)
		},
		"xattr name beyond the inode": func(t *testing.T, v *victim) {
			raw, _ := v.inode(t, "link")
			le.PutUint32(raw[inodeXattr:], xattrMagic)
			raw[inodeXattr+4], raw[inodeXattr+5] = 255, xattrUser
		},
		"xattrs without end": func(t *testing.T, v *victim) {
			raw, _ := v.inode(t, "link")
			le.PutUint32(raw[inodeXattr:], xattrMagic)
			for at := inodeXattr + 4; at+16 < inodeSize; at += 16 {
				raw[at+1] = xattrACLAccess
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVictim(t)
			spoil(t, v)
			f, err := open(bytes.NewReader(v.p), int64(len(v.p)), false)
			if err == nil {
				err = f.Walk(func(Entry) error { return nil })
			}
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnsupported) {
				t.Fatalf("error %v, want ErrCorrupt", err)
			}
			t.Log(err)
			if f, err = Open(bytes.NewReader(v.p), int64(len(v.p))); err == nil {
				err = f.Walk(func(Entry) error { return nil })
			}
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("with checksums: error %v, want ErrCorrupt", err)
			}
		})
	}
}

// An index that points at itself, or at a node of the wrong depth, is no loop.
func TestHostileExtentTree(t *testing.T) {
	v := newVictim(t)
	raw, _ := v.inode(t, "frag")
	le := binary.LittleEndian
	leaf := le.Uint32(raw[0x28+12+4:])
	node := v.p[int64(leaf)*blockSize:][:blockSize]
	le.PutUint16(raw[0x28+6:], 5) // five levels, all of them the same block
	le.PutUint16(node[6:], 4)
	le.PutUint32(node[12+4:], leaf)
	f, err := open(bytes.NewReader(v.p), int64(len(v.p)), false)
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := f.Open("frag")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, ErrCorrupt) {
		t.Errorf("error %v, want ErrCorrupt", err)
	}
}

func TestHostileSuperblocks(t *testing.T) {
	sound := newVictim(t).p
	set := func(at int, value uint32) []byte {
		p := slices.Clone(sound)
		binary.LittleEndian.PutUint32(p[superOffset+at:], value)
		return p
	}
	for name, tt := range map[string]struct {
		p    []byte
		want error
	}{
		"empty":             {nil, ErrNotExt4},
		"short":             {sound[:2047], ErrNotExt4},
		"zeros":             {make([]byte, 8192), ErrNotExt4},
		"cut off":           {sound[:len(sound)-blockSize], ErrCorrupt},
		"blocks 2^32-1":     {set(0x04, 1<<32-1), ErrCorrupt},
		"blocks 0":          {set(0x04, 0), ErrCorrupt},
		"inodes 2^32-1":     {set(0x00, 1<<32-1), ErrCorrupt},
		"inodes 0":          {set(0x00, 0), ErrCorrupt},
		"block size":        {set(0x18, 7), ErrCorrupt},
		"block size 2^31":   {set(0x18, 1<<31), ErrCorrupt},
		"group of 0 blocks": {set(0x20, 0), ErrCorrupt},
		"group of 0 inodes": {set(0x28, 0), ErrCorrupt},
		"inode size 0":      {set(0x58, 0), ErrCorrupt},
		"inode size 300":    {set(0x58, 300), ErrCorrupt},
		"first block":       {set(0x14, 1<<31), ErrCorrupt},
		"first inode 1":     {set(0x54, 1), ErrCorrupt},
		"inline data":       {set(0x60, incompatInlineData|0x42), ErrUnsupported},
		"unknown feature":   {set(0x60, 1<<30|0x42), ErrUnsupported},
		"bigalloc":          {set(0x64, roBigalloc), ErrUnsupported},
		"64bit, tiny descs": {set(0x60, incompat64Bit|0x42), ErrCorrupt},
		"needs recovery":    {set(0x60, incompatRecover|0x42), ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := open(bytes.NewReader(tt.p), int64(len(tt.p)), false); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			} else {
				t.Log(err)
			}
		})
	}
}
