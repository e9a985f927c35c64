package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/mvmctl/mvmctl/internal/disk"
)

const minimalName = "minimal"

// file is one object of an embedded image.
type file struct {
	disk.Entry
	content string
}

func (f file) add(w *disk.Writer) error {
	f.Size = int64(len(f.content))
	return w.Add(f.Entry, strings.NewReader(f.content))
}

// Description of the embedded image, for lists.
const minimalDescription = "a shell and the usual small commands, embedded in mvmctl"

// Embedded are the images inside this program, which Ensure makes.
func Embedded() map[string]string { return map[string]string{minimalName: minimalDescription} }

// Ensure returns the image that a name means, making an embedded one if needed.
func (s *Store) Ensure(ctx context.Context, text string) (Image, error) {
	if text != minimalName {
		return s.Find(text)
	}
	tree := digest(minimalTree())
	img, err := s.Find(minimalName)
	if err == nil && img.Source.Builder == BuilderEmbedded && img.Source.Digest == tree {
		return img, nil
	}
	return s.Import(ctx, Draft{
		Names:  []Name{minimalName + ":" + latest},
		Source: Source{Builder: BuilderEmbedded, Ref: minimalName, Digest: tree},
		Label:  "mvm-" + minimalName,
	}, func(w *disk.Writer) (Notes, error) {
		for _, f := range minimalTree() {
			if err := f.add(w); err != nil {
				return nil, err
			}
		}
		return nil, nil
	})
}

// guestBin is where the agent puts its user land; agentproto.GuestBin without its slash, so
// that the links are relative.
const guestBin = "run/mvm/bin"

// minimalTree is the whole image: folders, accounts and links to the user land that every
// guest agent brings along. It holds no program.
func minimalTree() []file {
	dir := func(path string, mode uint16) file {
		return file{Entry: disk.Entry{Path: path, Type: disk.TypeDir, Mode: mode}}
	}
	link := func(path, target string) file {
		return file{Entry: disk.Entry{Path: path, Type: disk.TypeSymlink, Mode: 0o777, Target: target}}
	}
	text := func(path string, mode uint16, content string) file {
		return file{Entry: disk.Entry{Path: path, Type: disk.TypeFile, Mode: mode}, content: content}
	}
	return []file{
		dir("dev", 0o755), dir("etc", 0o755), dir("home", 0o755), dir("mnt", 0o755), dir("opt", 0o755),
		dir("proc", 0o555), dir("root", 0o700), dir("run", 0o755), dir("srv", 0o755), dir("sys", 0o555),
		dir("tmp", 0o1777), dir("usr", 0o755), dir("usr/lib", 0o755), dir("usr/local", 0o755),
		dir("usr/local/bin", 0o755), dir("usr/share", 0o755), dir("var", 0o755), dir("var/cache", 0o755),
		dir("var/lib", 0o755), dir("var/log", 0o755), dir("var/spool", 0o755), dir("var/tmp", 0o1777),
		link("bin", guestBin), link("sbin", guestBin),
		link("usr/bin", "../"+guestBin), link("usr/sbin", "../"+guestBin),
		link("var/run", "../run"),
		text("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"),
		text("etc/group", 0o644, "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
		text("etc/shadow", 0o600, "root:*:::::::\nnobody:*:::::::\n"),
		text("etc/shells", 0o644, "/bin/sh\n"),
		text("etc/profile", 0o644, "export PATH=/usr/local/bin:/usr/bin:/bin\n"),
		text("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files dns\n"),
		text("etc/os-release", 0o644, "NAME=\"mvm minimal\"\nID=mvm\nPRETTY_NAME=\"mvm minimal\"\n"),
	}
}

// digest names a tree by its content.
func digest(tree []file) string {
	h := sha256.New()
	for _, f := range tree {
		_, _ = fmt.Fprintf(h, "%q %v %o %d %d %q %q\n", f.Path, f.Type, f.Mode, f.UID, f.GID, f.Target, f.content)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}
