package catalog

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mvmctl/mvmctl/internal/machine"
)

func TestBundled(t *testing.T) {
	t.Parallel()
	c, err := Load(filepath.Join(t.TempDir(), "none"))
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := c.Find("minimal"); !ok || e.Builder != BuilderEmbedded {
		t.Errorf("%+v", e)
	}
	if _, ok := c.Find("nothing"); ok {
		t.Error("an entry that is none")
	}
	if got := c.Search("HTTP", "nix"); len(got) != 1 || got[0].Name != "nix-http" {
		t.Errorf("%+v", got)
	}
	if got := c.Search(); len(got) != len(c.All()) {
		t.Errorf("%d of %d", len(got), len(c.All()))
	}
}

func TestUserCatalogs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.json", `{"schema": 1, "entries": [{"name": "redis", "description": "ours", "builder": "oci", "ref": "registry.example/redis:1"}, {"name": "own", "description": "", "builder": "nix", "ref": "."}]}`)
	write("ignored.txt", "not JSON")
	c, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if e, _ := c.Find("redis"); e.Ref != "registry.example/redis:1" || e.From == "" {
		t.Errorf("%+v", e)
	}
	if _, ok := c.Find("own"); !ok {
		t.Error("an entry of the user's is missing")
	}
	bad := map[string]string{
		`{`:                                "unexpected EOF",
		"{\"schema\": 1,\n\"entries\": 3}": "line 2",
		`{"schema": 2}`:                    "schema is 2",
		`{"schema": 1, "x": 1}`:            "unknown field",
		`{"schema": 1} {}`:                 "after its end",
		`{"schema": 1, "entries": [{"name": "a", "builder": "magic", "ref": "x"}]}`:                                                  "builder is",
		`{"schema": 1, "entries": [{"name": "../a", "builder": "oci", "ref": "x"}]}`:                                                 "name may have",
		`{"schema": 1, "entries": [{"name": "a", "builder": "oci", "ref": "--x"}]}`:                                                  "ref is missing",
		`{"schema": 1, "entries": [{"name": "a", "builder": "oci", "ref": "x", "size": "lots"}]}`:                                    "lots",
		`{"schema": 1, "entries": [{"name": "a", "builder": "oci", "ref": "x"}, {"name": "a", "builder": "oci", "ref": "y"}]}`:       "twice",
		`{"schema": 1, "entries": [{"name": "a", "builder": "oci", "ref": "x", "description": "` + strings.Repeat("x", 600) + `"}]}`: "too long",
	}
	for text, want := range bad {
		write("b.json", text)
		_, err := Load(dir)
		if machine.CodeOf(err) != "catalog.invalid" || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "b.json") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(bundled)
	f.Add([]byte(`{"schema": 1, "entries": [{"name": "a", "builder": "oci", "ref": "x"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parse(data, "f")
		if err != nil {
			return
		}
		for _, e := range c.All() {
			if got, ok := c.Find(e.Name); !ok || got.Ref != e.Ref || e.check() != nil {
				t.Errorf("%+v", e)
			}
		}
	})
}
