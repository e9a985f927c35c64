//go:build !linux

package kernel

import "syscall"

// Kernels are built on Linux only (findTools); elsewhere these are never called.

func makeAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func syncFS(string) error { return nil }
