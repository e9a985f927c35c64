package layer

import (
	"archive/tar"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/disk"
)

// model is a file tree as simple as can be: what a stack of layers should come to.
type model map[string]*node

// node is a file or directory; names of one file share it.
type node struct {
	dir  bool
	data string // or the target of a symlink
	link bool
	uid  int
}

func (m model) remove(name string, self bool) {
	for p := range m {
		if self && p == name || strings.HasPrefix(p, name+"/") || name == "." && p != "." {
			delete(m, p)
		}
	}
}

// free says whether nothing but directories is on the way to a name.
func (m model) free(name string) bool {
	for d := path.Dir(name); d != "."; d = path.Dir(d) {
		if n, ok := m[d]; ok && !n.dir {
			return false
		}
	}
	return true
}

func (m model) put(name string, n *node) {
	if old, ok := m[name]; ok && old.dir && n.dir {
		m[name] = n
		return
	}
	m.remove(name, true)
	for d := path.Dir(name); d != "."; d = path.Dir(d) {
		if m[d] == nil {
			m[d] = &node{dir: true}
		}
	}
	m[name] = n
}

// tree writes the model by the plainest means and lists the image.
func (m model) tree(t *testing.T) string {
	t.Helper()
	a := imageOf(t, func(w *disk.Writer) (Stats, error) {
		first := map[*node]string{}
		for _, name := range slices.Sorted(maps.Keys(m)) {
			n := m[name]
			e := disk.Entry{Path: name, Mode: 0o755, UID: uint32(n.uid), GID: uint32(n.uid)}
			var err error
			switch {
			case n.dir:
				e.Type = disk.TypeDir
				err = w.Add(e, nil)
			case first[n] != "":
				err = w.Add(disk.Entry{Path: name, Type: disk.TypeHardlink, Target: first[n]}, nil)
			case n.link:
				e.Type, e.Target, e.Mode = disk.TypeSymlink, n.data, 0o777
				err = w.Add(e, nil)
			default:
				e.Type, e.Size, e.Mode = disk.TypeFile, int64(len(n.data)), 0o644
				err = w.Add(e, strings.NewReader(n.data))
			}
			if err != nil {
				return Stats{}, err
			}
			if !n.dir && first[n] == "" {
				first[n] = name
			}
		}
		return Stats{}, nil
	})
	return a.tree(t)
}

// randomLayer makes a layer that is right for the tree below, and applies it to the model:
// whiteouts first, wherever they stand.
func randomLayer(r *rand.Rand, m model) []item {
	name := func() string {
		parts := make([]string, 1+r.IntN(4))
		for i := range parts {
			parts[i] = string(rune('a' + r.IntN(4)))
		}
		return strings.Join(parts, "/")
	}
	before := maps.Clone(m)
	var whiteouts, entries []item
	for range r.IntN(4) {
		switch p := name(); {
		case !before.free(p + "/x"): // a marker there would be a conflict
		case r.IntN(3) == 0:
			whiteouts = append(whiteouts, whiteout(p+"/.wh..wh..opq"))
			m.remove(p, false)
		default:
			dir, base := path.Split(p)
			whiteouts = append(whiteouts, whiteout(dir+".wh."+base))
			m.remove(p, true)
		}
	}
	for i := range 1 + r.IntN(15) {
		p := name()
		if !before.free(p) || !m.free(p) {
			continue
		}
		switch r.IntN(6) {
		case 0, 1:
			d := dir([]string{"", "./", "/"}[r.IntN(3)] + p + "/")
			d.Uid, d.Gid = i, i
			entries = append(entries, d)
			m.put(p, &node{dir: true, uid: i})
			delete(before, p)
		case 2:
			entries = append(entries, symlink(p, "target"))
			m.put(p, &node{link: true, data: "target"})
		case 3:
			names := slices.Sorted(maps.Keys(m))
			names = slices.DeleteFunc(names, func(s string) bool { return m[s].dir })
			if len(names) == 0 {
				continue
			}
			to := names[r.IntN(len(names))]
			n := m[to]
			entries = append(entries, hardlink(p, "./"+to))
			if p != to {
				m.put(p, n)
			}
		default:
			data := fmt.Sprint("data", r.IntN(1000))
			entries = append(entries, file(p, data))
			m.put(p, &node{data: data})
		}
	}
	for _, wh := range whiteouts { // anywhere among the entries, but markers need their folder
		at := r.IntN(len(entries) + 1)
		if blocked(entries, wh.Name) {
			at = 0
		}
		entries = slices.Insert(entries, at, wh)
	}
	return entries
}

// blocked says whether an entry of the layer is a file where a marker needs a folder.
func blocked(entries []item, marker string) bool {
	for _, e := range entries {
		if e.Typeflag != tar.TypeDir && strings.HasPrefix(marker, strings.Trim(path.Clean("/"+e.Name), "/")+"/") {
			return true
		}
	}
	return false
}

func TestRandomStacks(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 7))
		m := model{}
		var packed [][]byte
		var story strings.Builder
		for i := range 1 + r.IntN(5) {
			items := randomLayer(r, m)
			packed = append(packed, pack(t, items...))
			for _, it := range items {
				fmt.Fprintf(&story, "%d %c %s %s %s\n", i, it.Typeflag, it.Name, it.Linkname, it.data)
			}
		}
		a := apply(t, packed...)
		if d := cmp.Diff(m.tree(t), a.tree(t)); d != "" {
			t.Fatalf("seed %d (-model +ours):\n%s\n%s", seed, d, story.String())
		}
	}
}
