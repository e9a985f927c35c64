package archtest

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// checkImports holds one folder against the table.
func (t *Tree) checkImports(g *Group) []Violation {
	rows := table()
	me, ok := rows[key(g.Dir)]
	if !ok || !placed(g.Dir) {
		return []Violation{{
			Where: g.Dir, Law: "table",
			What: "this folder is not in the import table",
			Fix:  "add a row to internal/archtest/law.go and to docs/architecture.md (a new package needs two importers or a hard boundary), or put the code into the package that uses it",
		}}
	}
	var out []Violation
	for _, f := range g.Files {
		if f.Test {
			continue
		}
		for _, imp := range f.Imports {
			if v, bad := t.judgeImport(g, me, imp, rows); bad {
				out = append(out, v)
			}
		}
	}
	return out
}

// placed reports whether a folder lies where packages may lie: a table key without a slash is
// an internal package unless it is one of the top-level test programs.
func placed(dir string) bool {
	first, _, nested := strings.Cut(dir, "/")
	switch first {
	case "internal", "cmd", "scripts":
		return nested
	case "e2e":
		return !nested || dir == "e2e/kvmhost" || strings.HasPrefix(dir, "e2e/kvmhost/") // another host, for the tests
	case "bench", "nix", "guest": // nix and guest hold the flake and the kernel's options, and what embeds them
		return !nested
	}
	return false
}

func (t *Tree) judgeImport(g *Group, me row, imp Import, rows map[string]row) (Violation, bool) {
	rel, ours := strings.CutPrefix(imp.Path, t.Module+"/")
	if !ours {
		return t.judgeForeign(me, imp)
	}
	target := key(rel)
	to, known := rows[target]
	if !known {
		return Violation{}, false // reported once, by the folder itself
	}
	if mayImport(me, target, to) {
		return Violation{}, false
	}
	v := Violation{
		Where: t.at(imp.Pos), Law: "imports",
		What: fmt.Sprintf("%s may not import %s", key(g.Dir), target),
		Fix:  "declare the small interface that is needed and let cmd/mvmctl/wire.go hand it in; it may import: " + strings.Join(me.may, " "),
	}
	switch {
	case target == "driver/drivertest" || target == "archtest":
		v.Fix = "import it from a _test.go file only"
	case me.side == sideGuest && to.side == sideHost || me.side == sideHost && to.side == sideGuest:
		v.Fix = "host and guest share bytes (agentproto), not code"
	case strings.HasPrefix(target, "driver/"):
		v.Fix = "go through the driver contract; only cmd/mvmctl knows which backends exist"
	}
	return v, true
}

func (t *Tree) judgeForeign(me row, imp Import) (Violation, bool) {
	for _, ban := range bannedImports() {
		if ban.side != "" && ban.side != me.side {
			continue
		}
		if imp.Path == ban.path || strings.HasSuffix(ban.path, "/") && strings.HasPrefix(imp.Path, ban.path) {
			return Violation{
				Where: t.at(imp.Pos), Law: "banned-import",
				What: imp.Path + " is not used here", Fix: "remove it: " + ban.reason,
			}, true
		}
	}
	return Violation{}, false
}

// dependenciesDoc gives each direct dependency's reason.
const dependenciesDoc = "docs/dependencies.md"

// checkDependencies holds the modules that our files import against the document that says
// why each of them is there.
func (t *Tree) checkDependencies() []Violation {
	data, err := fs.ReadFile(t.fsys, dependenciesDoc)
	if err != nil {
		return []Violation{{dependenciesDoc, "dependencies", "it cannot be read: " + err.Error(), "write it: one table row per direct dependency"}}
	}
	documented := documentedModules(string(data))
	used := map[string]string{} // module → first use
	for _, dir := range t.dirs() {
		for _, f := range t.Packages[dir].Files {
			for _, imp := range f.Imports {
				if m := t.moduleOf(imp.Path); m != "" && used[m] == "" {
					used[m] = t.at(imp.Pos)
				}
			}
		}
	}
	var out []Violation
	for m, where := range used {
		if !slices.Contains(documented, m) {
			out = append(out, Violation{where, "dependencies", "module " + m + " is not in " + dependenciesDoc, "add a row with its licence, its reason and what was weighed against it, or do without it"})
		}
	}
	for _, m := range documented {
		if used[m] == "" {
			out = append(out, Violation{dependenciesDoc, "dependencies", "module " + m + " is documented and not imported by any file", "remove the row (and the module from go.mod)"})
		}
	}
	slices.SortFunc(out, func(a, b Violation) int { return strings.Compare(a.What, b.What) })
	return out
}

// documentedModules returns the modules of the document's table rows: the first cell, in
// backquotes. Text outside the table may mention modules freely.
func documentedModules(doc string) []string {
	var out []string
	for line := range strings.Lines(doc) {
		rest, ok := strings.CutPrefix(line, "| `")
		if !ok {
			continue
		}
		m, _, ok := strings.Cut(rest, "`")
		if ok && strings.Contains(path.Dir(m), ".") {
			out = append(out, m)
		}
	}
	return out
}

// moduleOf returns the required module that holds an import path, or "".
func (t *Tree) moduleOf(ipath string) string {
	best := ""
	for _, m := range t.Requires {
		if (ipath == m || strings.HasPrefix(ipath, m+"/")) && len(m) > len(best) {
			best = m
		}
	}
	return best
}
