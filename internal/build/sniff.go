package build

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// FindDockerfile returns the Dockerfile that a path is, or that lies in the folder that it is;
// "" when it is something else. A file is one by its name, or by its first instruction.
func FindDockerfile(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fileError(path, err)
	}
	if !info.IsDir() {
		if is, err := isDockerfile(path); !is {
			return "", err
		}
		return path, nil
	}
	for _, name := range []string{"Dockerfile", "Containerfile"} {
		file := filepath.Join(path, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			return file, nil
		}
	}
	return "", nil
}

func isDockerfile(path string) (bool, error) {
	f, err := openRegular(path)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	base := strings.ToLower(filepath.Base(path))
	if base == "dockerfile" || base == "containerfile" || strings.HasPrefix(base, "dockerfile.") || strings.HasSuffix(base, ".dockerfile") {
		return true, nil
	}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		word, _, _ := strings.Cut(strings.ToUpper(line), " ")
		return word == "FROM" || word == "ARG", nil
	}
	return false, nil
}

// openRegular opens a file that the user named and refuses what is none.
func openRegular(path string) (*os.File, error) {
	// Without O_NONBLOCK a FIFO would hold us until somebody writes.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fileError(path, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = notRegular(path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func notRegular(path string) error {
	return machine.Usagef("input.not_regular", "give a folder, a tar file, an ext4 image or a Dockerfile", "%s is neither a file nor a folder", path)
}

func fileError(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return machine.Usagef("input.file", "check the path", "there is no %s", path)
	}
	return machine.Usagef("input.file", "check the path and its permissions", "reading %s: %w", path, err)
}
