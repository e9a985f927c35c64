package agent

import (
	"bytes"
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	maxXattrs     = 64       // attributes of one file
	maxXattrValue = 64 << 10 // the kernel's XATTR_SIZE_MAX
)

// copied says whether an extended attribute means the same in another place: the user's own,
// capabilities and access lists. Overlayfs's and the security modules' do not.
func copied(name string) bool {
	return strings.HasPrefix(name, "user.") || name == "security.capability" ||
		name == "system.posix_acl_access" || name == "system.posix_acl_default"
}

// readXattrs returns f's extended attributes as PAX records, nil when it has none.
func readXattrs(f *os.File) map[string]string {
	var list [16 << 10]byte
	n, err := unix.Flistxattr(int(f.Fd()), list[:])
	if err != nil || n <= 0 {
		return nil
	}
	var out map[string]string
	for name := range bytes.SplitSeq(list[:n], []byte{0}) {
		if !copied(string(name)) || len(out) == maxXattrs {
			continue
		}
		size, err := unix.Fgetxattr(int(f.Fd()), string(name), nil)
		if err != nil || size > maxXattrValue {
			continue
		}
		value := make([]byte, size)
		if size > 0 {
			if size, err = unix.Fgetxattr(int(f.Fd()), string(name), value); err != nil {
				continue
			}
		}
		if out == nil {
			out = map[string]string{}
		}
		out[xattrTar+string(name)] = string(value[:size])
	}
	return out
}

// writeXattrs sets the extended attributes in a tar entry's PAX records. A file system that
// has none of that kind is no error.
func writeXattrs(f *os.File, records map[string]string) error {
	for k, v := range records {
		name, ok := strings.CutPrefix(k, xattrTar)
		if !ok || !copied(name) {
			continue
		}
		err := unix.Fsetxattr(int(f.Fd()), name, []byte(v), 0)
		switch {
		case err == nil, errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPERM):
		default:
			return err
		}
	}
	return nil
}

// pseudo says whether a file or folder belongs to a file system that the kernel makes up.
func pseudo(f *os.File) bool {
	rc, err := f.SyscallConn()
	if err != nil {
		return false
	}
	var st unix.Statfs_t
	// Not through Fd, which makes a file blocking.
	if cerr := rc.Control(func(fd uintptr) { err = unix.Fstatfs(int(fd), &st) }); cerr != nil || err != nil {
		return false
	}
	switch int64(st.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.DEVPTS_SUPER_MAGIC, unix.CGROUP_SUPER_MAGIC,
		unix.CGROUP2_SUPER_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC,
		unix.BPF_FS_MAGIC, unix.PSTOREFS_MAGIC:
		return true
	}
	return false
}
