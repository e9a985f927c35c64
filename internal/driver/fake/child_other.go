//go:build !linux

package fake

import "syscall"

// childAttr makes the guest a session of its own.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// fence does nothing here: the fake driver isolates nothing.
func fence() {}
