//go:build !linux

package main

// initProcess exists on Linux only: nowhere else is this program PID 1.
func initProcess() {}
