package kvmhost

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/layer"
)

// MissingError says what this machine lacks for such a host.
type MissingError string

// Error implements error.
func (m MissingError) Error() string { return "missing: " + string(m) }

// formatVersion names what is made of the packages; raise it when that changes.
const formatVersion = "1"

// packages are what tests want to find, with all that they depend on.
func packages() []string {
	return []string{"busybox-static", "linux-image-cloud-amd64", "qemu-system-x86"}
}

// image is what a host boots, kept from run to run.
type image struct{ kernel, root string }

// makeImage returns the image below dir and makes it when it is not there: about 70 MB of
// packages, which apt checks, become an ext4. Nothing is installed and nothing of them runs.
func makeImage(ctx context.Context, dir string) (image, error) {
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return image{}, MissingError(tool + ": the packages are Debian's")
		}
	}
	key := sha256.Sum256([]byte(formatVersion + " " + strings.Join(packages(), " ")))
	kept := filepath.Join(dir, fmt.Sprintf("kvmhost-%x", key[:6]))
	img := image{kernel: filepath.Join(kept, "vmlinuz"), root: filepath.Join(kept, "root.ext4")}
	if _, err := os.Stat(kept); err == nil {
		return img, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return image{}, err
	}
	work, err := os.MkdirTemp(dir, ".kvmhost-")
	if err != nil {
		return image{}, err
	}
	defer func() { _ = os.RemoveAll(work) }()
	debs, err := download(ctx, filepath.Join(work, "debs"))
	if err != nil {
		return image{}, err
	}
	done := filepath.Join(work, "done")
	if err := os.Mkdir(done, 0o700); err != nil {
		return image{}, err
	}
	tree := layer.Layer{Name: "Debian", Open: func(ctx context.Context) (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(merge(ctx, w, debs, filepath.Join(done, "vmlinuz"))) }()
		return r, nil
	}}
	err = disk.CreateFile(filepath.Join(done, "root.ext4"), disk.Options{Label: "kvmhost"}, func(w *disk.Writer) error {
		_, err := layer.FromTar(ctx, w, tree, layer.Options{})
		return err
	})
	if err != nil {
		return image{}, fmt.Errorf("making the host's root file system: %w", err)
	}
	if _, err := os.Stat(filepath.Join(done, "vmlinuz")); err != nil {
		return image{}, fmt.Errorf("the packages have no kernel: %w", err)
	}
	// Whoever makes the same at the same time makes it as well.
	if err := os.Rename(done, kept); err != nil && !errors.Is(err, os.ErrExist) {
		return image{}, err
	}
	return img, nil
}

// fetchTime bounds the download of all packages, 70 MB.
const fetchTime = 8 * time.Minute

// download lets apt fetch the packages and what they depend on, as if nothing were installed here.
func download(ctx context.Context, dir string) ([]string, error) {
	if err := os.MkdirAll(filepath.Join(dir, "partial"), 0o700); err != nil {
		return nil, err
	}
	args := append([]string{
		"install", "--yes", "--quiet", "--no-install-recommends", "--download-only",
		"-o", "Dir::State::status=/dev/null", "-o", "Dir::Cache::archives=" + dir, "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root",
	}, packages()...)
	limited, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	cmd := exec.CommandContext(limited, "apt-get", args...)
	cmd.WaitDelay = 5 * time.Second // what apt has started holds the pipe
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return nil, MissingError(fmt.Sprintf("Debian's packages (after apt-get update?): %v: %s", err, strings.Join(lines[max(len(lines)-3, 0):], "; ")))
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err == nil && len(debs) == 0 {
		err = errors.New("apt-get fetched nothing")
	}
	return debs, err
}

// merge writes what is in all packages as one tar file, and the kernel into a file of its own.
func merge(ctx context.Context, w io.Writer, debs []string, kernel string) error {
	buffered := bufio.NewWriterSize(w, 1<<20)
	tw := tar.NewWriter(buffered)
	for _, dir := range []string{"usr", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"} {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}); err != nil {
			return err
		}
	}
	for _, dir := range merged() {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: dir, Linkname: "usr/" + dir, Mode: 0o777}); err != nil {
			return err
		}
	}
	for _, deb := range debs {
		if err := addPackage(ctx, tw, deb, kernel); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(deb), err)
		}
	}
	return errors.Join(tw.Close(), buffered.Flush())
}

// merged are the folders at the root that are links into usr. Packages still bring files for them.
func merged() []string { return []string{"bin", "sbin", "lib", "lib64"} }

// inUsr is a name of a package where it lies in our tree.
func inUsr(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if first, _, _ := strings.Cut(name, "/"); slices.Contains(merged(), first) {
		return "usr/" + name
	}
	return name
}

// wanted leaves out what takes room and serves nobody here.
func wanted(name string) bool {
	for _, dir := range []string{"usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/iso-codes/", "usr/share/xml/"} {
		if strings.HasPrefix(name, dir) {
			return false
		}
	}
	return name != ""
}

func addPackage(ctx context.Context, tw *tar.Writer, deb, kernel string) (err error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	var said bytes.Buffer
	cmd.Stderr = &said
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = cmd.Process.Kill() // it may be waiting for us to read on
		}
		if werr := cmd.Wait(); err == nil && werr != nil {
			err = fmt.Errorf("%w: %s", werr, said.String())
		}
	}()
	tr := tar.NewReader(bufio.NewReaderSize(stdout, 1<<20))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, stdout)
			return err
		}
		if err != nil {
			return err
		}
		h.Name = inUsr(h.Name)
		if !wanted(h.Name) {
			continue
		}
		if h.Typeflag == tar.TypeLink {
			h.Linkname = inUsr(h.Linkname)
		}
		if strings.HasPrefix(h.Name, "boot/vmlinuz-") {
			if err := putFile(kernel, tr); err != nil {
				return err
			}
			continue
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(tw, tr); err != nil {
			return err
		}
	}
}

func putFile(name string, r io.Reader) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = io.Copy(f, r)
	return err
}
