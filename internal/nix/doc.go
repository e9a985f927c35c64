// Package nix runs the user's own nix: it builds the guest that a flake describes, checks flakes,
// watches a flake's folder for changes and writes the templates of the project's flake.
//
// It starts nix directly, never through a shell, reads its progress from the internal-json log
// and turns what goes wrong into one cause and one remedy. It evaluates nothing itself, puts no
// image into a store and knows nothing of machines; the result of a build is a folder of the Nix
// store with a root file system and the image's configuration (see the package of the project's
// folder nix and docs/nix.md for what makes one). Everything that a build prints is untrusted:
// lines are bounded and control characters are removed.
//
// Called by cmd/mvmctl for build, up, flake check and template init.
package nix
