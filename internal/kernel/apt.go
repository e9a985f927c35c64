package kernel

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// metaPackages are the names under which Debian and Ubuntu offer "the current kernel for a
// virtual machine", best first. A distribution knows only its own.
func metaPackages(arch string) []string {
	return []string{
		"linux-image-cloud-" + arch, // Debian: small, drivers for virtual machines only
		"linux-image-virtual",       // Ubuntu
		"linux-image-kvm",           // Ubuntu before 24.04
		"linux-image-" + arch,       // Debian, for real hardware too
		"linux-image-generic",       // Ubuntu, the same
	}
}

// maxAptOutput bounds what we keep of a tool's output.
const maxAptOutput = 4 << 20

// concretePackage matches the packages that hold the files of one kernel version. Ubuntu splits
// image and modules, newer Debian releases do too.
const concretePackage = `^linux-(image|modules|binary)(-unsigned)?-[0-9][0-9A-Za-z.+~-]*$`

// aptFile is one package file as `apt-get --print-uris` describes it.
type aptFile struct {
	name   string // of the file
	size   int64
	sha256 string
}

// Fetch downloads the distribution's current kernel package and imports it. Nothing is installed
// and no privilege is needed. apt checks the signatures of its lists and the digest of the
// package; a version that is cached is not downloaded again. progress is called with bytes, or
// with total 0 while the size is not known.
//
// Errors: "kernel.missing" without apt or without such a package, "kernel.fetch" when the
// download fails, "boot.kernel_invalid" when the package is no good.
func (s *Store) Fetch(ctx context.Context, progress func(done, total int64, what string)) (Kernel, error) {
	if progress == nil {
		progress = func(int64, int64, string) {}
	}
	apt, err := s.findApt()
	if err != nil {
		return Kernel{}, err
	}
	unlock, err := s.lock(ctx, lockFetch)
	if err != nil {
		return Kernel{}, err
	}
	defer unlock()
	s.sweep(tmpFetch)

	progress(0, 0, "looking for a kernel package")
	packages, err := apt.resolve(ctx, s.arch)
	if err != nil {
		return Kernel{}, err
	}
	files, err := apt.describe(ctx, packages)
	if err != nil {
		return Kernel{}, err
	}
	origin := originOf(files)
	if k, ok := s.cachedOrigin(ctx, origin); ok {
		return k, nil
	}
	dir, err := os.MkdirTemp(s.dir, tmpFetch)
	if err != nil {
		return Kernel{}, fmt.Errorf("downloading kernel: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := apt.download(ctx, dir, packages, files, progress); err != nil {
		return Kernel{}, err
	}
	progress(0, 0, "unpacking "+packages[0])
	paths := make([]string, len(files))
	for i, f := range files {
		paths[i] = filepath.Join(dir, f.name)
	}
	return s.importPackages(ctx, paths, source{
		kind: kindPackage, label: s.distribution() + " package " + packages[0], origin: origin,
	})
}

// originOf names package files with their digests: equal origin, equal kernel.
func originOf(files []aptFile) string {
	parts := make([]string, len(files))
	for i, f := range files {
		parts[i] = f.name + " sha256:" + f.sha256
	}
	return strings.Join(parts, ", ")
}

// distribution is the ID of os-release(5), "debian" or "ubuntu".
func (s *Store) distribution() string {
	raw, err := readFileLimit(filepath.Join(s.hostRoot, "etc", "os-release"), 64<<10)
	if err == nil {
		for line := range strings.Lines(string(raw)) {
			if id, ok := strings.CutPrefix(line, "ID="); ok {
				return strings.Trim(id, "\"'\r\n")
			}
		}
	}
	return "apt"
}

func (s *Store) cachedOrigin(ctx context.Context, origin string) (Kernel, bool) {
	entries, err := s.entries(ctx)
	if err != nil {
		return Kernel{}, false
	}
	for _, e := range entries {
		if e.err == nil && e.meta.Origin == origin && s.checkDigests(ctx, e.meta) == nil {
			k, err := e.kernel.withConfig()
			return k, err == nil
		}
	}
	return Kernel{}, false
}

// aptTools are the paths of apt's two programs.
type aptTools struct{ get, cache string }

func (s *Store) findApt() (aptTools, error) {
	find := func(name string) (string, error) {
		if s.tools != "" {
			name = filepath.Join(s.tools, name)
		}
		return exec.LookPath(name)
	}
	get, err := find("apt-get")
	cache, cerr := find("apt-cache")
	if err = errors.Join(err, cerr); err != nil {
		return aptTools{}, &machine.Error{
			Code:    "kernel.missing",
			Message: "there is no guest kernel here, and no apt to fetch one with",
			Remedy: "install a kernel (Fedora: dnf install kernel-core; elsewhere the distribution's kernel package), " +
				"or give one with --kernel PATH",
			Err: err,
		}
	}
	return aptTools{get: get, cache: cache}, nil
}

// command prepares one of apt's programs: plain messages, stopped gently when ctx ends so that
// apt removes its partial files.
func (a aptTools) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

// output runs a program and returns what it printed; its complaints become the error.
func (a aptTools) output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := a.command(ctx, name, args...)
	out, complaints := &tailBuffer{limit: maxAptOutput}, &tailBuffer{limit: 16 << 10}
	cmd.Stdout, cmd.Stderr = out, complaints
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", fmt.Errorf("%s: %w: %s", filepath.Base(name), err, lastComplaint(complaints.String()))
	}
	return out.String(), nil
}

