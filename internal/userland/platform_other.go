//go:build unix && !linux

package userland

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func platformCommands() []command { return nil }

func dup2(from, to int) error { return unix.Dup2(from, to) }

func signalThisThread(sig syscall.Signal) error { return unix.Kill(unix.Getpid(), sig) }

func setProcessName(string) {}

func selfPath() string {
	path, err := os.Executable()
	if err != nil {
		return ""
	}
	return path
}
