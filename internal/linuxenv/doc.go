// Package linuxenv runs programs on Linux: directly where this host is one, and in a Lima virtual
// machine elsewhere. It finds and version-checks limactl, makes the virtual machine from a
// template of ours, copies this program for Linux into it and opens sessions: one remote process
// each, which speaks HTTP/2 over its standard input and output and ends with its caller.
//
// No command line is ever built from what a user says. limactl joins its arguments to a line for
// a shell in the virtual machine, and leaves the names of leading KEY=VALUE arguments unquoted, so
// what it gets from us is always the same words; everything else travels as JSON in the session.
//
// It is not a backend (driver/lima is, and serves its own requests in the session), knows nothing
// of machines, and never makes or starts a virtual machine unasked. driver/lima and nix call it,
// and cmd/mvmctl runs the side in the virtual machine.
package linuxenv
