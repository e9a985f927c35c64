// Package nix holds the project's Nix flake: the library with mkGuest, its lock and the
// templates, embedded so that mvmctl can write them anywhere without a network. It is not code
// that runs Nix (internal/nix is), which is also its only caller.
package nix

import "embed"

// Files returns the flake as it is in this folder.
func Files() embed.FS { return files }

//go:embed flake.nix flake.lock lib all:templates
var files embed.FS
