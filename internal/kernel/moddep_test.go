package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLoadOrder(t *testing.T) {
	const dep = `kernel/net/virtio_net.ko: kernel/virtio.ko kernel/virtio_ring.ko kernel/failover.ko
kernel/virtio.ko: kernel/virtio_ring.ko
kernel/virtio_ring.ko:
kernel/failover.ko:
kernel/hw/virtio-rng.ko.xz: kernel/virtio.ko kernel/virtio_ring.ko
kernel/a.ko: kernel/b.ko
kernel/b.ko: kernel/a.ko
`
	for _, c := range []struct {
		name    string
		wanted  []string
		files   []string
		missing []string
	}{
		{"dependencies first", []string{"virtio_net"}, []string{"failover.ko", "virtio_ring.ko", "virtio.ko", "virtio_net.ko"}, nil},
		{"each once", []string{"virtio", "virtio_net", "virtio"}, []string{"virtio_ring.ko", "virtio.ko", "failover.ko", "virtio_net.ko"}, nil},
		{"hyphen or underscore", []string{"virtio_rng"}, []string{"virtio_ring.ko", "virtio.ko", "virtio-rng.ko.xz"}, nil},
		{"built in", []string{"ext4", "virtio"}, []string{"virtio_ring.ko", "virtio.ko"}, nil},
		{"missing", []string{"nosuch", "virtio", "nosuch"}, []string{"virtio_ring.ko", "virtio.ko"}, []string{"nosuch"}},
		{"a cycle ends", []string{"a"}, []string{"b.ko", "a.ko"}, nil},
		{"nothing", nil, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree, err := parseModulesDep(strings.NewReader(dep))
			if err != nil {
				t.Fatal(err)
			}
			files, missing := tree.loadOrder(c.wanted, map[string]bool{"ext4": true})
			for i, f := range files {
				files[i] = filepath.Base(f)
			}
			if diff := cmp.Diff(c.files, files); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.missing, missing); diff != "" {
				t.Errorf("missing (-want +got):\n%s", diff)
			}
		})
	}
}

func TestModulesDepThatLeavesTheTree(t *testing.T) {
	for _, line := range []string{
		"/etc/x.ko:", "../x.ko:", "a/../../x.ko:", "kernel/a.ko: ../../b.ko", "kernel/a.ko: /b.ko", "kernel/a:", "no colon",
		"kernel/" + strings.Repeat("n", 70) + ".ko:", "kernel/./a.ko:",
	} {
		if _, err := parseModulesDep(strings.NewReader(line + "\n")); err == nil {
			t.Errorf("%q was accepted", line)
		}
	}
}

// A chain of a hundred thousand modules must not need a stack as deep.
func TestLongDependencyChain(t *testing.T) {
	var b bytes.Buffer
	const n = 100_000
	for i := range n {
		fmt.Fprintf(&b, "m%d.ko: m%d.ko\n", i, i+1)
	}
	fmt.Fprintf(&b, "m%d.ko:\n", n)
	tree, err := parseModulesDep(&b)
	if err != nil {
		t.Fatal(err)
	}
	files, _ := tree.loadOrder([]string{"m0"}, nil)
	if len(files) != n+1 || files[0] != fmt.Sprintf("m%d.ko", n) || files[n] != "m0.ko" {
		t.Errorf("%d files, first %s", len(files), files[0])
	}
}

func TestModuleFilesOfAKernel(t *testing.T) {
	root := t.TempDir()
	image := install(t, root, testRelease)
	k, err := New(t.TempDir(), WithHostRoot(t.TempDir()), WithArch("amd64")).Find(context.Background(), image)
	if err != nil {
		t.Fatal(err)
	}
	files, err := k.ModuleFiles([]string{"virtio_pci", "virtio_blk", "ext4", "overlay", "virtio_rng", "nosuch"})
	var missing *MissingModulesError
	if !errors.As(err, &missing) || cmp.Diff([]string{"nosuch"}, missing.Names) != "" {
		t.Errorf("missing: %v", err)
	}
	for i, f := range files {
		if files[i], err = filepath.Rel(k.Modules, f); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"kernel/drivers/virtio/virtio_ring.ko", "kernel/drivers/virtio/virtio.ko", "kernel/drivers/virtio/virtio_pci.ko.xz",
		"kernel/drivers/block/virtio_blk.ko.zst", "kernel/fs/overlayfs/overlay.ko.gz",
		"kernel/drivers/char/hw_random/rng-core.ko", "kernel/drivers/char/hw_random/virtio-rng.ko",
	}
	if diff := cmp.Diff(want, files); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if files, err := (Kernel{Release: "x"}).ModuleFiles(WantedModules()); files != nil || err != nil {
		t.Errorf("a kernel without modules has the files %v (%v)", files, err)
	}
}

// A tree whose modules belong to another build is worse than none: nothing would load.
func TestModulesOfAnotherKernel(t *testing.T) {
	root := t.TempDir()
	image := install(t, root, testRelease)
	writeTree(t, filepath.Join(root, "lib/modules", testRelease), testModules("6.1.0-8-other"))
	_, err := New(t.TempDir(), WithHostRoot(t.TempDir()), WithArch("amd64")).Find(context.Background(), image)
	wantCode(t, err, "boot.kernel_invalid")
}
