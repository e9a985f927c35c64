package kernel

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// sourcePackages are the names under which a distribution offers the kernel's source, the one
// that our options are for first.
func sourcePackages() []string { return []string{"linux-source-6.1", "linux-source"} }

// sourcePackage matches the packages that hold a source, as opposed to those that name one.
const sourcePackage = `^linux-source-[0-9][0-9.]*$`

const remedySource = "give a folder or a tar file with the source of Linux 6.1 with --source, or leave it out to get the distribution's"

// codeOf is a kernel's source, known by its digest before anything is unpacked.
type codeOf struct {
	label  string
	digest string
	dir    string // a folder of the user's, used where it is; "": unpack makes one
	unpack func(ctx context.Context, into string) error
}

// findSource says what a build is made from: what the user gives, else the distribution's
// source package, of which only the name and the digest are asked for here.
func (s *Store) findSource(ctx context.Context, given string, progress func(int64, int64, string)) (codeOf, error) {
	if given == "" {
		return s.sourceFromApt(ctx, progress)
	}
	abs, err := filepath.Abs(given)
	if err != nil {
		return codeOf{}, fmt.Errorf("resolving kernel source: %w", err)
	}
	st, err := os.Stat(abs)
	if err != nil {
		return codeOf{}, machine.Errorf("kernel.source", remedySource, "kernel source: %w", err)
	}
	progress(0, 0, "reading the source")
	if st.IsDir() {
		if err := checkSource(abs); err != nil {
			return codeOf{}, err
		}
		if existing(filepath.Join(abs, ".config")) != "" || existing(filepath.Join(abs, "include", "config")) != "" {
			return codeOf{}, machine.Errorf("kernel.source", "run `make mrproper` in it: the build wants a clean source, and puts nothing into it",
				"%q has been built in", given)
		}
		digest, err := hashTree(ctx, abs)
		return codeOf{label: abs, digest: digest, dir: abs}, err
	}
	digest, err := hashFile(ctx, abs)
	if err != nil {
		return codeOf{}, badSource(given, err)
	}
	return codeOf{label: abs, digest: digest, unpack: func(ctx context.Context, into string) error {
		return badSource(given, unpackSource(ctx, abs, into))
	}}, nil
}

// sourceFromApt describes the source package, and downloads it when it is to be unpacked. apt
// checks the signatures of its lists, and what comes is compared with the digest in them.
func (s *Store) sourceFromApt(ctx context.Context, progress func(int64, int64, string)) (codeOf, error) {
	apt, err := s.findApt()
	if err != nil {
		return codeOf{}, machine.Errorf("kernel.source", remedySource, "there is no apt here to get the kernel's source with: %w", err)
	}
	progress(0, 0, "looking for a kernel source package")
	pkg, err := apt.sourcePackage(ctx)
	if err != nil {
		return codeOf{}, err
	}
	files, err := apt.describe(ctx, []string{pkg})
	if err != nil {
		return codeOf{}, err
	}
	return codeOf{
		label: strings.TrimSuffix(files[0].name, ".deb"), digest: files[0].sha256,
		unpack: func(ctx context.Context, into string) error {
			dir, err := os.MkdirTemp(filepath.Dir(into), tmpSource)
			if err != nil {
				return paths.CacheError("downloading kernel source", err)
			}
			defer os.RemoveAll(dir)
			if err := apt.download(ctx, dir, []string{pkg}, files, progress); err != nil {
				return err
			}
			progress(0, 0, "unpacking "+pkg)
			return badSource(files[0].name, unpackSource(ctx, filepath.Join(dir, files[0].name), into))
		},
	}, nil
}

func (a aptTools) sourcePackage(ctx context.Context) (string, error) {
	var firstErr error
	for _, name := range sourcePackages() {
		found, err := a.follow(ctx, name, sourcePackage)
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if len(found) > 0 {
			return found[0], nil
		}
		if firstErr == nil {
			firstErr = err
		}
	}
	return "", machine.Errorf("kernel.source", "run `apt-get update` as root and try again, or give a source with --source",
		"apt knows no package with the kernel's source: %w", firstErr)
}

// badSource gives a fault of a kernel's source its code and remedy; other errors pass.
func badSource(name string, err error) error {
	var bad *formatError
	if err == nil || !errors.As(err, &bad) {
		return paths.CacheError("unpacking kernel source", err)
	}
	return machine.Errorf("kernel.source", remedySource, "%q is no kernel source: %w", name, bad)
}

