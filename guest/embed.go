// Package guest holds what guests are made of and is no code: the options of the kernel that
// mvmctl builds, embedded so that it can build one anywhere. Package kernel, its only caller,
// does the building.
package guest

import "embed"

// Kernel returns the folder kernel: common.config, and one file for each processor in the
// kernel's own spelling.
func Kernel() embed.FS { return files }

//go:embed kernel
var files embed.FS
