package build

import (
	"context"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// Flake makes an image from a guest that a Nix flake describes.
func (b *Builder) Flake(context.Context, string, string, Options) (Result, error) {
	return Result{}, machine.Errorf("build.failed", "", "not yet")
}