// resolve finds the concrete packages behind the first meta package that apt knows.
func (a aptTools) resolve(ctx context.Context, arch string) ([]string, error) {
	var firstErr error
	for _, meta := range metaPackages(arch) {
		packages, err := a.follow(ctx, meta, concretePackage)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if len(packages) > 0 {
			return packages, nil
		}
		if firstErr == nil {
			firstErr = err
		}
	}
	return nil, &machine.Error{
		Code:    "kernel.missing",
		Message: "apt knows no kernel package for " + arch + " machines",
		Remedy:  "run `apt-get update` as root and try again, or give a kernel with --kernel PATH",
		Err:     firstErr,
	}
}

// follow follows dependencies from a package to those with files, whose names match, in apt's
// order. It may be one of them itself.
func (a aptTools) follow(ctx context.Context, meta, concrete string) ([]string, error) {
	re, err := regexp.Compile(concrete)
	if err != nil {
		return nil, err
	}
	var found []string
	queue := []string{meta}
	for i := 0; i < len(queue) && i < 8; i++ {
		out, err := a.output(ctx, a.cache, "depends", "--no-recommends", "--no-suggests", "--no-conflicts",
			"--no-breaks", "--no-replaces", "--no-enhances", queue[i])
		if err != nil {
			return nil, err
		}
		if i == 0 && re.MatchString(meta) {
			found = append(found, meta)
		}
		for line := range strings.Lines(out) {
			kind, name, _ := strings.Cut(strings.TrimSpace(line), ": ")
			if strings.TrimPrefix(kind, "|") == "Depends" && re.MatchString(name) && !slices.Contains(queue, name) {
				found = append(found, name)
				queue = append(queue, name)
			}
		}
	}
	return found, nil
}

// describe asks for the files' names, sizes and digests without downloading them.
func (a aptTools) describe(ctx context.Context, packages []string) ([]aptFile, error) {
	out, err := a.output(ctx, a.get, append([]string{"--print-uris", "download"}, packages...)...)
	if err != nil {
		return nil, fetchError(err)
	}
	files := parseURIs(out)
	if len(files) != len(packages) {
		return nil, fetchError(fmt.Errorf("apt-get named %d files for %d packages", len(files), len(packages)))
	}
	return files, nil
}

// parseURIs reads lines like 'http://…/x.deb' x_1.2_amd64.deb 26713492 SHA256:….
func parseURIs(out string) []aptFile {
	var files []aptFile
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) != 4 || !strings.HasPrefix(f[0], "'") {
			continue
		}
		size, err := strconv.ParseInt(f[2], 10, 64)
		sum, ok := strings.CutPrefix(f[3], "SHA256:")
		if err != nil || !ok || size <= 0 || size > maxPackage || f[1] != filepath.Base(f[1]) || !filepath.IsLocal(f[1]) {
			continue
		}
		files = append(files, aptFile{name: f[1], size: size, sha256: sum})
	}
	return files
}

// download runs apt-get in dir. apt reports its progress on descriptor 3.
func (a aptTools) download(ctx context.Context, dir string, packages []string, files []aptFile,
	progress func(done, total int64, what string),
) error {
	var total int64
	for _, f := range files {
		total += f.size
	}
	what := "downloading " + packages[0]
	progress(0, total, what)
	cmd := a.command(ctx, a.get, append([]string{"-q", "-o", "APT::Status-Fd=3", "download"}, packages...)...)
	cmd.Dir = dir
	complaints := &tailBuffer{limit: 16 << 10}
	cmd.Stderr = complaints
	pr, pw, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("downloading kernel: %w", err)
	}
	defer pr.Close()
	cmd.ExtraFiles = []*os.File{pw}
	err = cmd.Start()
	pw.Close()
	if err != nil {
		return fetchError(err)
	}
	reported := make(chan struct{})
	go func() {
		defer close(reported)
		reportStatus(pr, func(share float64) { progress(int64(share*float64(total)), total, what) })
	}()
	err = cmd.Wait()
	if err == nil {
		<-reported
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fetchError(fmt.Errorf("apt-get: %w: %s", err, lastComplaint(complaints.String())))
	}
	for _, f := range files {
		sum, err := hashFile(ctx, filepath.Join(dir, f.name))
		if err != nil {
			return fetchError(err)
		}
		if sum != f.sha256 {
			return fetchError(fmt.Errorf("%s has another digest than apt's lists say", f.name))
		}
	}
	progress(total, total, what)
	return nil
}

// reportStatus reads apt's lines "dlstatus:1:45.3:Retrieving file 1 of 1" (README.progress-reporting).
func reportStatus(r io.Reader, report func(share float64)) {
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		f := strings.SplitN(sc.Text(), ":", 4)
		if len(f) < 3 || f[0] != "dlstatus" {
			continue
		}
		if percent, err := strconv.ParseFloat(f[2], 64); err == nil && percent >= 0 && percent <= 100 {
			report(percent / 100)
		}
	}
}

func fetchError(err error) error {
	return &machine.Error{
		Code:    "kernel.fetch",
		Message: "downloading the kernel package: " + err.Error(),
		Remedy:  "check the network, run `apt-get update` as root and try again, or give a kernel with --kernel PATH",
		Err:     err,
	}
}

// lastComplaint returns apt's last error line, else its last line.
func lastComplaint(text string) string {
	last := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "E: ") || line != "" && !strings.HasPrefix(last, "E: ") {
			last = line
		}
	}
	return strings.TrimPrefix(last, "E: ")
}

// tailBuffer keeps the last limit bytes written to it.
type tailBuffer struct {
	limit int
	buf   bytes.Buffer
}

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.buf.Write(p)
	if over := t.buf.Len() - t.limit; over > 0 {
		t.buf.Next(over)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string { return t.buf.String() }
