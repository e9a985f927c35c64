// Package machine is the vocabulary of mvmctl: what a user asks for (Spec), the same with
// every question answered (Boot), what is remembered between commands (Record), what is
// true right now (Status), and the one error type users see (Error).
//
// It holds data and validation only. It starts nothing, reads no files and imports nothing
// of ours, so that every host-side package may import it.
package machine
