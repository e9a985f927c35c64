//go:build !linux

package main

import (
	"fmt"
	"os"
)

// initProcess exists on Linux only: nowhere else is this program PID 1.
func initProcess() {}

func becomeInit([]string) int {
	fmt.Fprintln(os.Stderr, "mvm-agent: only a Linux guest has an init")
	return 2
}
