package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/process"
)

// running makes sure that the machine "bench" is up.
func (b *bench) running(ctx context.Context) error {
	_, err := b.mvmctl(ctx, "up", "-d", "--name", "bench", "minimal")
	return err
}

// exec measures a warm `exec -- true` through the whole CLI against what the guest itself needs
// to spawn that program, which the guest reports, and against an empty Go program on the host.
func (b *bench) exec(ctx context.Context) error {
	if err := b.running(ctx); err != nil {
		return err
	}
	total, guest, empty := &sample{name: "mvmctl exec bench -- true"}, &sample{name: "the guest's own spawn to exit"}, &sample{name: "empty Go program"}
	over := &sample{name: "exec above the guest's own time"}
	for i := range b.runs + 5 {
		d, err := timed(ctx, b.env, b.empty)
		if err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, b.bin, "exec", "--stats", "bench", "--", "true")
		cmd.Env = b.env
		var said strings.Builder
		cmd.Stderr = &said
		begin := time.Now()
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("exec: %w: %s", err, said.String())
		}
		whole := time.Since(begin)
		inside, err := wallTime(said.String())
		if err != nil {
			return err
		}
		if i < 5 { // the guest's page cache warms up
			continue
		}
		empty.add(d)
		total.add(whole)
		guest.add(inside)
		over.add(whole - inside)
	}
	empty.print(nil)
	guest.print(nil)
	total.print(guest)
	over.print(empty)
	return nil
}

// wallTime finds the guest's own time in what `exec --stats` prints.
func wallTime(said string) (time.Duration, error) {
	for f := range strings.FieldsSeq(strings.NewReplacer("=", " ", ",", " ").Replace(said)) {
		if d, err := time.ParseDuration(f); err == nil {
			return d, nil
		}
	}
	return 0, fmt.Errorf("no time in %q", said)
}

// bulkSize is what goes through one exec.
const bulkSize = 256 << 20

// bulk moves data through exec in both directions, with a digest at both ends, against the
// guest's own time to make or digest the same data.
func (b *bench) bulk(ctx context.Context) error {
	if err := b.running(ctx); err != nil {
		return err
	}
	const rounds = 3
	in, out := &sample{name: "256 MiB into the guest, sha256 at both ends"}, &sample{name: "256 MiB out of the guest, sha256 at both ends"}
	own := &sample{name: "the guest alone: 256 MiB through sha256"}
	for range rounds {
		begin := time.Now()
		if _, err := b.mvmctl(ctx, "exec", "bench", "--", "sh", "-c", fmt.Sprintf("head -c %d /dev/zero | sha256sum", bulkSize)); err != nil {
			return err
		}
		own.add(time.Since(begin))

		cmd := exec.CommandContext(ctx, b.bin, "exec", "bench", "--", "sha256sum")
		cmd.Env = b.env
		sent := sha256.New()
		cmd.Stdin = io.TeeReader(io.LimitReader(zeros{}, bulkSize), sent)
		begin = time.Now()
		said, err := cmd.Output()
		if err != nil || !strings.HasPrefix(string(said), hex.EncodeToString(sent.Sum(nil))) {
			return fmt.Errorf("into the guest: %w: %q", err, said)
		}
		in.add(time.Since(begin))

		cmd = exec.CommandContext(ctx, b.bin, "exec", "bench", "--", "sh", "-c", fmt.Sprintf("head -c %d /dev/zero | tee /dev/stderr | sha256sum", bulkSize))
		cmd.Env = b.env
		got := sha256.New()
		var digest strings.Builder
		cmd.Stderr, cmd.Stdout = got, &digest
		begin = time.Now()
		if err := cmd.Run(); err != nil || !strings.HasPrefix(digest.String(), hex.EncodeToString(got.Sum(nil))) {
			return fmt.Errorf("out of the guest: %w: %q", err, digest.String())
		}
		out.add(time.Since(begin))
	}
	own.print(nil)
	for _, s := range []*sample{in, out} {
		s.print(own)
		fmt.Printf("%44s %.1f MiB/s\n", "", float64(bulkSize)/(1<<20)/s.at(50).Seconds())
	}
	return nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// memory reports what a running machine costs beside the guest's own memory.
func (b *bench) memory(ctx context.Context) error {
	if err := b.running(ctx); err != nil {
		return err
	}
	said, err := b.mvmctl(ctx, "inspect", "--json", "bench")
	if err != nil {
		return err
	}
	var d struct {
		Status struct {
			Supervisor, VMM struct{ Pid int }
		}
		Agent struct {
			Memory struct {
				RSS uint64 `json:"agent_rss"`
				PSS uint64 `json:"agent_pss"`
			}
		}
	}
	if err := json.Unmarshal([]byte(said), &d); err != nil {
		return err
	}
	mib := func(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
	sup, err := process.PSS(d.Status.Supervisor.Pid)
	if err != nil {
		return err
	}
	vmm, err := process.PSS(d.Status.VMM.Pid)
	if err != nil {
		return err
	}
	info, err := os.Stat(b.agent)
	if err != nil {
		return err
	}
	fmt.Printf("%-44s %s\n", "supervisor PSS", mib(sup))
	fmt.Printf("%-44s %s\n", "VMM PSS (with the guest's touched memory)", mib(vmm))
	fmt.Printf("%-44s %s (RSS %s)\n", "agent PSS in the guest", mib(int64(d.Agent.Memory.PSS)), mib(int64(d.Agent.Memory.RSS)))
	fmt.Printf("%-44s %s\n", "agent binary", mib(info.Size()))
	return nil
}
