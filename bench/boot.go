package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// readyLine is what the agent prints on the console when its channel is open: the point at
// which a machine counts as booted.
const readyLine = "mvm-agent: ready"

// boot measures `up -d` to "the agent answers" against QEMU started by hand with the same
// machine type, kernel, initramfs, disks and memory, until the agent says on the console that
// it listens. The difference is everything mvmctl does itself. Runs alternate.
func (b *bench) boot(ctx context.Context) error {
	p, err := b.plain(ctx)
	if err != nil {
		return err
	}
	up, plain := &sample{name: "mvmctl up -d to agent answering"}, &sample{name: "plain QEMU to agent listening"}
	for range b.slow() {
		d, err := p.run(ctx)
		if err != nil {
			return err
		}
		plain.add(d)
		d, err = timed(ctx, b.env, b.bin, "up", "-d", "--name", "bench", "minimal")
		if err != nil {
			return fmt.Errorf("up: %w", err)
		}
		up.add(d)
		if _, err := b.mvmctl(ctx, "rm", "--force", "bench"); err != nil {
			return err
		}
	}
	plain.print(nil)
	up.print(plain)
	return nil
}

// plainQEMU is a QEMU command line without anything of mvmctl around it.
type plainQEMU struct{ argv []string }

// plain makes one from a machine that is up, with more flags of `up`: the same boot files,
// copies of its drives.
func (b *bench) plain(ctx context.Context, flags ...string) (*plainQEMU, error) {
	if _, err := b.mvmctl(ctx, append(append([]string{"up", "-d", "--name", "bench"}, flags...), "minimal")...); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(b.dir + "/state/machines/bench/boot.json")
	if err != nil {
		return nil, err
	}
	var boot machine.Boot
	if err := json.Unmarshal(data, &boot); err != nil {
		return nil, err
	}
	var st struct{ Body machine.Status }
	data, err = os.ReadFile(b.dir + "/state/machines/bench/status.json")
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &st); err != nil {
		return nil, err
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", st.Body.VMM.Pid))
	if err != nil {
		return nil, err
	}
	argv, err := b.strip(strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00"), boot)
	if err != nil {
		return nil, err
	}
	_, err = b.mvmctl(ctx, "rm", "--force", "bench")
	return &plainQEMU{argv: argv}, err
}

// strip keeps of mvmctl's own QEMU command line what the guest sees, and replaces inherited
// descriptors by files and the console by standard output.
func (b *bench) strip(argv []string, boot machine.Boot) ([]string, error) {
	out := []string{argv[0], "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-monitor", "none", "-serial", "stdio"}
	for i := 1; i < len(argv); i++ {
		switch argv[i] {
		case "-M", "-machine", "-accel", "-cpu", "-smp", "-m", "-append":
			out = append(out, argv[i], argv[i+1])
			i++
		case "-kernel": // an inherited descriptor: the same file by its name
			out = append(out, "-kernel", cmp.Or(boot.Kernel.VMLinux, boot.Kernel.BzImage))
		case "-initrd":
			out = append(out, "-initrd", boot.Initrd)
		}
	}
	bus := "pci"
	if strings.Contains(strings.Join(argv, " "), "virtio-blk-device") {
		bus = "device"
	}
	for i, d := range boot.Disks {
		copied := fmt.Sprintf("%s/plain-%d.img", b.dir, i)
		if err := copyFile(copied, d.Path); err != nil {
			return nil, err
		}
		ro := "off"
		if d.ReadOnly {
			ro = "on"
		}
		out = append(out, "-drive", fmt.Sprintf("file=%s,format=raw,if=none,id=d%d,readonly=%s", copied, i, ro),
			"-device", fmt.Sprintf("virtio-blk-%s,drive=d%d,serial=%s", bus, i, d.Serial()))
	}
	return append(out, "-device", "virtio-rng-"+bus, "-device", "virtio-serial-"+bus,
		"-chardev", "null,id=agent", "-device", "virtserialport,chardev=agent,name=mvm.agent"), nil
}

func copyFile(dst, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if info.Size() > 64<<20 { // the sparse upper disk: an own empty one is as good
		cmd := exec.CommandContext(context.Background(), "cp", "--sparse=always", src, dst)
		return cmd.Run()
	}
	out, err := os.Create(dst) //nolint:forbidigo // a scratch file of the bench
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}

// run starts QEMU and returns the time until the guest says that its agent listens.
func (p *plainQEMU) run(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.argv[0], p.argv[1:]...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	var said strings.Builder
	cmd.Stderr = &said
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	sc := bufio.NewScanner(out)
	for sc.Scan() {
		if strings.Contains(sc.Text(), readyLine) {
			return time.Since(begin), nil
		}
	}
	return 0, fmt.Errorf("plain QEMU ended without %q: %s", readyLine, said.String())
}
