package qemu

// cycles reads the time stamp counter, after all earlier instructions.
func cycles() uint64
