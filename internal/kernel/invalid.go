package kernel

import (
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// formatError is a fault of the bytes in a file, as opposed to a fault of reading them.
type formatError struct{ reason string }

func (e *formatError) Error() string { return e.reason }

// badf reports a fault in a file's contents.
func badf(format string, args ...any) error {
	return &formatError{reason: fmt.Sprintf(format, args...)}
}

// truncated turns the end of input inside a structure into a fault of the file.
func truncated(what string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return badf("%s is truncated", what)
	}
	return fmt.Errorf("reading %s: %w", what, err)
}

// asInvalid gives a fault in a kernel file its code and remedy; other errors pass unchanged.
func asInvalid(file string, err error) error {
	var bad *formatError
	if !errors.As(err, &bad) {
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			return paths.CacheError("storing the kernel", err)
		}
		return err
	}
	return &machine.Error{
		Code:    "boot.kernel_invalid",
		Message: fmt.Sprintf("%q is not a kernel that can be booted: %s", file, bad.reason),
		Remedy:  "give a Linux bzImage, vmlinux or kernel .deb with --kernel PATH, or leave --kernel out",
		Err:     err,
	}
}

// readFileLimit reads a regular file that must not be larger than limit bytes.
func readFileLimit(path string, limit int64) ([]byte, error) {
	f, _, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) > limit {
		return nil, badf("%s is larger than %d bytes", path, limit)
	}
	return raw, nil
}
