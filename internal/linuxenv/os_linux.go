package linuxenv

import (
	"math"

	"golang.org/x/sys/unix"
)

// native says that programs of Linux run on this host.
const native = true

// fence keeps a child from inheriting descriptors that this process was itself started with. What a
// child is meant to have, os/exec passes on all the same.
func fence() { _ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) }
