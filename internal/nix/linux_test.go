//go:build linux

package nix

import (
	"bytes"
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mvmctl/mvmctl/internal/linuxenv"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// otherLinux is this host as if it were another: it has the environment of the test.
type otherLinux struct {
	refused []string
	left    []string // folders of TempDir that were not deleted
}

// TempDir implements Linux.
func (l *otherLinux) TempDir(ctx context.Context) (string, func(), error) {
	dir, done, err := linuxenv.Env{}.TempDir(ctx)
	l.left = append(l.left, dir)
	return dir, func() {
		done()
		l.left = slices.DeleteFunc(l.left, func(d string) bool { return d == dir })
	}, err
}

// Run implements Linux.
func (l *otherLinux) Run(ctx context.Context, p linuxenv.Program) (int, error) {
	for _, a := range p.Args {
		for _, dir := range l.refused {
			if strings.Contains(a, dir) {
				panic("a folder of the host is named: " + a)
			}
		}
	}
	p.Env = append(os.Environ(), p.Env...)
	return linuxenv.Env{}.Run(ctx, p)
}

// TestBuildElsewhere: what nix builds on another Linux is what it builds here, and no folder of this
// host is needed there.
func TestBuildElsewhere(t *testing.T) {
	o := realNix(t)
	o.Flake = source(t, guestFlake(`{ files."/etc/x" = { text = "$(id) 'x'\n"; }; }`))
	here, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(here.RootfsTar)
	if err != nil {
		t.Fatal(err)
	}
	there, linux := o, &otherLinux{refused: []string{o.Flake, o.Inputs["mvm"]}}
	there.Linux, there.Fetched = linux, t.TempDir()
	r, err := Build(t.Context(), there)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	got, err := os.ReadFile(r.RootfsTar)
	if err != nil || !bytes.Equal(got, want) || r.StoreHash != here.StoreHash || r.Name != "web" || !strings.HasPrefix(r.ImageJSON, there.Fetched) {
		t.Errorf("got %+v (%v), here %+v", r, err, here)
	}
	if e, err := Evaluate(t.Context(), there); err != nil || e.OutPath != here.OutPath {
		t.Errorf("evaluated %+v, %v", e, err)
	}
	there.Flake = source(t, "{ not nix")
	o.Flake = there.Flake
	_, herr := Build(t.Context(), o)
	if _, err := Build(t.Context(), there); machine.CodeOf(err) != machine.CodeOf(herr) || machine.CodeOf(err) == "" {
		t.Errorf("a flake that is none: %v, here %v", err, herr)
	}
	if len(linux.left) > 0 {
		t.Errorf("left: %q", linux.left)
	}
}
