// Command testsum runs the steps of scripts/test.sh and sums up what they said.
//
//	testsum step NAME COMMAND…    run a command; show its output only when it fails
//	testsum test NAME ARGUMENTS…  run `go test -json ARGUMENTS…`; one line per package, the
//	                              output of failing tests in full
//	testsum fuzz NAME [-each D] [-budget D] [DIR…]
//	                              fuzz every target below the folders for a moment
//	testsum tagged TAG [DIR…]     print -run PATTERN and the packages of the tests that need
//	                              a build tag
//	testsum skip NAME REASON      record a step that cannot run here
//	testsum total                 print the sums; the last line is "N passed, N failed, N skipped"
//
// Each call leaves its figures as a file in the folder $TESTSUM_DIR; total reads them. It is
// a tool of this repository and no test framework: what passes and fails is for the go
// command to say.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

// run returns the exit code: 0 fine, 1 something failed, 2 wrong usage or our own failure.
func run(ctx context.Context, args []string) int {
	dir := os.Getenv("TESTSUM_DIR")
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "usage: testsum step|test|fuzz|tagged|skip|total …")
		return 2
	}
	verb, args := args[0], args[1:]
	if dir == "" && verb != "tagged" {
		fmt.Fprintln(os.Stderr, "testsum: TESTSUM_DIR is not set")
		return 2
	}
	failed, err := false, errors.New("too few arguments")
	switch {
	case verb == "step" && len(args) >= 2:
		failed, err = runStep(ctx, dir, args[0], args[1:])
	case verb == "test" && len(args) >= 2:
		failed, err = runTest(ctx, dir, args[0], args[1:])
	case verb == "fuzz" && len(args) >= 1:
		failed, err = runFuzz(ctx, dir, args[0], args[1:])
	case verb == "tagged" && len(args) >= 1:
		err = printTagged(os.Stdout, args[0], args[1:])
	case verb == "skip" && len(args) == 2:
		fmt.Printf("--   %s: skipped: %s\n", args[0], args[1])
		err = save(dir, Result{Name: args[0], Skips: []Skip{{Test: args[0], Reason: args[1]}}})
	case verb == "total" && len(args) == 0:
		failed, err = printTotal(os.Stdout, dir)
	case verb != "total":
	default:
		err = fmt.Errorf("unknown verb %q", verb)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "testsum: %s: %v\n", verb, err)
		return 2
	}
	if failed {
		return 1
	}
	return 0
}
