package disk

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Values of whence for lseek(2); they differ between systems.
const (
	seekHole = 3
	seekData = 4
)

// cloneFile makes the file of out a clone of in. clonefile(2) wants a name that is not
// taken, so the clone gets one of its own and then takes the place of out's.
func cloneFile(out, in *os.File) (err error) {
	name := out.Name() + ".clone"
	if err := unix.Clonefile(in.Name(), name, unix.CLONE_NOFOLLOW); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(name)
		}
	}()
	if err := os.Chmod(name, 0o600); err != nil {
		return err
	}
	clone, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(clone.Sync(), clone.Close()); err != nil {
		return err
	}
	return os.Rename(name, out.Name())
}

// punchHole would make a stretch of a file a hole. F_PUNCHHOLE is not in x/sys, and zeros read
// the same.
func punchHole(hostFile, int64, int64) error { return errors.ErrUnsupported }

// startWriting: macOS has no such call.
func startWriting(hostFile, int64, int64) {}
