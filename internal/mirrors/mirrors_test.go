package mirrors

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCollect(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"https://proxy.test,direct":                            "proxy.test:443",
		"https://a.test|http://b.test:8080/x":                  "a.test:443 b.test:8080",
		"registry=https://user:word@Npm.TEST/path/":            "npm.test:443",
		"# registry=https://old.test\n; https://older.test":    "",
		"deb [arch=amd64] http://deb.test/debian x main":       "deb.test:80",
		"registry = \"sparse+https://crates.test/index/\"":     "crates.test:443",
		"<url>https://maven.test/repo</url>":                   "maven.test:443",
		"{\"registry-mirrors\": [\"https://[fd00::1]:5000\"]}": "[fd00::1]:5000",
		"file:///srv/mirror":                                   "",
	} {
		found := map[string]bool{}
		collect(text, found)
		if got := strings.Join(slices.Sorted(maps.Keys(found)), " "); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestHosts(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, ".npmrc"), []byte("registry=https://npm.test/\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(home, ".gemrc"), 0o700); err != nil { // no file
		t.Fatal(err)
	}
	got := Hosts(func(key string) string {
		return map[string]string{"HOME": home, "GOPROXY": "https://go.test,off"}[key]
	})
	for _, want := range []string{"npm.test:443", "go.test:443"} {
		if !slices.Contains(got, want) {
			t.Errorf("%q lacks %s", got, want)
		}
	}
}
