package fake

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// sweepRounds bounds the hunt for processes that fork as fast as they are ended.
const sweepRounds = 100

// endMarked ends every process that has mark in its environment. It needs /proc and does
// nothing where there is none.
func endMarked(mark string) {
	for range sweepRounds {
		found := false
		dirs, _ := filepath.Glob("/proc/[0-9]*")
		for _, d := range dirs {
			env, err := os.ReadFile(d + "/environ")
			if err != nil || !marked(env, mark) {
				continue
			}
			if pid, err := strconv.Atoi(filepath.Base(d)); err == nil && pid != os.Getpid() {
				found = true
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if !found {
			return
		}
	}
}

func marked(env []byte, mark string) bool {
	for entry := range bytes.SplitSeq(env, []byte{0}) {
		if string(entry) == mark {
			return true
		}
	}
	return false
}
