// Command backends renders what the driver conformance suite said about each backend as the
// table of docs/backends.md.
//
//	go test -json -run Conformance ./internal/driver/... | go run ./scripts/backends docs/backends.md
//
// It reads the events of `go test -json` and rewrites the file between its two marks; everything
// else there is written by hand. A test of the suite that failed makes it fail as well.
package main

import (
	"fmt"
	"os"
)

func main() { os.Exit(run(os.Args[1:])) }

// run returns the exit code: 0 fine, 1 a test failed, 2 wrong usage or our own failure.
func run(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: go test -json … | backends FILE")
		return 2
	}
	runs, err := read(os.Stdin)
	if err == nil && len(runs) == 0 {
		err = fmt.Errorf("no run of the conformance suite on standard input")
	}
	var old []byte
	if err == nil {
		old, err = os.ReadFile(args[0])
	}
	var page []byte
	if err == nil {
		page, err = rewrite(old, render(runs))
	}
	if err == nil {
		err = os.WriteFile(args[0], page, 0o644) //nolint:gosec // a page of the repository
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "backends: %v\n", err)
		return 2
	}
	for _, r := range runs {
		if r.failed() {
			fmt.Fprintf(os.Stderr, "backends: tests of %s failed\n", r.title())
			return 1
		}
	}
	return 0
}
