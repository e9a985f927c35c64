// Package catalog lists images that are worth knowing: the names, what makes each of them, and
// what a machine of it needs. The list in this program can be widened and overridden by files
// in the user's configuration.
//
// It holds no images and fetches none: image and build do. Package cli calls it.
package catalog

import (
	"bytes"
	_ "embed" // the bundled catalog
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// Schema is the version of the files' format (docs/catalog.md).
const Schema = 1

// Bounds of a catalog file.
const (
	maxFile    = 1 << 20
	maxEntries = 10_000
	maxText    = 500
)

// Builders of entries.
const (
	BuilderEmbedded = "embedded" // inside this program
	BuilderOCI      = "oci"      // Ref is a container image
	BuilderNix      = "nix"      // Ref is a flake, or template:NAME
)

//go:embed catalog.json
var bundled []byte

// Entry is one image.
type Entry struct {
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Builder     string   `json:"builder"`
	Ref         string   `json:"ref"`
	Profile     string   `json:"profile,omitempty"` // of a flake
	Tags        []string `json:"tags,omitempty"`
	CPUs        int      `json:"cpus,omitempty"`   // that a machine of it should have
	Memory      string   `json:"memory,omitempty"` //
	Disk        string   `json:"disk,omitempty"`   //
	Size        string   `json:"size,omitempty"`   // of the image, about

	From string `json:"-"` // the file it stands in; "" is this program's own
}

// Catalog is a list of entries, by name.
type Catalog struct{ entries []Entry }

// Load reads the bundled catalog and then the .json files of a folder, in the order of their
// names; a later entry of a name replaces an earlier one. A folder that does not exist is empty.
func Load(dir string) (Catalog, error) {
	c, err := parse(bundled, "")
	if err != nil {
		return Catalog{}, fmt.Errorf("the bundled catalog: %w", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return c, nil
		}
		return Catalog{}, machine.Errorf("catalog.unreadable", "make it readable, or remove it", "reading the catalogs: %w", err)
	}
	for _, f := range files {
		if f.IsDir() || filepath.Ext(f.Name()) != ".json" {
			continue
		}
		path := filepath.Join(dir, f.Name())
		more, err := readFile(path)
		if err != nil {
			return Catalog{}, err
		}
		for _, e := range more.entries {
			c.put(e)
		}
	}
	return c, nil
}

func readFile(path string) (Catalog, error) {
	f, err := os.Open(path)
	if err != nil {
		return Catalog{}, machine.Errorf("catalog.unreadable", "make it readable, or remove it", "reading the catalog: %w", err)
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return Catalog{}, machine.Errorf("input.not_regular", "remove it", "%s is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Catalog{}, machine.Errorf("catalog.unreadable", "make it readable, or remove it", "reading the catalog: %w", err)
	}
	c, err := parse(data, path)
	if err != nil {
		return Catalog{}, machine.Errorf("catalog.invalid", "correct it as docs/catalog.md describes it, or remove it", "%s: %w", path, err)
	}
	return c, nil
}

// parse reads one catalog file, strictly.
func parse(data []byte, from string) (Catalog, error) {
	if len(data) > maxFile {
		return Catalog{}, errors.New("it has more than 1 MiB")
	}
	var file struct {
		Schema  int     `json:"schema"`
		Entries []Entry `json:"entries"`
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&file); err != nil {
		return Catalog{}, place(data, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return Catalog{}, errors.New("it has data after its end")
	}
	switch {
	case file.Schema != Schema:
		return Catalog{}, fmt.Errorf("its schema is %d, this program knows %d", file.Schema, Schema)
	case len(file.Entries) > maxEntries:
		return Catalog{}, fmt.Errorf("it has more than %d entries", maxEntries)
	}
	var c Catalog
	seen := map[string]bool{}
	for i, e := range file.Entries {
		if err := e.check(); err != nil {
			return Catalog{}, fmt.Errorf("entry %d (%.40q): %w", i+1, e.Name, err)
		}
		if seen[e.Name] {
			return Catalog{}, fmt.Errorf("entry %d: %q is there twice", i+1, e.Name)
		}
		seen[e.Name] = true
		e.From = from
		c.put(e)
	}
	return c, nil
}

// place adds the line to what the decoder did not like.
func place(data []byte, err error) error {
	var offset int64 = -1
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		offset = e.Offset
	} else if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		offset = e.Offset
	}
	if offset < 0 || offset > int64(len(data)) {
		return err
	}
	return fmt.Errorf("line %d: %w", 1+bytes.Count(data[:offset], []byte{'\n'}), err)
}

func (e Entry) check() error {
	switch {
	case machine.CheckName(e.Name) != nil:
		return errors.New("its name may have lower-case letters, digits and '-'")
	case !slices.Contains([]string{BuilderEmbedded, BuilderOCI, BuilderNix}, e.Builder):
		return fmt.Errorf("its builder is %.40q and not embedded, oci or nix", e.Builder)
	case e.Ref == "" || len(e.Ref) > maxText || strings.HasPrefix(e.Ref, "-"):
		return errors.New("its ref is missing, too long, or begins with '-'")
	case len(e.Description) > maxText || len(e.Tags) > 50:
		return errors.New("its description or its tags are too long")
	case e.CPUs < 0 || e.CPUs > machine.MaxCPUs:
		return fmt.Errorf("%d is no number of CPUs", e.CPUs)
	}
	for _, size := range []string{e.Memory, e.Disk, e.Size} {
		if _, err := machine.ParseSize(size); size != "" && err != nil {
			return err
		}
	}
	return nil
}

// put adds an entry, in place of one of the same name.
func (c *Catalog) put(e Entry) {
	i, found := slices.BinarySearchFunc(c.entries, e.Name, func(a Entry, name string) int { return strings.Compare(a.Name, name) })
	if found {
		c.entries[i] = e
		return
	}
	c.entries = slices.Insert(c.entries, i, e)
}

// All returns all entries, sorted by name.
func (c Catalog) All() []Entry { return slices.Clone(c.entries) }

// Find returns the entry of a name.
func (c Catalog) Find(name string) (Entry, bool) {
	i, found := slices.BinarySearchFunc(c.entries, name, func(a Entry, name string) int { return strings.Compare(a.Name, name) })
	if !found {
		return Entry{}, false
	}
	return c.entries[i], true
}

// Search returns the entries that have every word in their name, description or tags.
func (c Catalog) Search(words ...string) []Entry {
	var out []Entry
	for _, e := range c.entries {
		text := strings.ToLower(e.Name + " " + e.Description + " " + strings.Join(e.Tags, " "))
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, strings.ToLower(w)) }) {
			out = append(out, e)
		}
	}
	return out
}
