package guestinit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

// Bounds of a secrets drive.
const (
	maxSecrets     = 1024
	maxSecretBytes = 16 << 20
	maxSecretDepth = 8
)

// copySecrets copies the regular files of src, dot files and folders included, to dst. Files
// become 0440 and folders 0750, all owned by root and group gid. What is neither is refused:
// a link on a secrets drive has no use that is not an abuse.
func copySecrets(src fs.FS, dst *os.Root, gid int, chown func(dst *os.Root, name string, gid int) error) error {
	count, total := 0, int64(0)
	return fs.WalkDir(src, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("reading secrets: %w", err)
		}
		if name == "." || name == "lost+found" {
			if name != "." {
				return fs.SkipDir
			}
			return nil
		}
		count++
		if count > maxSecrets || depth(name) > maxSecretDepth {
			return fmt.Errorf("secrets drive holds more than %d files or is deeper than %d", maxSecrets, maxSecretDepth)
		}
		switch {
		case d.IsDir():
			if err := dst.Mkdir(name, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("copying secrets: %w", err)
			}
		case d.Type().IsRegular():
			n, err := copySecret(src, dst, name, maxSecretBytes-total)
			total += n
			if err != nil {
				return err
			}
		default:
			return fmt.Errorf("secret %q is no regular file", path.Base(name))
		}
		if err := chown(dst, name, gid); err != nil {
			return fmt.Errorf("copying secrets: %w", err)
		}
		return nil
	})
}

func depth(name string) int {
	n := 1
	for _, c := range name {
		if c == '/' {
			n++
		}
	}
	return n
}

func copySecret(src fs.FS, dst *os.Root, name string, room int64) (int64, error) {
	in, err := src.Open(name)
	if err != nil {
		return 0, fmt.Errorf("reading secret: %w", err)
	}
	defer in.Close()
	// Removed and made anew, never opened: an open descriptor of the old one keeps the old one.
	out, err := dst.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o440)
	if errors.Is(err, fs.ErrExist) {
		if err := dst.Remove(name); err != nil {
			return 0, fmt.Errorf("replacing secret: %w", err)
		}
		out, err = dst.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o440)
	}
	if err != nil {
		return 0, fmt.Errorf("writing secret: %w", err)
	}
	n, err := io.Copy(out, io.LimitReader(in, room+1))
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err == nil && n > room {
		err = fmt.Errorf("secrets drive holds more than %d bytes", maxSecretBytes)
	}
	if err != nil {
		return n, fmt.Errorf("copying secret: %w", err)
	}
	return n, nil
}
