package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// kernel measures QEMU started by hand until the agent says that it listens, with the
// distribution's kernel and with the one that `kernel build` makes. Runs alternate. The first
// time it builds that one, which takes minutes and is not measured.
func (b *bench) kernel(ctx context.Context) error {
	id, err := b.answer(ctx, "kernel", "build")
	if err != nil {
		return err
	}
	distro, err := b.plain(ctx)
	if err != nil {
		return err
	}
	built, err := b.plain(ctx, "--kernel", id)
	if err != nil {
		return err
	}
	if err := b.describeKernels(ctx); err != nil {
		return err
	}
	before, after := &sample{name: "plain QEMU, distribution's kernel"}, &sample{name: "plain QEMU, built kernel"}
	for range b.slow() {
		d, err := distro.run(ctx)
		if err != nil {
			return err
		}
		before.add(d)
		if d, err = built.run(ctx); err != nil {
			return err
		}
		after.add(d)
	}
	before.print(nil)
	after.print(before)
	return nil
}

func (b *bench) describeKernels(ctx context.Context) error {
	out, err := b.answer(ctx, "kernel", "list", "--json")
	if err != nil {
		return err
	}
	var list []struct {
		Release string
		Source  string
		Modules int
		Size    int64 `json:"disk_bytes"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return err
	}
	for _, k := range list {
		fmt.Printf("%s: %d modules, %d MiB on disk, %s\n", strings.TrimSpace(k.Release), k.Modules, k.Size>>20, k.Source)
	}
	return nil
}
