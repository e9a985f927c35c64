package firecracker

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// release is one build of Firecracker for one architecture.
type release struct {
	version string
	arch    string // as Firecracker names it
	size    int64  // of the archive, in bytes
	sha256  string // of the archive
}

// releases are the archives that Install fetches, by GOARCH. The digests are those of the
// .sha256.txt files beside them on the release page, read 2026-11.
func releases() map[string]release {
	return map[string]release{
		"amd64": {"1.15.1", "x86_64", 7_622_285, "d4a32ab2322d887ca1bc4a4e7afa9cc35393e6362dfc2b3becb389d362e4275a"},
		"arm64": {"1.15.1", "aarch64", 7_422_699, "00654ac1e702a22744121ea9f10a4f792ebd7c3a744cba587dfac9fcb79b41a5"},
	}
}

const (
	releasePage = "https://github.com/firecracker-microvm/firecracker/releases/download"
	maxProgram  = 64 << 20 // bytes; each of the two is about 3 MB
	fetchTime   = 10 * time.Minute
)

func (r release) archive() string { return "firecracker-v" + r.version + "-" + r.arch + ".tgz" }

// member returns where the archive has a program.
func (r release) member(program string) string {
	suffix := "-v" + r.version + "-" + r.arch
	return "release" + suffix + "/" + program + suffix
}

// Install implements driver.Installer.
func (d *Driver) Install(ctx context.Context) error {
	r, known := d.opts.releases[runtime.GOARCH]
	if !known || runtime.GOOS != "linux" || d.opts.InstallDir == "" {
		return machine.Errorf("backend.install", installRemedy, "there is no Firecracker to fetch for %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	dir := d.installed(r)
	if _, err := exec.LookPath(filepath.Join(dir, "firecracker")); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".firecracker-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := d.fetch(ctx, r, tmp); err != nil {
		return machine.Errorf("backend.install", "try again; a mirror of the release page can be named with MVM_FIRECRACKER_URL; or "+installRemedy,
			"fetching Firecracker %s: %w", r.version, err)
	}
	err = os.Rename(tmp, dir)
	if errors.Is(err, fs.ErrExist) { // not empty: another process was faster, or a half of one
		if _, e := exec.LookPath(filepath.Join(dir, "firecracker")); e == nil {
			return nil
		}
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// installed is where Install puts a release.
func (d *Driver) installed(r release) string {
	return filepath.Join(d.opts.InstallDir, "firecracker-"+r.version)
}

// fetch downloads a release, and unpacks its two programs into dir when it is what was pinned.
func (d *Driver) fetch(ctx context.Context, r release, dir string) error {
	archive := filepath.Join(dir, "archive")
	if err := download(ctx, d.opts.URL+"/v"+r.version+"/"+r.archive(), archive, r); err != nil {
		return err
	}
	if err := unpack(archive, dir, map[string]string{r.member("firecracker"): "firecracker", r.member("jailer"): "jailer"}); err != nil {
		return err
	}
	if err := os.Remove(archive); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // programs that a jailed user runs
		return err
	}
	return syncDir(dir)
}

// download writes what is at url to a new file, and fails unless it is the release's archive.
func download(ctx context.Context, url, to string, r release) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(resp.Body, r.size+1))
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); n != r.size || got != r.sha256 {
		return fmt.Errorf("%s is not what was published: its digest begins with sha256:%.12s after %d bytes, expected sha256:%.12s of %d bytes", url, got, n, r.sha256, r.size)
	}
	return f.Close()
}

// unpack writes the named members of an archive into dir. All of them must be there.
func unpack(archive, dir string, members map[string]string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	found := 0
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name, wanted := members[path.Clean(h.Name)]
		if !wanted || h.Typeflag != tar.TypeReg {
			continue
		}
		if h.Size > maxProgram {
			return fmt.Errorf("%s is larger than %d bytes", h.Name, maxProgram)
		}
		if err := writeProgram(filepath.Join(dir, name), t); err != nil {
			return err
		}
		found++
	}
	if found != len(members) {
		return fmt.Errorf("the archive has %d of the %d programs", found, len(members))
	}
	return nil
}

func writeProgram(to string, from io.Reader) error {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755) //nolint:gosec // a program
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, io.LimitReader(from, maxProgram)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
