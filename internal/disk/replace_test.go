package disk

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// put is Replace of an object.
func put(t *testing.T, w *Writer, o object) {
	t.Helper()
	if err := w.Replace(o.Entry, bytes.NewReader(o.data)); err != nil {
		t.Fatal(err)
	}
}

// layers writes an image in steps and checks it with e2fsck.
func layers(t *testing.T, fill func(w *Writer)) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	err := CreateFile(image, Options{}, func(w *Writer) error { fill(w); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func TestReplacedContentLeavesNoTrace(t *testing.T) {
	secret := bytes.Repeat([]byte("never to be seen again. "), 10000)
	big := file("secret", 0o600, secret)
	attrs := file("attrs", 0o600, []byte("x"))
	attrs.Xattrs = map[string][]byte{"user.big": secret[:3000]}
	scattered := fragments(2000)
	for i := 0; i < len(scattered); i += 2 * blockSize {
		copy(scattered[i:], secret[:100])
	}
	image := layers(t, func(w *Writer) {
		put(t, w, big)
		put(t, w, attrs)
		put(t, w, file("scattered", 0o600, scattered)) // an extent tree
		put(t, w, symlink("link", string(secret[:200])))
		put(t, w, file("keep", 0o644, noise(100000)))
		put(t, w, file("tree/a/b", 0o644, secret))
		if err := w.StartLayer(); err != nil {
			t.Fatal(err)
		}
		put(t, w, file("secret", 0o644, []byte("harmless")))
		put(t, w, file("attrs", 0o644, nil))
		put(t, w, dirAt("scattered", 0o755))
		put(t, w, file("link", 0o644, nil))
		put(t, w, file("tree", 0o644, nil))
		for i := range 50 {
			put(t, w, file(fmt.Sprintf("more/%d", i), 0o644, noise(i*700)))
		}
	})
	fsck(t, image)
	p, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	if i := bytes.Index(p, secret[:24]); i >= 0 {
		t.Errorf("what was replaced is still at byte %d", i)
	}
	checkContents(t, []object{file("keep", 0, noise(100000)), file("secret", 0, []byte("harmless"))}, readFrom(openImage(t, image)))
}

func TestReplacedSpaceIsUsedAgain(t *testing.T) {
	image := layers(t, func(w *Writer) {
		for range 20 {
			if err := w.StartLayer(); err != nil {
				t.Fatal(err)
			}
			for i := range 10 {
				put(t, w, file(fmt.Sprint(i), 0o644, noise(1<<20)))
			}
		}
	})
	st, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() > 14<<20 {
		t.Errorf("10 MiB of content, written 20 times, take %d bytes", st.Size())
	}
	fsck(t, image)
}

func TestHideActsOnEarlierLayersOnly(t *testing.T) {
	image := layers(t, func(w *Writer) {
		lower := dirAt("d", 0o700)
		lower.UID = 7
		put(t, w, lower)
		put(t, w, file("d/old", 0o644, []byte("old")))
		put(t, w, file("d/sub/old", 0o644, []byte("old")))
		put(t, w, file("e/old", 0o644, []byte("old")))
		put(t, w, file("f", 0o644, []byte("old")))
		put(t, w, object{Entry: Entry{Path: "f2", Type: TypeHardlink, Target: "f"}})
		if err := w.StartLayer(); err != nil {
			t.Fatal(err)
		}
		put(t, w, file("d/new", 0o644, []byte("new")))
		put(t, w, dirAt("e", 0o711))
		put(t, w, file("e/new", 0o644, []byte("new")))
		for _, path := range []string{"d", "f", "missing", "missing/too", "d/new"} {
			if err := w.Hide(path); err != nil {
				t.Error(err)
			}
		}
		if err := w.HideBelow("e"); err != nil {
			t.Error(err)
		}
		for _, path := range []string{"f2/x", "d/new/x"} {
			if err := w.Hide(path); !errors.Is(err, ErrNotDirectory) || !errors.Is(err, ErrRefused) {
				t.Errorf("Hide(%q) = %v", path, err)
			}
		}
		if err := w.HideBelow("f2"); !errors.Is(err, ErrNotDirectory) {
			t.Errorf("HideBelow(f2) = %v", err)
		}
	})
	fsck(t, image)
	d := want([]object{
		dirAt("e", 0o711),
		file("d/new", 0o644, []byte("new")), file("e/new", 0o644, []byte("new")), file("f2", 0o644, []byte("old")),
	}, Options{})
	if diff := diffEntries(d, walkAll(t, openImage(t, image))); diff != "" {
		t.Error(diff)
	}
}

func TestHardLinkReplaces(t *testing.T) {
	image := layers(t, func(w *Writer) {
		put(t, w, file("d/x", 0o644, []byte("x")))
		put(t, w, file("y", 0o644, []byte("y")))
		put(t, w, object{Entry: Entry{Path: "y", Type: TypeHardlink, Target: "d/x"}})
		put(t, w, object{Entry: Entry{Path: "y", Type: TypeHardlink, Target: "y"}}) // itself
		put(t, w, object{Entry: Entry{Path: "d", Type: TypeHardlink, Target: "d/x"}})
		put(t, w, file("e/x", 0o644, []byte("e"))) // with no other name
		put(t, w, object{Entry: Entry{Path: "e", Type: TypeHardlink, Target: "e/x"}})
		put(t, w, object{Entry: Entry{Path: "e", Type: TypeHardlink, Target: "e"}})
		put(t, w, file("f", 0o644, []byte("f")))
	})
	fsck(t, image)
	list := []object{file("e", 0o644, []byte("e")), file("f", 0o644, []byte("f")), file("d", 0o644, []byte("x"))}
	checkContents(t, list, readFrom(openImage(t, image)))
	expect := want([]object{list[0], list[1], list[2], {Entry: Entry{Path: "y", Type: TypeHardlink, Target: "d"}}}, Options{})
	if diff := diffEntries(expect, walkAll(t, openImage(t, image))); diff != "" {
		t.Error(diff)
	}
}

// TestRandomReplacing holds the writer against a map, and its freed blocks and inodes against
// e2fsck.
func TestRandomReplacing(t *testing.T) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 1))
		model := map[string]object{}
		remove := func(path string) {
			for p := range model {
				if p == path || strings.HasPrefix(p, path+"/") {
					delete(model, p)
				}
			}
		}
		image := layers(t, func(w *Writer) {
			for range 1500 {
				path := fmt.Sprintf("%d/%d", r.IntN(5), r.IntN(40))
				switch r.IntN(6) {
				case 0:
					if err := errors.Join(w.StartLayer(), w.Hide(path)); err != nil {
						t.Fatal(err)
					}
					remove(path)
				case 1:
					o := symlink(path, strings.Repeat("t", 1+r.IntN(100)))
					put(t, w, o)
					remove(path)
					model[path] = o
				default:
					data := noise(r.IntN(40000))
					if r.IntN(10) == 0 {
						data = fragments(6)
					}
					o := file(path, 0o644, data)
					if r.IntN(5) == 0 {
						o.Xattrs = map[string][]byte{"user.x": noise(r.IntN(2000))}
					}
					put(t, w, o)
					remove(path)
					model[path] = o
				}
			}
		})
		fsck(t, image)
		var list []object
		for i := range 5 { // the directories stay
			list = append(list, object{Entry: Entry{Path: fmt.Sprint(i), Type: TypeDir, Mode: 0o755, ModTime: Options{}.Time}})
			list[i].ModTime = want(nil, Options{})[0].ModTime
		}
		for _, o := range model {
			list = append(list, o)
		}
		if diff := diffEntries(want(list, Options{}), walkAll(t, openImage(t, image))); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
		checkContents(t, list, readFrom(openImage(t, image)))
	}
}
