//go:build linux || darwin

package disk

import (
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// UsedBytes is what a file takes up on the host's disk, which for a sparse one is less than
// its size.
func UsedBytes(path string) (int64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("measuring %s: %w", path, err)
	}
	return st.Blocks * 512, nil
}

// UsedBelow is what a file, or all regular files below a folder, take up on the host's disk.
// What cannot be looked at counts nothing.
func UsedBelow(path string) int64 {
	var total int64
	_ = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if n, err := UsedBytes(p); err == nil {
				total += n
			}
		}
		return nil
	})
	return total
}
