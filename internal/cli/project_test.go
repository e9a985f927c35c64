package cli

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mvmctl/mvmctl/internal/build"
	"github.com/mvmctl/mvmctl/internal/config"
	"github.com/mvmctl/mvmctl/internal/engine"
)

// projectIn makes a folder of a name with an mvm.toml.
func projectIn(t *testing.T, name, text string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, projectFile), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestProjectName: the machine is called as the file says, or after the folder; where no name can
// be made of that, the message says what to write.
func TestProjectName(t *testing.T) {
	const text = "image = \"minimal\"\n"
	for _, tt := range []struct{ folder, text, args, want string }{
		{"Web Shop", text, "up -d", "web-shop"},
		{"web", text, "up -d --name other", "other"},
		{"магазин", "name = \"shop\"\n" + text, "up -d", "shop"},
		{"магазин", text, "up -d --name other", "other"},
		{strings.Repeat("a", 62) + "--b", text, "up -d", strings.Repeat("a", 62)},
	} {
		if spec, _ := upSpec(t, call{dir: projectIn(t, tt.folder, tt.text)}, strings.Fields(tt.args)...); spec.Name != tt.want {
			t.Errorf("%s: %q, want %q", tt.folder, spec.Name, tt.want)
		}
	}
	a := call{dir: projectIn(t, "магазин", text)}.run(t, "up", "-d")
	if a.code != 2 || !strings.Contains(a.err, "магазин") || !strings.Contains(a.err, `write name = "NAME" in mvm.toml`) {
		t.Errorf("%d: %s", a.code, a.err)
	}
}

// flakeRefs remembers which flake it was asked to build.
type flakeRefs struct {
	Builder
	refs []string
}

func (f *flakeRefs) Flake(_ context.Context, ref, _ string, _ build.Options) (build.Result, error) {
	f.refs = append(f.refs, ref)
	return build.Result{Name: "web"}, nil
}

// TestProjectFlake: a flake of the file that is a relative path is one below the file's folder,
// also where no machine could be named after that folder.
func TestProjectFlake(t *testing.T) {
	for ref, want := range map[string]string{
		".": "DIR", ".#web": "DIR#web", "#web": "DIR#web", "./sub?dir=x#web": "DIR/sub?dir=x#web", "..": "PARENT", "path:./sub": "path:DIR/sub", "path:sub": "path:DIR/sub",
		"/abs#x": "/abs#x", "path:/abs": "path:/abs", "github:owner/repo?ref=./x": "github:owner/repo?ref=./x", "nixpkgs#hello": "nixpkgs#hello", "template:web": "template:web",
	} {
		dir := projectIn(t, "магазин", "flake = \""+ref+"\"\n")
		b := &flakeRefs{}
		a := call{dir: dir, deps: func(d *Deps) { d.Builder = func(config.Config) (Builder, error) { return b, nil } }}.run(t, "build")
		want = strings.NewReplacer("DIR", dir, "PARENT", filepath.Dir(dir)).Replace(want)
		if a.code != 0 || len(b.refs) != 1 || b.refs[0] != want {
			t.Errorf("%s: %v, want %s; %s", ref, b.refs, want, a.err)
		}
	}
}

// TestUpOfAnImagesOtherName: an image goes before a machine of the same name, whichever of its
// names that is.
func TestUpOfAnImagesOtherName(t *testing.T) {
	eng := &scripted{views: someMachines(), images: []engine.ImageInfo{{Name: "db", Names: []string{"db", "web"}}}}
	if spec, _ := upSpec(t, call{eng: eng}, "up", "-d", "web"); spec.Image != "web" || spec.Name != "" {
		t.Errorf("image %q, name %q", spec.Image, spec.Name)
	}
	if spec, _ := upSpec(t, call{eng: eng}, "start", "-d", "web"); spec.Image != "" || spec.Name != "web" {
		t.Errorf("start: image %q, name %q", spec.Image, spec.Name)
	}
}
