package archtest

import (
	"fmt"
	"io/fs"
	"regexp"
	"strings"
)

// localPath matches absolute paths that exist on one developer's machine only. The pieces are
// joined here so that this file does not match itself.
func localPath() *regexp.Regexp {
	places := []string{"/wo" + "rk/", "/tm" + "p/h/", "/ho" + "me/[a-z]+/src/", "/Use" + "rs/[A-Za-z]+/", "/ro" + "ot/go/"}
	return regexp.MustCompile(`(^|[^A-Za-z0-9_.~$}/*-])(` + strings.Join(places, "|") + `)`)
}

// checkText finds machine-local paths in everything we would commit.
func (t *Tree) checkText() []Violation {
	re := localPath()
	var out []Violation
	for _, p := range t.text {
		data, err := fs.ReadFile(t.fsys, p)
		if err != nil {
			continue // removed since the walk
		}
		n := 0
		for line := range strings.Lines(string(data)) {
			n++
			if m := re.FindStringSubmatch(line); m != nil {
				out = append(out, Violation{
					fmt.Sprintf("%s:%d", p, n), "local-paths",
					fmt.Sprintf("%q is a path of one machine", m[2]),
					"use t.TempDir(), the paths package, or a path relative to the repository",
				})
			}
		}
	}
	return out
}
