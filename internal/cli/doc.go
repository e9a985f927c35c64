// Package cli is the command line of mvmctl: it reads flags, settings and the terminal, calls
// one verb of the engine and prints the answer. One file per command.
//
// It decides nothing about machines, and it is callable as a function: Run takes arguments and
// streams, builds a fresh command tree and returns an exit code, so that tests run it without
// a process. Answers go to standard output, everything else to standard error; an error
// becomes text and an exit code in exactly one place (report.go). Only cmd/mvmctl calls it.
package cli
