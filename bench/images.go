package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"
)

// imageSizes are the images that are measured, in bytes of their compressed layers.
func imageSizes() []struct {
	name   string
	bytes  int64
	layers int
	runs   int
} {
	return []struct {
		name   string
		bytes  int64
		layers int
		runs   int
	}{{"100 MB", 100e6, 3, 3}, {"1 GB", 1e9, 8, 1}}
}

// images measures the way from a registry to a bootable image, cold and warm, against the usual
// one: unpacking the layers with tar and making a file system of the folder.
func (b *bench) images(ctx context.Context) error {
	addr, stop, err := serveRegistry(ctx, filepath.Join(b.dir, "registry"))
	if err != nil {
		return err
	}
	defer stop()
	env := append(append([]string(nil), b.env...), "MVM_CACHE_DIR="+b.dir+"/images-cache")
	for _, size := range imageSizes() {
		ref := addr + "/bench/" + strings.ToLower(strings.ReplaceAll(size.name, " ", "")) + ":1"
		files, stored, err := makeLayers(filepath.Join(b.dir, "layers"), size.bytes, size.layers)
		if err != nil {
			return err
		}
		if err := pushLayers(ref, files); err != nil {
			return err
		}
		usual := &sample{name: "tar -x, then mke2fs -d, " + size.name}
		cold := &sample{name: "mvmctl image pull, " + size.name + ", cold"}
		warm := &sample{name: "the same again, warm"}
		var peak int64
		for range size.runs {
			d, err := usualWay(ctx, filepath.Join(b.dir, "usual"), files)
			if err != nil {
				return err
			}
			usual.add(d)
			if err := os.RemoveAll(b.dir + "/images-cache"); err != nil {
				return err
			}
			d, rss, err := measured(ctx, env, b.bin, "image", "pull", "--quiet", ref)
			if err != nil {
				return err
			}
			cold.add(d)
			peak = max(peak, rss)
			if d, _, err = measured(ctx, env, b.bin, "image", "pull", "--quiet", ref); err != nil {
				return err
			}
			warm.add(d)
		}
		usual.print(nil)
		cold.print(usual)
		warm.print(usual)
		fmt.Printf("%-45s%.2f s per 100 MB of %d MB stored; peak memory %d MiB\n", "", cold.at(50).Seconds()*1e8/float64(stored), stored/1e6, peak>>20)
		if err := os.RemoveAll(filepath.Join(b.dir, "layers")); err != nil {
			return err
		}
	}
	return nil
}

// serveRegistry starts a registry in a process of its own: a child's peak memory is counted from
// what its parent has when it is forked, so this process has to stay small.
func serveRegistry(ctx context.Context, dir string) (addr string, stop func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	cmd := exec.CommandContext(ctx, self, "-registry", dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	if _, err := fmt.Fscanln(out, &addr); err != nil {
		stop()
		return "", nil, fmt.Errorf("starting the registry: %w", err)
	}
	return addr, stop, nil
}

// registryServer is that process: it prints its address and serves until it is killed.
func registryServer(dir string) int {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	fmt.Println(ln.Addr())
	srv := &http.Server{
		Handler:           registry.New(registry.WithBlobHandler(registry.NewDiskBlobHandler(dir)), registry.Logger(log.New(io.Discard, "", 0))),
		ReadHeaderTimeout: time.Minute,
	}
	fmt.Fprintln(os.Stderr, "bench: registry:", srv.Serve(ln))
	return 1
}

// makeLayers writes tar.gz files of about so many bytes together: files of many sizes, half of
// which is text and half of which does not compress.
func makeLayers(dir string, total int64, n int) (files []string, stored int64, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, 0, err
	}
	rnd := rand.New(rand.NewPCG(1, 2)) // the same on every run
	for i := range n {
		path := filepath.Join(dir, fmt.Sprintf("%d.tar.gz", i))
		if err := makeLayer(path, fmt.Sprintf("layer%d", i), total/int64(n), rnd); err != nil {
			return nil, 0, err
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, 0, err
		}
		files, stored = append(files, path), stored+info.Size()
	}
	return files, stored, nil
}

func makeLayer(path, top string, stored int64, rnd *rand.Rand) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return err
	}
	w := tar.NewWriter(z)
	buf := make([]byte, 1<<20)
	for i := 0; ; i++ {
		if at, err := f.Seek(0, io.SeekCurrent); err != nil || at >= stored {
			if err != nil {
				return err
			}
			break
		}
		size := 1 << (8 + rnd.IntN(13)) // 256 B to 1 MiB
		content := buf[:size]
		for j := range content {
			if j < size/2 {
				content[j] = "the quick brown fox jumps over a lazy dog\n"[rnd.IntN(42)]
			} else {
				content[j] = byte(rnd.Uint32())
			}
		}
		h := &tar.Header{Name: fmt.Sprintf("%s/%03d/%06d", top, i%200, i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(size)}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(content); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), z.Close())
}

func pushLayers(ref string, files []string) error {
	var layers []v1.Layer
	for _, f := range files {
		l, err := tarball.LayerFromFile(f)
		if err != nil {
			return err
		}
		layers = append(layers, l)
	}
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		return err
	}
	r, err := name.ParseReference(ref)
	if err != nil {
		return err
	}
	return remote.Write(r, img)
}

// usualWay makes a root file system as scripts do.
func usualWay(ctx context.Context, dir string, layers []string) (time.Duration, error) {
	if err := os.RemoveAll(dir); err != nil {
		return 0, err
	}
	root := filepath.Join(dir, "root")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	begin := time.Now()
	for _, l := range layers {
		if out, err := exec.CommandContext(ctx, "tar", "-C", root, "-xzf", l).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("tar: %w: %s", err, out)
		}
	}
	out, err := exec.CommandContext(ctx, "du", "-sm", root).Output()
	if err != nil {
		return 0, fmt.Errorf("du: %w", err)
	}
	var mib int64
	if _, err := fmt.Sscan(string(out), &mib); err != nil {
		return 0, err
	}
	mkfs := exec.CommandContext(ctx, "mke2fs", "-q", "-t", "ext4", "-d", root, filepath.Join(dir, "image"), fmt.Sprintf("%dM", mib*5/4+64))
	mkfs.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := mkfs.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("mke2fs: %w: %s", err, out)
	}
	return time.Since(begin), nil
}

// measured runs a command and returns its time and its peak memory in bytes.
func measured(ctx context.Context, env []string, argv ...string) (time.Duration, int64, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = env
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	d := time.Since(begin)
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w: %s", strings.Join(argv[1:], " "), err, out)
	}
	u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return d, 0, nil
	}
	return d, u.Maxrss << 10, nil
}
