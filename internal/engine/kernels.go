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
	users := map[string][]string{}
	names, err := e.Records.Names()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if rec, err := e.Records.Load(name); err == nil && rec.KernelID != "" {
			users[rec.KernelID] = append(users[rec.KernelID], name)
		}
	}
	out := make([]KernelInfo, 0, len(list))
	for _, k := range list {
		info := kernelInfo(k)
		info.InUseBy = append(info.InUseBy, users[k.ID]...)
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

// BuildKernel builds a kernel without modules from source, unless the cache has one of the same
// source, options and tools.
func (e *Engine) BuildKernel(ctx context.Context, want KernelBuild) (KernelBuilt, error) {
	k, made, err := e.KernelStore.Build(ctx, kernel.BuildOptions{
		Arch: want.Arch, Config: want.Config, Source: want.Source, Jobs: want.Jobs,
		Progress: func(done, total int64, what string) {
			if want.Progress != nil {
				want.Progress(Progress{Step: what, Current: done, Total: total})
			}
		},
	})
	if err != nil {
		return KernelBuilt{}, err
	}
	return KernelBuilt{KernelInfo: kernelInfo(k), Made: made}, nil
}

func kernelInfo(k kernel.Kernel) KernelInfo {
	info := KernelInfo{
		ID: k.ID, Release: k.Release, Arch: k.Arch, Source: k.Source,
		Modules: k.ModuleCount, Default: k.Default, Build: k.Build, InUseBy: []string{},
	}
	for _, p := range []string{k.BzImage, k.VMLinux} {
		if p != "" {
			if n, err := disk.UsedBytes(p); err == nil {
				info.Size += n
			}
		}
	}
	return info
}
