package cli

import (
	"context"
	"io"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// Engine is the verbs that the commands call. *engine.Engine is the real one.
type Engine interface {
	lifecycle
	queries
	guest
	kernels
	assets
	volumes
	images
	caches
}

type lifecycle interface {
	Up(ctx context.Context, spec machine.Spec, o engine.UpOptions) (engine.UpResult, error)
	Down(ctx context.Context, name string, o engine.DownOptions) error
	Remove(ctx context.Context, name string, force bool) error
	Pause(ctx context.Context, name string) error
	Resume(ctx context.Context, name string) error
	Wait(ctx context.Context, name string) (machine.Status, error)
}

type queries interface {
	List(ctx context.Context) ([]machine.View, error)
	Names(ctx context.Context) []string
	Inspect(ctx context.Context, name string) (engine.Detail, error)
	Logs(ctx context.Context, name string, o engine.LogOptions, emit func(engine.LogLine) error) error
}

type guest interface {
	Exec(ctx context.Context, name string, o engine.ExecOptions) (engine.ExecResult, error)
	Console(ctx context.Context, name string, o engine.ExecOptions) (engine.ExecResult, error)
	Copy(ctx context.Context, src, dst string, o engine.CopyOptions) (engine.CopyResult, error)
	Diff(ctx context.Context, name string, emit func(agentproto.Change) error) error
	Forward(ctx context.Context, name string, ports []machine.Port) ([]machine.Port, error)
	Forwards(ctx context.Context, name string) ([]machine.Port, error)
	Unforward(ctx context.Context, name string, p machine.Port) error
}

type kernels interface {
	Kernels(ctx context.Context) ([]engine.KernelInfo, error)
	FetchKernel(ctx context.Context, progress func(engine.Progress)) (engine.KernelInfo, error)
	BuildKernel(ctx context.Context, want engine.KernelBuild) (engine.KernelBuilt, error)
}

type assets interface {
	Images(ctx context.Context) ([]engine.ImageInfo, error)
	Backends(ctx context.Context) []engine.Backend
	BackendName(said string) string
	BackendNames() []string
	StartsRunners(backend string) bool
	InstallBackend(ctx context.Context, name string) error
}

type volumes interface {
	Volumes(ctx context.Context) ([]engine.VolumeInfo, error)
	Volume(ctx context.Context, name string) (engine.VolumeInfo, error)
	CreateVolume(ctx context.Context, name string, size int64) error
	RemoveVolume(ctx context.Context, name string) error
}

type images interface {
	Commit(ctx context.Context, name, image string) (engine.ImageDetail, error)
	Reset(ctx context.Context, name string) error
	Image(ctx context.Context, name string) (engine.ImageDetail, error)
	TagImage(ctx context.Context, image, name string) error
	RemoveImage(ctx context.Context, name string, force bool) error
	ExportImage(ctx context.Context, name, format, to string, w io.Writer) error
	PruneImages(ctx context.Context, which engine.Prune, dryRun bool) (engine.PrunedImages, error)
	VerifyImages(ctx context.Context, names []string, each func(engine.ImageInfo, error)) error
}

var _ Engine = (*engine.Engine)(nil)