// checkSource tells whether a folder looks like the top of a kernel's source.
func checkSource(dir string) error {
	for _, name := range []string{"Makefile", "Kconfig", "arch/x86/Makefile", "scripts/kconfig/Makefile"} {
		if st, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(name))); err != nil || !st.Mode().IsRegular() {
			return machine.Errorf("kernel.source", remedySource, "%q is no kernel source: it has no file %s", dir, name)
		}
	}
	return nil
}

// sourceVersion reads a source's version from the first lines of its Makefile.
func sourceVersion(dir string) (string, error) {
	raw, err := readFileLimit(filepath.Join(dir, "Makefile"), 1<<20)
	if err != nil {
		return "", badSource(dir, err)
	}
	part := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		if name, value, ok := strings.Cut(line, "="); ok {
			if name = strings.TrimSpace(name); part[name] == "" {
				part[name] = strings.TrimSpace(value)
			}
		}
	}
	v := part["VERSION"] + "." + part["PATCHLEVEL"] + "." + part["SUBLEVEL"] + part["EXTRAVERSION"]
	if err := checkRelease(v); err != nil {
		return "", badSource(dir, err)
	}
	return v, nil
}

// unpackSource unpacks a source, a tar file or a Debian package with one, into the new folder
// into, whose top is then the top of the source.
func unpackSource(ctx context.Context, file, into string) error {
	f, _, err := openRegular(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Mkdir(into, 0o755); err != nil {
		return err
	}
	deb, err := isDeb(file)
	if err != nil {
		return err
	}
	if !deb {
		return untar(ctx, f, into)
	}
	name, err := regexp.Compile(`^usr/src/(.*/)?linux-source-[^/]*\.tar(\.[a-z0-9]+)?$`)
	if err != nil {
		return err
	}
	found := false
	err = debData(ctx, f, func(member string, _ int64, r io.Reader) error {
		if found || !name.MatchString(member) {
			return nil
		}
		found = true
		return untar(ctx, r, into)
	})
	if err == nil && !found {
		return badf("the package has no usr/src/linux-source-*.tar")
	}
	return err
}

// untar unpacks a tar stream of any compression we read into the empty folder dir. Members lie
// in one folder, which is left out. It takes the file for hostile: nothing is written outside,
// through links or otherwise, and the sizes are bounded.
func untar(ctx context.Context, r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	br := bufio.NewReaderSize(r, 1<<20)
	head, err := br.Peek(8)
	if err != nil {
		return truncated("the source", err)
	}
	comp := sniffCompression(head)
	if comp == "" {
		comp = compNone
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The decoder runs beside the writer of files, on the other core.
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := decompress(ctx, pw, br, comp, maxSource)
		pw.CloseWithError(err)
	}()
	err = writeMembers(root, bufio.NewReaderSize(pr, 1<<20))
	if err == nil {
		_, err = io.Copy(io.Discard, pr) // the checksum comes last
	}
	pr.CloseWithError(errStopped)
	<-done
	if err == nil {
		err = checkSource(dir)
	}
	return err
}

// innerPath is the place of a tar's member below the one folder that all lie in; "" is that
// folder itself.
func innerPath(name string) (string, error) {
	clean := path.Clean(name)
	if strings.ContainsRune(name, 0) || !filepath.IsLocal(clean) {
		return "", badf("it has a file %.80q", name)
	}
	_, inner, _ := strings.Cut(clean, "/")
	return inner, nil
}

// hashTree is a digest of a folder's files, of what a build can see of them.
func hashTree(ctx context.Context, dir string) (string, error) {
	sum := sha256.New()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		switch {
		case err != nil:
			return err
		case d.IsDir() && rel == ".git":
			return filepath.SkipDir
		case d.IsDir():
			return nil
		case d.Type() == fs.ModeSymlink:
			to, err := os.Readlink(p)
			fmt.Fprintf(sum, "link %q %q\n", rel, to)
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		digest, err := hashFile(ctx, p)
		fmt.Fprintf(sum, "file %q %t %s\n", rel, st.Mode()&0o100 != 0, digest)
		return err
	})
	if err != nil {
		return "", badSource(dir, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
