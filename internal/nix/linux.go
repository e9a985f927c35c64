package nix

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/mvmctl/mvmctl/internal/linuxenv"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// Linux runs programs on a Linux that is not this host (linuxenv.Env is one). Its files are its own:
// folders that a command names are sent there, and what was built is fetched.
type Linux interface {
	Run(ctx context.Context, p linuxenv.Program) (int, error)
	// TempDir makes an empty folder. done deletes it; it goes in any case with what Run runs in.
	TempDir(ctx context.Context) (dir string, done func(), err error)
}

const maxFetched = 64 << 30 // bytes of one file of a result

// elsewhere runs nix on o.Linux, as run does on this host.
func elsewhere(ctx context.Context, o Options, args []string) ([]byte, error) {
	args, done, err := send(ctx, o.Linux, args)
	defer done()
	if err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	log, read := newLog(o.Progress), make(chan struct{})
	go func() {
		defer close(read)
		log.read(r)
	}()
	var out limited
	code, err := o.Linux.Run(ctx, linuxenv.Program{
		Args: append([]string{"nix"}, command(args)...), Env: []string{"LC_ALL=C", "GIT_TERMINAL_PROMPT=0"}, Stdout: &out, Stderr: w,
	})
	_ = w.Close()
	<-read
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return nil, machine.Errorf("nix.missing", "install it in the virtual machine: `limactl shell mvmctl sudo apt-get install -y nix-bin git`", "nix is not installed in the virtual machine: %w", err)
	case err != nil:
		return nil, err
	case code != 0:
		return nil, &failure{err: fmt.Errorf("exit status %d", code), causes: log.causes, tail: log.tail}
	case out.over:
		return nil, machine.Errorf("nix.protocol", "run nix by hand to see what it prints", "nix printed more than %d MiB", maxOutput>>20)
	}
	return out.Bytes(), nil
}

// send copies the folders that args name to l and names the copies instead. done removes them.
func send(ctx context.Context, l Linux, args []string) (out []string, done func(), err error) {
	var copies []func()
	done = func() {
		for _, forget := range copies {
			forget()
		}
	}
	for _, a := range args {
		scheme, rest := "", a
		if after, ok := strings.CutPrefix(a, "path:"); ok {
			scheme, rest = "path:", after
		}
		dir, fragment, has := strings.Cut(rest, "#")
		info, serr := os.Stat(dir)
		if !filepath.IsAbs(dir) || serr != nil || !info.IsDir() {
			out = append(out, a)
			continue
		}
		there, forget, err := l.TempDir(ctx)
		if err == nil {
			copies = append(copies, forget)
			err = sendFolder(ctx, l, dir, there)
		}
		if err != nil {
			return nil, done, machine.Errorf("nix.folder", "look at the folder, and at the free space of the virtual machine", "copying %s to where nix runs: %w", dir, err)
		}
		if has {
			fragment = "#" + fragment
		}
		out = append(out, scheme+there+fragment)
	}
	return out, done, nil
}

// sendFolder copies what is in one folder to the folder there of l.
func sendFolder(ctx context.Context, l Linux, dir, there string) error {
	var words bytes.Buffer
	r, w := io.Pipe()
	go func() {
		tw := tar.NewWriter(w)
		err := tw.AddFS(os.DirFS(dir)) // symlinks as they are, and none is followed
		_ = w.CloseWithError(errors.Join(err, tw.Close()))
	}()
	defer func() { _ = r.Close() }()
	code, err := l.Run(ctx, linuxenv.Program{Args: []string{"tar", "-x", "--no-same-owner", "-f", "-", "-C", there}, Stdin: r, Stderr: &words})
	if err == nil && code != 0 {
		err = fmt.Errorf("tar: exit status %d: %s", code, clip(clean(words.String()), 200))
	}
	return err
}

// fetch brings a result's files to folder, by the name of the result, and names those.
func fetch(ctx context.Context, l Linux, r Result, folder string) (Result, error) {
	dir := filepath.Join(folder, path.Base(r.OutPath))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return r, err
	}
	for _, name := range []string{rootfsFile, imageFile, guestFile} {
		err := fetchFile(ctx, l, r.OutPath, name, filepath.Join(dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) { // readResult says which one is not there
			return r, machine.Errorf("nix.folder", "look at the free space of this host", "fetching what nix built: %w", err)
		}
	}
	r.RootfsTar, r.ImageJSON = filepath.Join(dir, rootfsFile), filepath.Join(dir, imageFile)
	return r, nil
}

// fetchFile fetches one regular file; anything else is as if it were not there.
func fetchFile(ctx context.Context, l Linux, dir, name, to string) error {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	read := make(chan error, 1)
	go func() {
		tr := tar.NewReader(r)
		h, err := tr.Next()
		switch {
		case err != nil:
			err = os.ErrNotExist
		case h.Typeflag != tar.TypeReg || h.Name != name:
			err = os.ErrNotExist
		case h.Size > maxFetched:
			err = errors.New("it is too large")
		default:
			_, err = io.Copy(f, tr)
		}
		_, _ = io.Copy(io.Discard, r)
		read <- err
	}()
	code, err := l.Run(ctx, linuxenv.Program{Args: []string{"tar", "-c", "-f", "-", "-C", dir, "--", name}, Stdout: w})
	_ = w.CloseWithError(err)
	rerr := <-read
	switch {
	case err != nil: // how the run ended says more
	case rerr != nil:
		err = rerr
	case code != 0: // it fills up with zeros what it cannot read
		err = fmt.Errorf("tar ended with %d", code)
	}
	err = errors.Join(err, f.Close())
	if err != nil {
		_ = os.Remove(to)
	}
	return err
}
