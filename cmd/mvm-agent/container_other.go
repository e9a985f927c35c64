//go:build !linux

package main

import (
	"fmt"
	"io"
	"os"
)

func containerProcess() int {
	fmt.Fprintln(os.Stderr, "mvm-agent: only Linux has containers")
	return 2
}

func bridge(io.Reader, io.Writer) int { return containerProcess() }
