//go:build !linux

package engine

// madeUp names nothing: only Linux has file systems whose files the kernel makes up.
func madeUp(string) string { return "" }
