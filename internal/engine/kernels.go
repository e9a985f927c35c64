package engine

import (
	"context"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/kernel"
)

// Kernels lists the guest kernels in the cache, the default first.
func (e *Engine) Kernels(ctx context.Context) ([]KernelInfo, error) {
	list, err := e.KernelStore.List(ctx)
	if err != nil {
		return nil, err
	}
	users := map[string]int{}
	names, err := e.Records.Names()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if rec, err := e.Records.Load(name); err == nil && rec.KernelID != "" {
			users[rec.KernelID]++
		}
	}
	out := make([]KernelInfo, 0, len(list))
	for i, k := range list {
		info := kernelInfo(k)
		info.Default, info.InUseBy = i == 0, users[k.ID]
		out = append(out, info)
	}
	return out, nil
}

// FetchKernel downloads the newest default kernel, unless the cache has it already.
func (e *Engine) FetchKernel(ctx context.Context, progress func(Progress)) (KernelInfo, error) {
	k, err := e.KernelStore.Fetch(ctx, func(done, total int64, what string) {
		if progress != nil {
			progress(Progress{Step: what, Current: done, Total: total})
		}
	})
	if err != nil {
		return KernelInfo{}, err
	}
	return kernelInfo(k), nil
}

func kernelInfo(k kernel.Kernel) KernelInfo {
	info := KernelInfo{ID: k.ID, Release: k.Release, Arch: k.Arch, Source: k.Source}
	for _, p := range []string{k.BzImage, k.VMLinux} {
		if p != "" {
			if n, err := disk.UsedBytes(p); err == nil {
				info.Size += n
			}
		}
	}
	return info
}
