//go:build linux

package agent_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mvmctl/mvmctl/internal/agent"
	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/agentproto"
)

// diff returns the changes as "K path (type)".
func diff(t *testing.T, c *agentclient.Client) []string {
	t.Helper()
	var out []string
	err := c.Diff(deadline(t), func(ch agentproto.Change) error {
		out = append(out, ch.Kind+" "+ch.Path+" "+ch.Type)
		return nil
	})
	if err != nil {
		t.Fatalf("Diff: %v", err)
	}
	return out
}

func withLayers(upper, lower string) func(*agent.Options) {
	return func(o *agent.Options) { o.Upper, o.Lower = upper, lower }
}

func TestDiffWithoutAnOverlay(t *testing.T) {
	err := boot(t).connect().Diff(deadline(t), func(agentproto.Change) error { return nil })
	if agentproto.CodeOf(err) != agentproto.CodeNoOverlay {
		t.Errorf("%v", err)
	}
}

// write makes files below dir, folders too for names that end in "/".
func layer(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, n := range names {
		p := filepath.Join(dir, n)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if strings.HasSuffix(n, "/") {
			err = os.MkdirAll(p, 0o755)
		} else {
			err = os.WriteFile(p, []byte(n), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// overlayAttr sets an overlay attribute, trusted as root and the user's otherwise.
func overlayAttr(t *testing.T, path, name, value string) {
	t.Helper()
	space := "trusted.overlay."
	if os.Geteuid() != 0 {
		space = "user.overlay."
	}
	if err := unix.Setxattr(path, space+name, []byte(value), 0); err != nil {
		t.Skipf("missing: leave to set the attribute %s%s: %v", space, name, err)
	}
}

// The upper directory as overlayfs leaves it, made by hand.
func TestDiffReadsTheUpperDirectory(t *testing.T) {
	lower := layer(t, "etc/passwd", "etc/hosts", "etc/deep/a", "etc/deep/b", "opaque/x", "opaque/y", "opaque/sub/p", "opaque/sub/q",
		"becomes-file/x", "becomes-dir", "same/file", "gone", "gone-dir/x", "moved-from/k", "moved-from/l/m")
	upper := layer(t, "etc/passwd", "etc/new", "etc/deep/a", "opaque/y", "opaque/sub/q", "opaque/sub/new", "becomes-file",
		"becomes-dir/x", "same/", "fresh/dir/file", "white", "moved-to/n")
	os.Symlink("x", filepath.Join(upper, "link"))
	overlayAttr(t, filepath.Join(upper, "opaque"), "opaque", "y")
	overlayAttr(t, filepath.Join(upper, "white"), "whiteout", "")
	os.Truncate(filepath.Join(upper, "white"), 0)
	overlayAttr(t, filepath.Join(upper, "moved-to"), "redirect", "/moved-from")
	want := []string{
		"M /becomes-dir dir", "A /becomes-dir/x file", "M /becomes-file file",
		"M /etc/deep/a file", "A /etc/new file", "M /etc/passwd file",
		"A /fresh dir", "A /fresh/dir dir", "A /fresh/dir/file file", "A /link symlink",
		"A /moved-to dir", "A /moved-to/n file", "A /moved-to/k file", "A /moved-to/l dir", "A /moved-to/l/m file",
		"D /opaque/x file", "A /opaque/sub/new file", "D /opaque/sub/p file", "M /opaque/sub/q file", "M /opaque/y file",
	}
	if unix.Mknod(filepath.Join(upper, "gone"), unix.S_IFCHR, 0) == nil {
		unix.Mknod(filepath.Join(upper, "gone-dir"), unix.S_IFCHR, 0)
		unix.Mknod(filepath.Join(upper, "never-was"), unix.S_IFCHR, 0)
		want = append(want, "D /gone file", "D /gone-dir dir")
	}
	got := diff(t, boot(t, withLayers(upper, lower)).connect())
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Without the lower directory nothing counts as modified, and deletions still show.
func TestDiffWithoutTheLowerDirectory(t *testing.T) {
	upper := layer(t, "a", "d/b", "white")
	os.Truncate(filepath.Join(upper, "white"), 0)
	overlayAttr(t, filepath.Join(upper, "white"), "whiteout", "")
	want := []string{"A /a file", "A /d dir", "A /d/b file", "D /white "}
	if got := diff(t, boot(t, withLayers(upper, "")).connect()); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// The kernel's own overlay, changed with ordinary commands.
func TestDiffOfARealOverlay(t *testing.T) {
	lower := layer(t, "etc/a", "etc/b", "etc/sub/c", "tree/x", "tree/y/z", "keep")
	base := t.TempDir()
	if err := unix.Mount("tmpfs", base, "tmpfs", 0, ""); err != nil { // an upper directory cannot be on every file system
		t.Skipf("missing: leave to mount: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(base, unix.MNT_DETACH) })
	dir := func(n string) string {
		p := filepath.Join(base, n)
		os.Mkdir(p, 0o755)
		return p
	}
	upper, work, root := dir("upper"), dir("work"), dir("root")
	if err := unix.Mount("overlay", root, "overlay", 0, "lowerdir="+lower+",upperdir="+upper+",workdir="+work); err != nil {
		t.Skipf("missing: overlayfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
	c := boot(t, withLayers(upper, lower)).connect()
	if got := diff(t, c); len(got) != 0 {
		t.Errorf("an unchanged root: %q", got)
	}
	start := sh(`echo x >> etc/a; rm etc/b; echo n > etc/n; rm -r tree; mkdir -p tree/y; echo n > tree/y/n; ln -s a etc/l; chmod 700 etc/sub`)
	start.Dir = root
	if _, errOut, exit := run(t, c, start, nil); exit.Code != 0 {
		t.Fatalf("exit %+v: %s", exit, errOut)
	}
	want := []string{
		"A /etc/l symlink", "A /etc/n file", "A /tree/y/n file",
		"D /etc/b file", "D /tree/x file", "D /tree/y/z file",
		"M /etc/a file", "M /etc/sub dir",
	}
	got := diff(t, c)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
