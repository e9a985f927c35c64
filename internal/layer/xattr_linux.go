package layer

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// hostXattrs reads the extended attributes of an open file or, if f is nil, of what has a name
// in parent, without opening it (it may be a fifo or a device) and without following it. The
// way leads through /proc: there are no calls relative to a folder before Linux 6.13.
func hostXattrs(f, parent *os.File, name string) (map[string][]byte, error) {
	at := fmt.Sprintf("/proc/self/fd/%d/%s", parent.Fd(), name)
	list := func(p []byte) (int, error) { return unix.Llistxattr(at, p) }
	get := func(key string, p []byte) (int, error) { return unix.Lgetxattr(at, key, p) }
	if f != nil {
		list = func(p []byte) (int, error) { return unix.Flistxattr(int(f.Fd()), p) }
		get = func(key string, p []byte) (int, error) { return unix.Fgetxattr(int(f.Fd()), key, p) }
	}
	names, err := grow(list)
	if errors.Is(err, unix.ENOTSUP) || len(names) == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	attrs := map[string][]byte{}
	for key := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		value, err := grow(func(p []byte) (int, error) { return get(key, p) })
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) { // gone, or not to be had
			continue
		}
		if err != nil {
			return nil, err
		}
		attrs[key] = value
	}
	return attrs, nil
}

// grow calls a function that fills a buffer with larger ones until it fits; the kernel allows
// 64 KiB.
func grow(call func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 4 {
		p := make([]byte, size)
		n, err := call(p)
		if errors.Is(err, unix.ERANGE) && size < 1<<17 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return p[:n], nil
	}
}
