package disk

import (
	"errors"
	"fmt"
)

// Errors to test for with errors.Is.
var (
	// ErrImageFull says that the content does not fit; the error is a *FullError.
	ErrImageFull = errors.New("image full")
	// ErrRefused says that an entry cannot be added as it is; the image is as it was.
	ErrRefused = errors.New("entry refused")
	// ErrNotDirectory is an ErrRefused: something on the way is not a directory.
	ErrNotDirectory = errors.New("not a directory")
	// ErrCorrupt says that an image breaks the rules of ext4, through damage or malice.
	ErrCorrupt = errors.New("ext4 image is damaged")
	// ErrUnsupported says that an image uses an ext4 feature that this package does not
	// read, or goes beyond its limits.
	ErrUnsupported = errors.New("ext4 image is not supported")
	// ErrNotExt4 says that there is no ext4 superblock.
	ErrNotExt4 = errors.New("not an ext4 image")
)

// refusedError marks errors that come before anything was changed.
type refusedError struct{ error }

// Is makes errors.Is(err, ErrRefused) true.
func (e *refusedError) Is(target error) bool { return target == ErrRefused }

func (e *refusedError) Unwrap() error { return e.error }

func refuse(format string, args ...any) error {
	return &refusedError{fmt.Errorf(format, args...)}
}

func notDirectory(path string) error { return refuse("%q is %w", path, ErrNotDirectory) }

// FullError is an ErrImageFull with its figures.
type FullError struct {
	What      string // "bytes" or "inodes"
	Needed    int64  // as far as known: for the tree up to the entry that did not fit
	Available int64
}

// Error implements error.
func (e *FullError) Error() string {
	return fmt.Sprintf("image full: %d %s needed, %d available", e.Needed, e.What, e.Available)
}

// Is makes errors.Is(err, ErrImageFull) true.
func (e *FullError) Is(target error) bool { return target == ErrImageFull }

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
}
