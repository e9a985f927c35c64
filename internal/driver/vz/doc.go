// Package vz is the driver for Apple's Virtualization.framework on macOS, through vfkit
// (https://github.com/crc-org/vfkit), a program that is signed for it: no cgo, and no signature of
// our own.
//
// It starts one vfkit per machine with a command line (args.go, a pure function) and asks its small
// REST API for three things: where the console's terminal is, whether the machine runs, and to press
// the power button. The guest is reached through a unix socket that vfkit connects to the agent's
// vsock port.
//
// What is said here of vfkit was read in its documentation and source, v0.6.3 and v0.6.4. The tests
// run a double of it (tests with Double in their names) on Linux; what only a Mac can show is in
// e2e/macos.sh. cmd/mvmctl makes the driver on macOS; the engine and the supervisor call it through
// package driver.
package vz
